"""Rows as arrays: prompts joined from tokens equal prompts tokenised as text, and a cut takes only what it may."""

import collections
import json
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from r2d_jax.config import DataConfig, TriageConfig
from r2d_jax.data.features import FeatureEncoder, balanced_weights, label_limit_tokens, question_text
from r2d_jax.data.prompts import EXPLAIN, GIVEN_LABEL, PREDICT, PromptTokens
from r2d_jax.data.schema import Example
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.data.triage import generate
from r2d_jax.errors import UserError

TRIAGE_LABELS = ("immediate", "very urgent", "urgent", "standard", "non-urgent")
PUBMED_LABELS = ("yes", "no", "maybe")
ROWS = 2000


@pytest.fixture(scope="module")
def real(shared_data):
    return Tokenizer.load(shared_data / "t5_tokenizer")


@pytest.fixture(scope="module")
def triage():
    return generate(TriageConfig(train_rows=ROWS, validation_rows=1, test_rows=1), seed=5).train


@pytest.fixture(scope="module")
def trained(triage):
    texts = [PREDICT, EXPLAIN, GIVEN_LABEL]
    for row in triage:
        texts += [row.question, row.label, row.rationales["llm"]]
    return Tokenizer.train(texts, 1000)


@pytest.fixture(scope="module")
def pubmed(shared_data):
    lines = (shared_data / "pubmedqa" / "pqal.jsonl").read_text(encoding="utf-8").strip().split("\n")
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 1000
    return [
        Example(row["id"], row["question"], row["label"], {"default": row["rationale"]}, row["context"])
        for row in rows
    ]


def joints(tokenizer, questions, labels):
    """Prompts by token splice against prompts by text: (number equal, number of all, kinds that differ)."""
    tokens = PromptTokens.from_tokenizer(tokenizer)
    label_ids = {label: tokenizer.encode(label) for label in labels}
    different, total = collections.Counter(), 0
    for question in questions:
        ids = tokenizer.encode(question)
        pairs = {
            "predict": ([*tokens.predict, *ids], PREDICT.format(question=question)),
            "explain": ([*tokens.explain, *ids], EXPLAIN.format(question=question)),
        }
        for label in labels:
            spliced = [*tokens.given, *label_ids[label], *tokens.then_explain, *ids]
            # format() would read braces of the question; both parts are put in by hand.
            text = GIVEN_LABEL.replace("{label}", label).replace("{question}", question)
            pairs[f"given {label}"] = (spliced, text)
        for kind, (spliced, text) in pairs.items():
            total += 1
            whole = tokenizer.encode(text)
            if spliced != whole:
                at = next((i for i, (a, b) in enumerate(zip(spliced, whole, strict=False)) if a != b), -1)
                different[f"{kind}: {tokenizer.decode(spliced[at : at + 3])!r}"] += 1
    return total - sum(different.values()), total, dict(different)


def check_joints(name, tokenizer, questions, labels):
    equal, total, different = joints(tokenizer, questions, labels)
    figure = (
        f"{name}: {equal} of {total} spliced prompts equal the text ({equal / total:.4%}); other: {different}"
    )
    print(figure)
    assert total == len(questions) * (2 + len(labels))
    assert equal >= 0.999 * total, figure
    return different


def test_splice_equals_text_on_pubmed_with_the_real_vocabulary(real, pubmed):
    labels = (*PUBMED_LABELS, *TRIAGE_LABELS)
    # The joint is at the beginning: what stands far behind it only takes time.
    questions = [question_text(row)[:300] for row in pubmed]
    assert check_joints("PubMedQA", real, questions, labels) == {}


@pytest.mark.parametrize("kind", ["real", "trained"])
def test_splice_equals_text_on_triage(request, kind, triage):
    tokenizer = request.getfixturevalue(kind)
    assert check_joints(f"triage, {kind}", tokenizer, [row.question for row in triage], TRIAGE_LABELS) == {}


HARD_LABELS = [
    "Type 2 diabetes",
    "stage IIIB (T4)",
    "class-4",
    "N/A",
    "1",
    "a.",
    "don't know",
    "≥ 3 days",
    "A+",
]
HARD_QUESTIONS = [
    "",
    " leading blank",
    "\nline",
    "12 y",
    "< 3",
    "'quoted'",
    "? why",
    "éclair",
    "{x}",
    ": a",
    "s",
]


@pytest.mark.parametrize("kind", ["real", "trained"])
def test_splice_on_labels_and_questions_made_to_break_it(request, kind):
    """The one kind that differs: the real vocabulary has pieces of a digit and a comma, as in "1,"."""
    tokenizer = request.getfixturevalue(kind)
    equal, total, different = joints(tokenizer, HARD_QUESTIONS, HARD_LABELS)
    allowed = {"given 1: '1, explain'": len(HARD_QUESTIONS)} if kind == "real" else {}
    assert different == allowed
    assert equal == total - sum(allowed.values())


def encoder_of(tokenizer, labels=TRIAGE_LABELS, **limits):
    return FeatureEncoder(DataConfig(**limits), tokenizer, labels)


def prompts_of(encoder, examples, source):
    """Every prompt of these rows as lists of ids, with features and shapes."""
    rows = encoder.encode(examples, source)
    shapes = encoder.shapes(rows)
    features = encoder.features(rows, shapes)
    builder = encoder.prompts
    question = (jnp.asarray(features.question_ids), jnp.asarray(features.question_length))
    label = (jnp.asarray(features.label_ids), jnp.asarray(features.label_length) - 1)
    built = {
        "predict": builder.predict(*question),
        "explain": builder.explain(*question),
        "given": builder.explain_given_label(*question, *label),
    }
    prompts = {}
    for kind, (ids, mask) in built.items():
        assert ids.shape == mask.shape == (len(examples), builder.width(shapes.question))
        assert ids.dtype == mask.dtype == jnp.int32
        kept = [np.asarray(row)[np.asarray(real) > 0].tolist() for row, real in zip(ids, mask, strict=True)]
        # The mask is one run from the left, and only padding follows it.
        for row, real, ids_kept in zip(np.asarray(ids), np.asarray(mask), kept, strict=True):
            assert real.tolist() == [1] * len(ids_kept) + [0] * (len(real) - len(ids_kept))
            assert not row[len(ids_kept) :].any()
        prompts[kind] = kept
    return prompts, features, shapes, builder


def test_arrays_on_the_device_hold_the_text_of_the_prompt(real, trained, triage):
    for tokenizer in (real, trained):
        examples = triage[:64]
        prompts, features, _, _ = prompts_of(encoder_of(tokenizer), examples, "nurse")
        for index, row in enumerate(examples):
            texts = {
                "predict": f"predict: {row.question}",
                "explain": f"explain: {row.question}",
                "given": f"given label: {row.label}, explain: {row.question}",
            }
            for kind, text in texts.items():
                assert prompts[kind][index] == [*tokenizer.encode(text), 1]
            targets = {"label": row.label, "rationale": row.rationales["nurse"]}
            for name, text in targets.items():
                ids = getattr(features, f"{name}_ids")[index]
                length = getattr(features, f"{name}_length")[index]
                assert ids[:length].tolist() == [*tokenizer.encode(text), 1]
                assert not ids[length:].any()
        assert (features.cut_questions, features.cut_rationales) == (0, 0)
        assert {array.dtype for array in features.arrays().values()} == {np.dtype(np.int32)}


@pytest.mark.parametrize("limit", [64, 100, 256, 1023, 1024])
def test_b008_a_cut_takes_only_the_end_of_question_and_context(real, pubmed, limit):
    """Instruction, label and end token are whole at every limit, and no prompt is wider than the limit."""
    encoder = encoder_of(real, PUBMED_LABELS, input_limit_tokens=limit)
    examples = pubmed[:100]
    prompts, features, shapes, builder = prompts_of(encoder, examples, "default")
    assert builder.width(shapes.question) <= limit
    cut = 0
    for index, row in enumerate(examples):
        whole = real.encode(f"{row.question} {row.context}")
        kept = whole[: shapes.question]
        cut += len(kept) < len(whole)
        assert features.question_ids[index, : features.question_length[index]].tolist() == kept
        label = real.encode(row.label)
        start = real.encode(f"given label: {row.label}, explain:")
        assert prompts["given"][index] == [*start, *kept, 1]
        first = len(encoder.prompts.tokens.given)
        assert start[first : first + len(label)] == label
        assert prompts["predict"][index] == [*real.encode("predict:"), *kept, 1]
        assert prompts["explain"][index] == [*real.encode("explain:"), *kept, 1]
    assert features.cut_questions == cut
    assert cut > 40 if limit <= 256 else cut < 10
    if limit <= 256:
        # No room is given away: the widest prompt of the longest label reaches the limit less rounding.
        assert builder.width(shapes.question) == limit // 8 * 8
        assert shapes.question == limit // 8 * 8 - encoder.prompts.overhead


def test_b008_the_question_stands_before_the_context_and_outlives_it(real):
    row = Example("1", "Is it so?", "yes", {}, "context " * 500)
    prompts, _, _, _ = prompts_of(encoder_of(real, PUBMED_LABELS, input_limit_tokens=64), [row], None)
    for (ids,) in prompts.values():
        assert "Is it so? context context" in real.decode(ids)
        assert len(ids) <= 64


@pytest.mark.parametrize("limit", [2, 5, 16, 400])
def test_b007_a_cut_rationale_has_no_end_token_and_a_whole_one_has(trained, triage, limit):
    encoder = encoder_of(trained, rationale_limit_tokens=limit)
    rows = encoder.encode(triage[:100], "llm")
    features = encoder.features(rows, encoder.shapes(rows))
    cut = 0
    for index, row in enumerate(triage[:100]):
        whole = [*trained.encode(row.rationales["llm"]), 1]
        kept = features.rationale_ids[index, : features.rationale_length[index]].tolist()
        assert kept == whole[:limit]
        assert (kept[-1] == 1) == (len(whole) <= limit)
        cut += len(whole) > limit
    assert features.cut_rationales == cut
    assert (cut == 100) == (limit <= 16)
    assert features.rationale_ids.shape[1] <= limit


def test_b007_a_label_over_its_limit_is_an_error_and_at_its_limit_is_not(real):
    label = "very urgent"
    needed = len(real.encode(label)) + 1
    config = DataConfig(label_limit_tokens=needed)
    assert label_limit_tokens(config, real, TRIAGE_LABELS[:3]) == needed
    with pytest.raises(
        UserError, match=r"label 'very urgent': it takes 3 tokens and data\.label_limit_tokens is 2"
    ):
        label_limit_tokens(DataConfig(label_limit_tokens=2), real, [label])


def test_the_label_limit_follows_from_the_longest_label(real):
    long = "acute exacerbation of chronic obstructive pulmonary disease with respiratory failure"
    assert len(real.encode(long)) > 12
    assert label_limit_tokens(DataConfig(), real, ["no", long]) == len(real.encode(long)) + 1
    prompts, features, _, _ = prompts_of(
        encoder_of(real, ["no", long], input_limit_tokens=64), [Example("1", "pain " * 200, long, {})], None
    )
    assert real.decode(prompts["given"][0]).startswith(f"given label: {long}, explain: pain pain")
    assert features.label_ids[0].tolist() == [*real.encode(long), 1]


@pytest.mark.parametrize("label", [" yes", "yes ", "a  b", "日", "a\ufb01"])
def test_b009_a_label_that_would_not_come_back_is_an_error(real, label):
    with pytest.raises(UserError, match="gives it back as"):
        label_limit_tokens(DataConfig(), real, ["no", label])


@pytest.mark.parametrize(
    "label",
    ["None", "NA", "01", "not , sure", "< 3", "≥ 3", "a, explain: b", "</s>", "A/B", "[newline]", "a\n"],
)
def test_b009_b011_any_other_label_comes_back(real, label):
    encoder = encoder_of(real, [label])
    prompts, features, _, _ = prompts_of(encoder, [Example("1", "q", label, {})], None)
    assert real.decode(features.label_ids[0].tolist()) == label
    assert real.decode(prompts["given"][0]) == f"given label: {label}, explain: q"
    assert features.label_ids[0].tolist().count(1) == 1


def test_an_input_limit_without_room_for_a_question_says_what_to_set(real):
    with pytest.raises(UserError, match=r"data\.input_limit_tokens.*Set at least (\d+)") as caught:
        encoder_of(real, ["word " * 20 + "end"], input_limit_tokens=24)
    needed = int(caught.value.fix.rstrip(".").split()[-1])
    assert encoder_of(real, ["word " * 20 + "end"], input_limit_tokens=needed).question_limit >= 1


def test_b021_empty_question_label_and_rationale_have_length_zero(real):
    prompts, features, _, _ = prompts_of(encoder_of(real), [Example("1", "", "", {})], None)
    assert features.question_length.tolist() == features.label_length.tolist() == [0]
    assert features.rationale_length.tolist() == [0]
    assert prompts["predict"] == [[*real.encode("predict:"), 1]]


def test_shapes_are_the_smallest_that_hold_all_rows(trained, triage):
    encoder = encoder_of(trained)
    few, many = encoder.encode(triage[:5], "llm"), encoder.encode(triage[5:50], "llm")
    shapes = encoder.shapes(few, many)
    longest = max(len(row.question) for row in [*few, *many])
    assert 0 <= shapes.question - longest < 8
    assert shapes.question % 8 == shapes.rationale % 8 == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(encoder.features(few, shapes)) == 5


def test_balanced_weights_are_those_of_scikit_learn():
    """B044: 80/20 labels, five classes of which one has three rows."""
    from sklearn.utils.class_weight import compute_sample_weight

    labels = ["urgent"] * 80 + ["standard"] * 20 + ["non-urgent"] * 9 + ["immediate"] * 3 + ["None"] * 7
    weights = balanced_weights(labels)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, compute_sample_weight("balanced", labels), rtol=1e-6)
    assert weights.mean() == pytest.approx(1.0)


@pytest.mark.parametrize("mapped", [True, False])
def test_lost_characters_are_counted_by_row(shared_data, mapped):
    """Two of them may share one unknown id; without the map the signs of a special token are lost, too."""
    texts = ["fever 日本 38 日", "fever, 38.5 °C", "", "a </s> b"]
    rows = [Example(str(number), text, "", {}) for number, text in enumerate(texts)]
    rows.append(Example("5", "fever", "", {}, "ж"))
    encoder = FeatureEncoder(DataConfig(), Tokenizer.load(shared_data / "t5_tokenizer", text_map=mapped), ())
    lost = encoder.lost_characters(rows, encoder.encode(rows, None))
    assert lost.tolist() == [3, 0, 0, 0 if mapped else 1, 1]
