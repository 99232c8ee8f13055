"""Make a workload; in: names of a shape and of data, out: a folder with weights, token ids and texts."""

import json
import pathlib
import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax

from benchmarks.workload import (
    END_ID,
    FACTS_FILE,
    MODEL_FOLDER,
    ROWS_FILE,
    TEXTS_FILE,
    TOKENIZER_FOLDER,
)
from r2d_jax.config import T5Config, TriageConfig
from r2d_jax.data.prompts import EXPLAIN, GIVEN_LABEL, PREDICT, WIDTH_MULTIPLE, PromptBuilder, PromptTokens
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.data.triage import generate_row
from r2d_jax.errors import UserError
from r2d_jax.model.hf_format import write_hf_folder
from r2d_jax.model.known_shapes import known_shape
from r2d_jax.model.parameters import T5Factory
from r2d_jax.runtime.files import write_texts

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
INPUT_LIMIT_TOKENS = 512
RATIONALE_LIMIT_TOKENS = 256
OWN_VOCABULARY = 4096
# Drawn weights times these, by the end of the name: as they are, every position attends to all others alike and
# embeddings drown what the layers add, so that a decode writes one token for ever and much could differ unseen.
_SCALES = {
    "embedding": 0.3,
    ".q.kernel": 8.0,
    "relative_bias.table": 10.0,
    ".o.kernel": 2.0,
    ".wo.kernel": 2.0,
}

SHAPES = {
    # Without dropout, whose random bits take most of the time to compile.
    "micro": T5Config(
        vocab_size=512,
        d_model=16,
        d_ff=32,
        d_kv=8,
        num_heads=2,
        num_layers=1,
        num_decoder_layers=1,
        dropout_rate=0.0,
    ),
    "tiny": T5Config(
        vocab_size=OWN_VOCABULARY,
        d_model=128,
        d_ff=512,
        d_kv=32,
        num_heads=4,
        num_layers=2,
        num_decoder_layers=2,
    ),
    **{size: shape for size in ("small", "base", "large") if (shape := known_shape(f"t5-{size}"))},
}
DATA = ("pubmedqa", "short")

# Words of the context, the question and the rationale of PubMedQA's 1,000 labelled rows: minimum, deciles 1 and 9,
# quartiles, median and maximum. Rows made in their place have these lengths.
_SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_WORDS = {
    "question": (3, 8, 10, 13, 15, 18, 31),
    "context": (49, 135, 167, 200, 228, 264, 398),
    "rationale": (8, 20, 27, 37, 49, 62, 126),
}
_LABELS = {"yes": 552, "no": 338, "maybe": 110}
_RATIONALE_SOURCE = "llm"


class Texts(NamedTuple):
    """A row as text."""

    question: str
    label: str
    rationale: str


def pubmedqa_rows(path: pathlib.Path | None) -> tuple[list[Texts], str]:
    """The rows of pqal.jsonl and what they are, or made rows of the same lengths where the file is absent.

    Raises:
        UserError: a path was named and is no such file.
    """
    found = path or SHARED / "pubmedqa" / "pqal.jsonl"
    if not found.is_file():
        if path:
            raise UserError(str(path), "no such file", "Give pqal.jsonl, or leave the option out.")
        return list(_made_rows(1000)), "made rows with the lengths of PubMedQA PQA-L (the file was not there)"
    try:
        # Not splitlines: the texts hold other separators of lines.
        rows = [json.loads(line) for line in found.read_text(encoding="utf-8").strip().split("\n")]
        texts = [Texts(f"{row['question']} {row['context']}", row["label"], row["rationale"]) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            str(found), "no JSONL with question, context, label and rationale", "Give pqal.jsonl."
        ) from error
    return texts, "PubMedQA PQA-L"


def _made_rows(count: int) -> Iterator[Texts]:
    draw = random.Random(0)
    words = [word for row in short_rows(200)[0] for word in row.question.split()]

    # Every length as often as its share says, and no pair of lengths more than another.
    places = {name: draw.sample([(i + 0.5) / count for i in range(count)], count) for name in _WORDS}

    def text(name: str) -> str:
        place = places[name].pop()
        low = max(i for i, share in enumerate(_SHARES[:-1]) if share <= place)
        part = (place - _SHARES[low]) / (_SHARES[low + 1] - _SHARES[low])
        size = _WORDS[name][low] + part * (_WORDS[name][low + 1] - _WORDS[name][low])
        return " ".join(draw.choices(words, k=round(size)))

    for _ in range(count):
        label = draw.choices(list(_LABELS), list(_LABELS.values()))[0]
        yield Texts(f"{text('question')} {text('context')}", label, text("rationale"))


def short_rows(count: int) -> tuple[list[Texts], str]:
    """Synthetic triage notes: short inputs, labels of several tokens."""
    rows = (generate_row(TriageConfig(), 0, "train", index).example for index in range(count))
    texts = [Texts(row.question, row.label, row.rationales[_RATIONALE_SOURCE]) for row in rows]
    return texts, "synthetic triage notes of seed 0"


def _tokenizer(shape: T5Config, texts: Sequence[Texts], t5: pathlib.Path | None) -> tuple[Tokenizer, str]:
    folder = t5 or SHARED / "t5_tokenizer"
    if shape.vocab_size >= 32100 and (t5 or folder.is_dir()):
        return Tokenizer.load(folder), "T5's own"
    prompts = [template.format(question="", label="") for template in (PREDICT, EXPLAIN, GIVEN_LABEL)]
    size = min(shape.vocab_size, OWN_VOCABULARY)
    trained = Tokenizer.train([*prompts, *(text for row in texts for text in row)], size)
    return trained, f"{trained.size} pieces trained on these rows"


def make(
    folder: pathlib.Path,
    shape_name: str,
    data_name: str,
    *,
    rows: int | None = None,
    pubmedqa: pathlib.Path | None = None,
    t5_tokenizer: pathlib.Path | None = None,
    input_limit: int = INPUT_LIMIT_TOKENS,
) -> None:
    """Write a workload.

    Args:
        folder: new.
        shape_name: one of SHAPES.
        data_name: one of DATA.
        rows: at most so many; None: all of PubMedQA, 1,000 notes.
        pubmedqa: pqal.jsonl; None: beside the checkout.
        t5_tokenizer: folder of T5's vocabulary; None: beside the checkout.
        input_limit: most tokens of an encoder input.

    Raises:
        UserError: a file that was named is not there or not of this kind.
    """
    shape = SHAPES[shape_name]
    texts, source = pubmedqa_rows(pubmedqa) if data_name == "pubmedqa" else short_rows(rows or 1000)
    texts = texts[:rows]
    tokenizer, vocabulary = _tokenizer(shape, texts, t5_tokenizer)
    tokens = PromptTokens.from_tokenizer(tokenizer)
    labels = {row.label: [*tokenizer.encode(row.label), END_ID] for row in texts}
    label_tokens = max(map(len, labels.values()))
    room = input_limit // WIDTH_MULTIPLE * WIDTH_MULTIPLE - PromptBuilder(tokens, label_tokens).overhead
    encoded = [
        (
            tokenizer.encode(row.question)[:room],
            labels[row.label],
            [*tokenizer.encode(row.rationale), END_ID][:RATIONALE_LIMIT_TOKENS],
        )
        for row in texts
    ]
    params = jax.jit(T5Factory(shape).init)(jax.random.key(0))
    params = jax.tree_util.tree_map_with_path(_scaled, params)
    write_hf_folder(folder / MODEL_FOLDER, shape, params, generation={})
    write_texts(folder / TOKENIZER_FOLDER, tokenizer.files())
    prompts = {name: list(getattr(tokens, name)) for name in ("predict", "explain", "given", "then_explain")}
    _write(folder / ROWS_FILE, {"rows": encoded, "prompts": prompts, "label_tokens": label_tokens})
    _write(folder / TEXTS_FILE, texts)
    _write(
        folder / FACTS_FILE,
        {
            "rows": len(texts),
            "source": source,
            "vocabulary": vocabulary,
            "labels": len(labels),
            "longest_label_tokens": label_tokens,
            "mean_question_tokens": sum(len(row[0]) for row in encoded) / len(encoded),
            "mean_rationale_tokens": sum(len(row[2]) for row in encoded) / len(encoded),
            "input_limit_tokens": input_limit,
            "rationale_limit_tokens": RATIONALE_LIMIT_TOKENS,
            "weights": sum(leaf.size for leaf in jax.tree.leaves(params)),
        },
    )


def _scaled(path: Any, weight: jax.Array) -> jax.Array:
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    return weight * next((scale for ending, scale in _SCALES.items() if name.endswith(ending)), 1.0)


def _write(path: pathlib.Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
