"""What the README of an exported folder says of text, against what its tokenizer does."""

import ast
import builtins
import json
import re

import pytest
from t5_cases import SMALL, random_weights

from r2d_jax.config import ColumnsConfig, T5Config
from r2d_jax.data.text_map import MARKERS
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.evaluation.apply import predict_file
from r2d_jax.evaluation.export import export_model
from r2d_jax.evaluation.model_card_text import readme_text
from r2d_jax.evaluation.model_folder import LoadedModel, ModelCard
from r2d_jax.model.parameters import T5Factory

TEXTS = ["predict: explain: given label: yes, no", "SpO2 < 92 %"]


def card_of(tokenizer, **changed):
    values = {
        "shape": T5Config(vocab_size=tokenizer.size),
        "labels": ("yes", "no"),
        "label_tokens": 4,
        "input_limit_tokens": 512,
        "rationale_tokens": 128,
        "compute_dtype": "float32",
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "columns": ColumnsConfig(),
    }
    return ModelCard(**values | changed)


def card_text(tokenizer, **changed):
    return readme_text(card_of(tokenizer, **changed), tokenizer)


@pytest.mark.parametrize("kind", ["real", "trained"])
def test_the_card_lists_the_markers_that_its_tokenizer_uses(shared_data, kind):
    real = kind == "real"
    tokenizer = Tokenizer.load(shared_data / "t5_tokenizer") if real else Tokenizer.train(TEXTS, 300)
    text = card_text(tokenizer)
    table = text.split("```text\n")[1].split("\n```")[0]
    listed = {}
    for cell in table.replace("]", "]\0").split("\0"):
        char, _, marker = cell.strip().rpartition(" [")
        if marker:
            listed[{"line break": "\n"}.get(char, char)] = f"[{marker}"
    assert listed == tokenizer.markers
    # By the pieces of what is encoded, apart from what the tokenizer says of itself.
    pieces = {
        char: "".join(map(tokenizer._backend.id_to_token, tokenizer.encode(f"a{char}b"))) for char in MARKERS
    }
    travels = {char for char, joined in pieces.items() if MARKERS[char].replace(" ", "\u2581") in joined}
    assert travels == set(listed)
    for part in ("<unk>", "tokenizer.json", "`</s>` stays text", "[open bracket]", "a cut takes the end"):
        assert part in text
    # Nothing is left to be filled in.
    assert set(re.findall(r"\{(\w+)\}", text)) == {"label", "question"}


def test_the_card_of_a_model_without_a_map_says_so(shared_data):
    for tokenizer in (
        Tokenizer.load(shared_data / "t5_tokenizer", text_map=False),
        Tokenizer.train(TEXTS, 300, text_map=False),
    ):
        text = card_text(tokenizer)
        assert "trained without a text map" in text
        assert "[less than]" not in text


def test_a_label_that_spells_a_value_of_the_card_stays():
    text = card_text(Tokenizer.train(TEXTS, 300), labels=("{input_limit}", "{markers}", "</s>"))
    assert 'Labels: "{input_limit}", "{markers}", "</s>".' in text


@pytest.mark.parametrize("prompt", ["given_label", "explain", "none"])
@pytest.mark.parametrize("decode", ["free", "constrained"])
def test_every_name_in_the_code_of_the_card_has_a_value(prompt, decode):
    """FOLDER had none: what was pasted ended in a NameError."""
    text = card_text(Tokenizer.train(TEXTS, 300), rationale_prompt=prompt, label_decode=decode)
    usage, *_ = (ast.parse(block.split("```")[0]) for block in text.split("```python\n")[1:])
    known, lacking = {*dir(builtins)}, set()
    for line in usage.body:
        names = [node for node in ast.walk(line) if isinstance(node, ast.Name)]
        known |= {node.id for node in names if isinstance(node.ctx, ast.Store)}
        known |= {node.arg for node in ast.walk(line) if isinstance(node, ast.arg)}
        known |= {node.name for node in ast.walk(line) if isinstance(node, ast.FunctionDef)}
        known |= {node.name for node in ast.walk(line) if isinstance(node, ast.alias)}
        lacking |= {node.id for node in names} - known
    assert not lacking


QUESTIONS = [
    "SpO2 < 92 % on air?\nNo fever.",
    "grade 3",
    "Is it [less than] (B), \"so\" or '2'?",
    "</s> <pad> <extra_id_0>",
    "日本 α ≥ é ñ  \r\n end",
    "long " * 100,
]


@pytest.mark.parametrize("prompt", ["given_label", "explain", "none"])
def test_the_code_of_the_card_gives_what_predict_gives(tmp_path, shared_data, prompt, monkeypatch):
    """Random weights: labels end in anything, so that only the very same tokens give the same rationales."""
    torch = pytest.importorskip("torch")
    tokenizer = Tokenizer.load(shared_data / "t5_tokenizer")
    shape = T5Config(**SMALL | {"vocab_size": tokenizer.size + 28}, num_decoder_layers=2)
    card = card_of(
        tokenizer, shape=shape, input_limit_tokens=64, rationale_tokens=16, rationale_prompt=prompt
    )
    factory = T5Factory(shape, "float32")
    folder = tmp_path / "export"
    export_model(LoadedModel(card, factory, random_weights(shape), tokenizer, "made"), folder)
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"id": str(n), "question": q}) + "\n" for n, q in enumerate(QUESTIONS))
    )
    predict_file(folder, rows, tmp_path / "out.jsonl", columns={"id": "id"}, batch_size=8)
    predicted = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]

    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    # As it stands there, but for the question.
    code, told = code.replace('"..."', "asked"), []
    monkeypatch.chdir(folder)
    with torch.no_grad():
        for question, row in zip(QUESTIONS, predicted, strict=True):
            found = {"asked": question, "print": lambda *texts: told.append(texts)}
            exec(compile(code, "README", "exec"), found)
            texts = (row["label"], row["rationale"])[: 1 if prompt == "none" else 2]
            assert tuple(text.strip(" ") for text in told[-1]) == texts
    assert len(set(told)) > 3
