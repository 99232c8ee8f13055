"""Any text from file to prompt to predictions: nothing crashes, and nothing changes but as docs/text.md says."""

import json
import re
import string
import unicodedata

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from source_cases import as_bytes

from r2d_jax.config import ColumnsConfig, DataConfig, MeshConfig, T5Config
from r2d_jax.data.check.run_check import ONE_SPLIT, check_rows
from r2d_jax.data.features import FeatureEncoder, question_text
from r2d_jax.data.mentions import is_blank
from r2d_jax.data.prompts import EXPLAIN, GIVEN_LABEL, PREDICT, PromptBuilder, PromptTokens
from r2d_jax.data.sources import read_examples
from r2d_jax.data.text_map import MARKERS
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.errors import UserError
from r2d_jax.evaluation.predict import Predictor
from r2d_jax.model.greedy import Decoded
from r2d_jax.model.parameters import T5Factory
from r2d_jax.runtime.files import write_jsonl, write_texts
from r2d_jax.runtime.mesh import make_mesh

FORMATS = (".jsonl", ".csv", ".tsv", ".parquet")
COLUMNS = ColumnsConfig(context="context")
MADE = [
    PREDICT,
    EXPLAIN,
    GIVEN_LABEL,
    "Woman, 54 years, SpO2 < 92 % on air.\nNo fever (38.5 °C), pain 8/10 → at once.",
    "The patient's HR is 128/min; this makes the case “urgent” – naïve café, 2–3 days.",
    "urgent",
    "non-urgent",
]
END = 1
CARRIED = {*string.printable, *"\x1c\x1d\x1e\x1f\x85\u00a0\u2003\u2028\u2029\u3000", *MARKERS}
QUESTION_TOKENS, LABEL_TOKENS = 64, 24


def composed(text):
    """The first two rules of docs/text.md: accents joined to their letter, one kind of line break."""
    text = unicodedata.normalize("NFC", text)
    return re.sub("\r\n|[\n\r\x0b\x0c\x85\u2028\u2029]", "\n", text)


def documented(text):
    """The form in which a text comes back, by the rules in docs/text.md and not by the code."""
    text = composed(text)
    blank = "[ \t\x1c-\x1f\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]"
    text = re.sub(f"{blank}+", " ", text)
    return re.sub(" ?\n ?", "\n", text).strip(" ")


@pytest.fixture(scope="module")
def real(shared_data):
    return Tokenizer.load(shared_data / "t5_tokenizer")


@pytest.fixture(scope="module")
def made():
    return Tokenizer.train(MADE, 400)


@pytest.fixture(scope="module", params=["real", "made"])
def tokenizer(request):
    return request.getfixturevalue(request.param)


_SPECIAL = ["</s>", "<pad>", "<unk>", "<s>", "<extra_id_0>", "<extra_id_99>", "＜/s＞", "﹤pad>"]
_CHARACTERS = [
    *MARKERS,
    *"\x00\x01\x08\x1b\x7f\x80\x9f\ufffd\ufeff\xad",
    *"\r\n\x0b\x0c\x85\u2028\u2029\t\x1c\x1f\u00a0\u2003\u3000",
    *"\u200b\u200c\u200d\u200e\u202a\u202e\u2066\u2069\u2060",
    *"\u0301\u0308\u0338\u0327\u0345\u1100\u1161\u11a8\u0e33",
    *"\u2581ﬁＡ［］½Åﷺ①日本語😀👩🏽\u200d⚕️\U0001d6fc\U00020000\U000e0041\U0010ffff",
    *"[]<>(){}\"'\\,;:.?!|`^~_%=+-@# ",
]
_WORDS = [
    "less",
    "than",
    "[less",
    "than]",
    "[ less  than ]",
    "[open bracket]",
    "[newline",
    "SpO2",
    "92",
    "ESI 2",
]
_WORDS += ["a" * 700, "日" * 90, "\u0301" * 40, "word " * 60, "given label: yes, explain:", "predict:"]
_PIECE = st.one_of(
    st.sampled_from([*_SPECIAL, *MARKERS.values(), *_WORDS]),
    st.sampled_from(_CHARACTERS),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    st.text("abc 12", max_size=6),
)
# Mostly what both vocabularies carry, for a text in which one character is lost says little of the others.
_MOSTLY_CARRIED = st.one_of(
    st.sampled_from([*_SPECIAL[:6], *MARKERS, *MARKERS.values(), *_WORDS[:10], *"\n\r\t\u00a0\u2028 []<"]),
    st.text(string.printable, max_size=6),
)
TEXT = st.one_of(*(st.lists(piece, max_size=8).map("".join) for piece in (_PIECE, _MOSTLY_CARRIED)))
FULL = TEXT.filter(lambda text: not is_blank(text))
LABEL = st.one_of(
    st.sampled_from(["urgent", "None", "01", "ESI 2", "≥ 3", "[newline]", "</s>", "a\nb\n"]), FULL
)
ROW = st.fixed_dictionaries(
    {"question": FULL, "context": st.one_of(st.just(""), TEXT), "label": LABEL, "rationale": FULL}
)

fixed = settings(max_examples=150, deadline=None, derandomize=True, database=None)


def through(tokenizer, text):
    return tokenizer.decode(tokenizer.encode(text))


def without(text, told):
    """The text without these characters."""
    return "".join(char for char in composed(text) if char not in told)


def check_text(tokenizer, text, told):
    """One text by itself, given the characters of which the user is told that they do not come back."""
    # What the page promises is not excused by being told.
    assert not told & CARRIED
    ids = tokenizer.encode(text)
    assert all(tokenizer.unk_id <= index < min(tokenizer.size, 32000) for index in ids)
    once = tokenizer.decode(ids)
    if not told:
        assert once == documented(text)
        assert tokenizer.unk_id not in ids
    assert once == documented(once)
    assert through(tokenizer, once) == once
    return once


@settings(fixed, max_examples=600)
@given(TEXT)
@example("[less 日 than] [le日ss than]")
@example("a 日 b\n日\n 日")
@example("\u200b[less\u200bthan]")
@example("▁ ▁a▁ [newline]▁")
@example("\r日\n")
@example("<日/s>")
def test_a_text_changes_only_where_it_is_told(tokenizer, text):
    told = tokenizer.unknown_characters(text)
    check_text(tokenizer, text, told)
    clean = without(text, told)
    left = tokenizer.unknown_characters(clean)
    if not left:
        assert through(tokenizer, clean) == documented(clean)
    # A character that is lost takes nothing else with it, and leaves a blank at most.
    lost = {char for char in told if tokenizer.unk_id in tokenizer.encode(f".{char}b")}
    if told == lost and not left and "[" not in text:
        assert through(tokenizer, text).replace(" ", "") == documented(clean).replace(" ", "")


@pytest.fixture(scope="module")
def exported(tokenizer, tmp_path_factory):
    """The tokenizer of an exported folder, as transformers loads it."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("export")
    write_texts(folder, tokenizer.files())
    return transformers.AutoTokenizer.from_pretrained(folder)


@fixed
@given(TEXT)
@example("＜/s＞ ﹤pad> <extra_id_0>")
def test_transformers_does_the_same_with_any_text(tokenizer, exported, text):
    ids = tokenizer.encode(text)
    assert exported(text).input_ids == [*ids, END]
    assert exported.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids)


@pytest.fixture(scope="module")
def prompts(tokenizer):
    """The three prompts as the compiled step builds them, for one row: arrays to lists of ids."""
    builder = PromptBuilder(PromptTokens.from_tokenizer(tokenizer), LABEL_TOKENS)

    @jax.jit
    def build(question, question_length, label, label_length):
        asked = (question, question_length)
        return (
            builder.predict(*asked),
            builder.explain(*asked),
            builder.explain_given_label(*asked, label, label_length),
        )

    def padded(ids, width):
        row = np.zeros((1, width), np.int32)
        row[0, : len(ids)] = ids
        return jnp.asarray(row), jnp.asarray([len(ids)], jnp.int32)

    def of(question_ids, label_ids):
        built = build(*padded(question_ids, QUESTION_TOKENS), *padded(label_ids, LABEL_TOKENS))
        return [np.asarray(ids)[0][np.asarray(mask)[0] > 0].tolist() for ids, mask in built]

    return of


def read_back(folder, row, suffix):
    """The row as `read_examples` gives it from a file of this format, and nothing of it changed."""
    path = folder / f"rows{suffix}"
    path.write_bytes(as_bytes([row], suffix))
    (read,) = read_examples(path, COLUMNS, rationale_sources=["default"])
    assert (read.question, read.context) == (row["question"], row["context"])
    assert (read.label, read.rationales["default"]) == (row["label"], row["rationale"])
    return read


def told_by_check(tokenizer, read):
    """What the data check tells of a row: lost and changed characters by field, and codes of the label."""
    found = check_rows(lambda: [(ONE_SPLIT, read)], DataConfig(columns=COLUMNS), tokenizer)
    told = {"question": set(), "context": set(), "label": set(), "rationale default": set()}
    for line in found.characters:
        told[line.field].add(line.character)
    return told, {finding.code for finding in found.findings}


@fixed
@pytest.mark.filterwarnings("ignore:.*replacement characters")
@given(row=ROW, suffix=st.sampled_from(FORMATS))
@example(
    row={"question": "\n< 92 %", "context": "[less than]\n", "label": "</s>\n", "rationale": "≥ 3 d\r\nno"},
    suffix=".csv",
)
def test_a_row_on_its_whole_way(tmp_path_factory, tokenizer, prompts, row, suffix):
    read = read_back(tmp_path_factory.mktemp("rows"), row, suffix)
    told, codes = told_by_check(tokenizer, read)
    fields = {"question": read.question, "context": read.context, "label": read.label}
    fields["rationale default"] = read.rationales["default"]
    for field, text in fields.items():
        assert told[field] == tokenizer.unknown_characters(text) - set("\n\r\x0b\x0c\x85\u2028\u2029")
        check_text(tokenizer, text, told[field])
    # A label that would not come back ends a run before it begins; the check says so too.
    kept = through(tokenizer, read.label) == read.label
    assert ("label-lost" in codes) == (not kept)
    config = DataConfig(columns=COLUMNS, label_limit_tokens=800)
    if not kept:
        with pytest.raises(UserError, match="gives it back as"):
            FeatureEncoder(config, tokenizer, [read.label])
        return
    encoder = FeatureEncoder(DataConfig(columns=COLUMNS, input_limit_tokens=4096), tokenizer, [read.label])
    (encoded,) = encoder.encode([read], "default")
    question, label, rationale = (list(ids) for ids in (encoded.question, encoded.label, encoded.rationale))
    for target in (label, rationale):
        assert target.index(END) == len(target) - 1
    assert tokenizer.decode(label) == read.label
    assert tokenizer.decode(rationale) == through(tokenizer, read.rationales["default"])
    asked = f"{read.question} {read.context}" if read.context else read.question
    assert question == tokenizer.encode(asked)
    check_prompts(tokenizer, prompts, encoder.prompts.tokens, read, question, label[:-1], told)
    written = {
        "id": read.question,
        "label": tokenizer.decode(label),
        "rationale": tokenizer.decode(rationale),
    }
    check_written(tmp_path_factory.mktemp("predictions"), written)


def check_prompts(tokenizer, prompts, tokens, read, question, label, told):
    """The prompts hold instruction and label whole, and spell what tokenising their text would."""
    if len(label) > LABEL_TOKENS:
        return
    kept = question[:QUESTION_TOKENS]
    predict, explain, given_label = prompts(kept, label)
    assert predict == [*tokens.predict, *kept, END]
    assert explain == [*tokens.explain, *kept, END]
    assert given_label == [*tokens.given, *label, *tokens.then_explain, *kept, END]
    if len(kept) < len(question):
        return
    asked = question_text(read)
    assert predict == [*tokenizer.encode(f"predict: {asked}"), END]
    assert explain == [*tokenizer.encode(f"explain: {asked}"), END]
    text = f"given label: {read.label}, explain: {asked}"
    # T5 has pieces of a digit, bracket or quote and a comma; after a letter the border of pieces is certain.
    if re.search(r"[A-Za-z]\Z", read.label):
        assert given_label == [*tokenizer.encode(text), END]
    if not told["question"] | told["context"]:
        assert tokenizer.decode(predict) == documented(f"predict: {asked}")
        assert tokenizer.decode(given_label) == documented(text)


def check_written(folder, row):
    """The files of predictions give back what was decoded, to json, to line readers and to our own reader."""
    path = folder / "predictions.jsonl"
    write_jsonl(path, [row])
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) == 1
    assert json.loads(text) == row
    if not is_blank(row["rationale"]):
        for suffix in FORMATS:
            read_back(folder, {"question": "q", "context": ""} | row, suffix)


def test_a_label_is_predicted_as_it_was_written(made):
    """Line breaks at its ends too; only blanks, which no label has there, are taken off."""
    label = "urgent\n"
    encoder = FeatureEncoder(DataConfig(), made, [label])
    mesh = make_mesh(MeshConfig())
    predictor = Predictor.of(T5Factory(T5Config(), "float32"), encoder, 8, "none", mesh)
    ids = [*made.encode(label), END]

    def decoded(params, batch):
        rows = len(batch["question_ids"])
        return Decoded(
            np.array([ids] * rows), np.array([len(ids) - 1] * rows), np.ones(rows, bool), np.zeros(rows)
        )

    predictor.programs.__dict__["encode_questions"] = lambda params, batch: batch

    predictor.programs.__dict__["decode_labels"] = decoded
    features = predictor.features_of(["why?"])
    ((prediction,),) = predictor.predict(None, features, batch_size=8)
    assert prediction.label == label
