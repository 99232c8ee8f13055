"""Label scores, BLEU and mentions against hand-worked values and independent programs."""

import json
import pathlib
import random
import subprocess
import sys
from collections.abc import Sequence

import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from r2d_jax.data.mentions import evidence_fraction, is_blank, label_agreement, rationale_names_label
from r2d_jax.data.schema import Example
from r2d_jax.errors import UserError
from r2d_jax.evaluation.metrics import label_metrics, normalise_label, outside_name
from r2d_jax.evaluation.overlap import bleu
from r2d_jax.evaluation.rationale_checks import has_text
from r2d_jax.evaluation.scoring import with_gold_rationale

LEVELS = ["resuscitation", "very urgent", "urgent", "less urgent", "non-urgent"]
label_rows = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["a", "b", "c", "d", "x", "y", ""])),
    min_size=1,
    max_size=30,
)


def columns(rows: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
    return [gold for gold, _ in rows], [predicted for _, predicted in rows]


def test_off_list_prediction_is_wrong_but_no_class() -> None:
    # yes: 2 right, F1 1. no: precision 1, recall 1/2, F1 2/3. Mean 5/6; with "nope" as a class 5/9.
    scores = label_metrics(["yes", "yes", "no", "no"], ["yes", "yes", "no", "nope"], ["yes", "no"])
    assert scores["macro_f1"] == pytest.approx(5 / 6)
    assert scores["macro_f1_published"] == pytest.approx(5 / 9)
    assert scores["accuracy"] == 0.75
    assert scores["invalid_fraction"] == 0.25
    assert scores["empty_fraction"] == 0.0


def test_one_off_list_miss_in_four_over_three_labels() -> None:
    # F1 of a, b, c: 1, 1, 2/3; mean 8/9, and 2/3 where "cc" is a fourth class with F1 0.
    scores = label_metrics(["a", "b", "c", "c"], ["a", "b", "c", "cc"], ["a", "b", "c"])
    assert scores["macro_f1"] == pytest.approx(8 / 9)
    assert scores["macro_f1_published"] == pytest.approx(2 / 3)


def test_label_without_gold_rows_is_no_class_of_macro_f1() -> None:
    # a: precision 1, recall 1/2, F1 2/3; b has no gold row.
    scores = label_metrics(["a", "a"], ["a", "b"], ["a", "b"])
    assert scores["macro_f1"] == pytest.approx(2 / 3)
    assert scores["macro_f1_labels"] == ["a"]
    assert scores["per_class"]["b"] == {
        "precision": 0.0,
        "recall": 0.0,
        "f1": 0.0,
        "support": 0,
        "predicted": 1,
    }
    assert scores["invalid_fraction"] == 0.0


def cells(*rows: tuple[str, str | None, int]) -> list[dict[str, object]]:
    return [{"gold": gold, "predicted": predicted, "count": count} for gold, predicted, count in rows]


def test_confusion_has_the_cells_that_occur_and_invalid_last() -> None:
    gold = ["a", "a", "b", "b", "b"]
    scores = label_metrics(gold, ["a", "?", "a", "b", ""], ["a", "b", "c"])
    assert scores["confusion"] == {
        "labels": ["a", "b", "c"],
        "cells": cells(("a", "a", 1), ("a", None, 1), ("b", "a", 1), ("b", "b", 1), ("b", None, 1)),
    }
    assert scores["invalid_fraction"] == pytest.approx(0.4)
    assert scores["empty_fraction"] == pytest.approx(0.2)
    assert scores["per_class"]["a"] == {
        "precision": 0.5,
        "recall": 0.5,
        "f1": 0.5,
        "support": 2,
        "predicted": 2,
    }
    json.dumps(scores, allow_nan=False)


def test_a_thousand_labels_have_no_more_cells_than_rows() -> None:
    rng, rows = random.Random(5), 1500
    labels = [f"label {number}" for number in rng.sample(range(1000), 1000)]
    gold = ["outside", *rng.choices(labels, k=rows - 1)]
    predicted = [rng.choice([one, one, rng.choice(labels), "off the list", "", "outside"]) for one in gold]
    found = label_metrics(gold, predicted, labels)["confusion"]
    assert found["labels"] == [*labels, outside_name(1)]
    allowed = set(labels)
    written = [one if one in allowed else "invalid" for one in predicted]
    dense = sklearn.metrics.confusion_matrix(gold, written, labels=[*labels, "outside", "invalid"])
    names = [*found["labels"], "invalid"]
    expected = [
        (names[row], None if names[column] == "invalid" else names[column], int(dense[row, column]))
        for row, column in zip(*dense.nonzero(), strict=True)
    ]
    assert found["cells"] == cells(*expected)
    assert sum(count for *_, count in expected) == rows >= len(found["cells"])


@pytest.mark.parametrize("name", ["None", "nan", "NA", "invalid", "1", "True"])
def test_labels_are_text_whatever_they_look_like(name: str) -> None:
    scores = label_metrics([name, "b"], [name, "zzz"], [name, "b"])
    assert scores["accuracy"] == 0.5
    assert scores["per_class"][name]["f1"] == 1.0
    assert scores["confusion"]["cells"] == cells((name, name, 1), ("b", None, 1))


def test_normalisation_folds_white_space_and_keeps_case() -> None:
    assert normalise_label("  very \n\t urgent\u00a0\u200b") == "very urgent"
    scores = label_metrics(["very urgent", "No"], [" very  urgent\n", "no"], ["very urgent", "No"])
    assert scores["accuracy"] == 0.5
    assert scores["invalid_fraction"] == 0.5


def test_gold_label_outside_the_set_can_only_be_missed() -> None:
    scores = label_metrics(["a", "new"], ["a", "new"], ["a", "b"])
    assert scores["labels_outside_set"] == [outside_name(1)]
    assert (scores["accuracy"], scores["invalid_fraction"], scores["macro_f1"]) == (0.5, 0.5, 0.5)


def test_gold_labels_outside_the_set_have_a_number_and_no_text() -> None:
    """With a wrong label column they are whole notes, and metrics.json is shared freely."""
    gold = ["note one", "note two", "note two", "a"]
    scores = label_metrics(gold, ["a", "note two", "a", "a"], ["a", "b"])
    first, second = outside_name(1), outside_name(2)
    assert "note" not in json.dumps(scores)
    assert scores["labels_outside_set"] == [first, second]
    assert {label: row["support"] for label, row in scores["per_class"].items()} == {
        "a": 1,
        "b": 0,
        first: 1,
        second: 2,
    }
    assert scores["macro_f1_labels"] == ["a", first, second]
    assert scores["majority_class"]["label"] == second
    assert scores["confusion"] == {
        "labels": ["a", "b", first, second],
        "cells": cells(("a", "a", 1), (first, "a", 1), (second, "a", 1), (second, None, 1)),
    }


def test_a_label_of_the_set_that_is_spelled_like_such_a_number_stays_apart() -> None:
    scores = label_metrics([outside_name(1), "new"], [outside_name(1), "new"], [outside_name(1)])
    assert {label: row["f1"] for label, row in scores["per_class"].items()} == {
        outside_name(1): 1.0,
        outside_name(2): 0.0,
    }


def test_empty_label_set_falls_back_to_the_gold_labels() -> None:
    scores = label_metrics(["a", "b"], ["a", "c"], [])
    assert scores["confusion"]["labels"] == ["a", "b"]
    assert scores["invalid_fraction"] == 0.5


def test_majority_class_is_scored_like_a_model_that_always_says_it() -> None:
    gold = ["a"] * 5 + ["b"] * 3 + ["c"] * 2
    baseline = label_metrics(gold, gold, ["c", "b", "a"])["majority_class"]
    always = label_metrics(gold, ["a"] * 10, ["c", "b", "a"])
    assert baseline == {"label": "a", "accuracy": 0.5, "macro_f1": pytest.approx(2 / 9)}
    assert always["accuracy"] == 0.5
    assert always["macro_f1"] == pytest.approx(2 / 9)


@pytest.mark.parametrize(
    ("gold_a", "predicted_a", "expected"),
    [(80, 100, "a"), (80, 95, "a"), (80, 94, None), (89, 96, "a"), (90, 100, None), (20, 96, "a")],
)
def test_collapse_onto_one_label(gold_a: int, predicted_a: int, expected: str | None) -> None:
    gold = ["a"] * gold_a + ["b"] * (100 - gold_a)
    assert (
        label_metrics(gold, ["a"] * predicted_a + ["b"] * (100 - predicted_a), ["b", "a"])["collapsed"]
        == expected
    )


def test_an_off_list_string_everywhere_is_no_collapse() -> None:
    scores = label_metrics(["a", "b"] * 20, ["zzz"] * 40, ["a", "b"])
    assert scores["collapsed"] is None
    assert scores["macro_f1"] == 0.0
    # Nor is one label beside them: it has half of all predictions, though all of those in the set.
    assert label_metrics(["a", "b"] * 20, ["zzz", "a"] * 20, ["a", "b"])["collapsed"] is None


@given(label_rows)
@settings(max_examples=60, deadline=None, database=None)
def test_scores_equal_scikit_learn_called_on_text(rows: list[tuple[str, str]]) -> None:
    gold, predicted = columns(rows)
    scores = label_metrics(gold, predicted, ["d", "c", "b", "a"])
    present = sorted(set(gold))
    report = sklearn.metrics.classification_report(
        gold, predicted, labels=present, output_dict=True, zero_division=0
    )
    assert scores["macro_f1"] == pytest.approx(report["macro avg"]["f1-score"])
    assert scores["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(gold, predicted))
    everything = sorted(set(gold) | set(predicted))
    published = [
        sklearn.metrics.f1_score([g == c for g in gold], [p == c for p in predicted], zero_division=0)
        for c in everything
    ]
    assert scores["macro_f1_published"] == pytest.approx(sum(published) / len(published))
    for label in present:
        row = scores["per_class"][label]
        assert row["precision"] == pytest.approx(report[label]["precision"])
        assert row["recall"] == pytest.approx(report[label]["recall"])
        assert (row["support"], row["predicted"]) == (gold.count(label), predicted.count(label))
    assert scores["invalid_fraction"] == pytest.approx(
        sum(p not in "abcd" or not p for p in predicted) / len(rows)
    )


@given(label_rows, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None, database=None)
def test_order_of_rows_and_of_the_set_changes_nothing(
    rows: list[tuple[str, str]], rng: random.Random
) -> None:
    shuffled, label_set = rows[:], list("abcd")
    rng.shuffle(shuffled)
    before, after = label_metrics(*columns(rows), label_set), label_metrics(*columns(shuffled), label_set)
    assert after == before
    rng.shuffle(label_set)
    turned = label_metrics(*columns(rows), label_set)
    assert turned["macro_f1"] == pytest.approx(before["macro_f1"])
    assert turned["per_class"] == before["per_class"]


@given(label_rows, st.sampled_from(["x", "zz", "a b", ""]))
@settings(max_examples=40, deadline=None, database=None)
def test_what_an_invalid_output_says_does_not_matter(rows: list[tuple[str, str]], other: str) -> None:
    gold, predicted = columns(rows)
    replaced = [p if p in set("abcd") else other for p in predicted]
    before, after = label_metrics(gold, predicted, "abcd"), label_metrics(gold, replaced, "abcd")
    for name in ("accuracy", "macro_f1", "invalid_fraction", "per_class", "confusion", "collapsed"):
        assert after[name] == before[name]


def test_row_counts_and_empty_gold_are_told() -> None:
    with pytest.raises(UserError, match="2 gold_labels, 1 predicted_labels"):
        label_metrics(["a", "b"], ["a"], ["a", "b"])
    with pytest.raises(UserError, match="no rows"):
        label_metrics([], [], ["a"])
    with pytest.raises(UserError, match="row 2: has an empty gold label"):
        label_metrics(["a", " "], ["a", "a"], ["a"])


OUTPUTS = ["the cat sat on the mat", "completely different words here now", "nothing in common at all"]
GOLDS = ["the cat sat on the mat", "patient has severe chest pain", "fever and cough for days"]


def sacrebleu_program(
    tmp_path: pathlib.Path, outputs: Sequence[str], golds: Sequence[str]
) -> dict[str, object]:
    (tmp_path / "out").write_text("".join(f"{text}\n" for text in outputs), encoding="utf-8")
    (tmp_path / "gold").write_text("".join(f"{text}\n" for text in golds), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "sacrebleu",
        str(tmp_path / "gold"),
        "-i",
        str(tmp_path / "out"),
        "-w",
        "6",
    ]
    done = subprocess.run([*command, "--force"], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_corpus_bleu_equals_the_sacrebleu_program(tmp_path: pathlib.Path) -> None:
    words, rng = ["SpO2", "88", "%,", "so", "the", "(adult)", "patient's", "level", "2."], random.Random(3)
    golds = [" ".join(rng.choices(words, k=rng.randint(4, 20))) for _ in range(25)]
    outputs = [" ".join(w for w in gold.split() if rng.random() < 0.8) or "x" for gold in golds]
    expected = sacrebleu_program(tmp_path, outputs, golds)
    result = bleu(outputs, golds)
    assert result["corpus"] == pytest.approx(expected["score"], abs=1e-5)
    assert result["signature"] == expected["signature"]
    assert 20 < result["corpus"] < 100


def test_one_identical_pair_among_three_does_not_score_100(tmp_path: pathlib.Path) -> None:
    result = bleu(OUTPUTS, GOLDS)
    assert result["corpus"] == pytest.approx(sacrebleu_program(tmp_path, OUTPUTS, GOLDS)["score"], abs=1e-5)
    # Of 15, 12, 9 and 6 n-grams those of the identical pair match: 6, 5, 4, 3. 16 reference words: brevity.
    by_hand = 100 * (6 / 16 * 5 / 13 * 4 / 10 * 3 / 7) ** 0.25
    assert result["corpus"] == pytest.approx(by_hand, abs=1e-6)
    assert bleu(OUTPUTS[:1], GOLDS[:1])["corpus"] == pytest.approx(100)
    assert bleu(OUTPUTS[:2], GOLDS[:2])["corpus"] > result["corpus"]
    assert result["mean_sentence"] == pytest.approx(100 / 3, abs=1)


def test_line_breaks_and_spaces_never_change_bleu() -> None:
    golds = ["1. fever\n2. cough for three days", "a\tb  c\u00a0d\u200be"]
    plain = ["1. fever 2. cough for three days", "a b c d e"]
    for outputs, references in ((plain, golds), (golds, plain), (golds, golds)):
        result = bleu(outputs, references)
        assert result["corpus"] == pytest.approx(100)
        assert result["mean_sentence"] == pytest.approx(100)


def test_short_identical_text_has_sentence_bleu_100() -> None:
    assert bleu(["no"], ["no"])["mean_sentence"] == pytest.approx(100)


def test_empty_texts_score_zero_stay_in_the_mean_and_are_counted() -> None:
    result = bleu([OUTPUTS[0], "", "word", " \n"], [GOLDS[0], "some text", "", ""])
    assert result["mean_sentence"] == pytest.approx(25)
    assert (result["empty_predictions"], result["empty_references"], result["rows"]) == (2, 2, 4)
    assert 0 < result["corpus"] < 100
    assert bleu([""], ["text"])["corpus"] == 0


def test_rows_of_a_corpus_are_exchangeable_but_pairs_are_not() -> None:
    turned = bleu(OUTPUTS[::-1], GOLDS[::-1])
    assert turned["corpus"] == pytest.approx(bleu(OUTPUTS, GOLDS)["corpus"])
    assert bleu(OUTPUTS[::-1], GOLDS)["corpus"] < turned["corpus"] / 2


@pytest.mark.parametrize("references", [[GOLDS], [[gold] for gold in GOLDS], GOLDS[:2], "abc"])
def test_nested_or_missing_references_are_told(references: list[str]) -> None:
    with pytest.raises(UserError, match=r"row counts differ|flat list"):
        bleu(OUTPUTS, references)


def test_evidence_is_found_as_whole_words_and_numbers() -> None:
    rationales = [
        "Because of CHEST\n pain.",
        "rate 125",
        "SpO2 88 % is low",
        "temperature 38.5",
        "no row evidence",
    ]
    evidence = [["fever", "chest pain"], ["rate 12"], ["SpO2 88 %"], ["temperature 38"], []]
    # Found: rows 1 and 3; row 5 is left out.
    assert evidence_fraction(rationales, evidence) == 0.5
    assert evidence_fraction(["anything"], [[]]) is None
    assert evidence_fraction(["temperature 38, flushed"], [["Temperature 38"]]) == 1.0
    with pytest.raises(UserError, match="row counts differ"):
        evidence_fraction(["a"], [])


@pytest.mark.parametrize(
    ("rationale", "label", "naming"),
    [
        ("This is very urgent.", "urgent", "other"),
        ("This is very urgent.", "very urgent", "label"),
        ("A non-urgent case", "urgent", "other"),
        ("A non urgent case", "non-urgent", "label"),
        ("A Non\u2011Urgent case", "non-urgent", "label"),
        ("A pre-urgent case", "urgent", "none"),
        ("less\nurgent", "less urgent", "label"),
        ("Urgent: pain", "urgent", "label"),
        ("non-urgent at first, but now urgent", "urgent", "label"),
        ("insurgents and urgently", "urgent", "none"),
        ("", "urgent", "none"),
        ("urgent", "", "other"),
        ("urgent", "off-list text", "other"),
        ("an off-list text", "off-list text", "label"),
    ],
)
def test_levels_named_by_a_rationale(rationale: str, label: str, naming: str) -> None:
    assert rationale_names_label(rationale, label, LEVELS) == naming
    assert rationale_names_label(rationale, label, LEVELS[::-1]) == naming


@pytest.mark.parametrize(
    ("rationale", "label", "label_set", "naming"),
    [
        ("It is not known", "no", ["yes", "no"], "none"),
        ("There is no effect, hence yes", "yes", ["yes", "no"], "label"),
        ("There is no effect", "yes", ["yes", "no"], "other"),
        ("level 10", "1", ["1", "10"], "other"),
        ("rate 1.5", "1", ["1", "2"], "none"),
        ("level 1.", "1", ["1", "2"], "label"),
        ("rate 1.5", "5", ["5", "2"], "none"),
        ("score A+ given", "A", ["A", "A+"], "other"),
        ("change of -1", "1", ["1", "-1"], "other"),
        ("(a|b)", "a|b", ["a|b", "c"], "label"),
        ("STRASSE", "straße", ["straße"], "label"),
        ("anything", "", [], "none"),
    ],
)
def test_labels_named_at_word_edges(rationale: str, label: str, label_set: list[str], naming: str) -> None:
    assert rationale_names_label(rationale, label, label_set) == naming


def test_label_agreement_shares_sum_to_one_and_labels_stay() -> None:
    labels = ["urgent", "urgent", "urgent", "non-urgent"]
    shares = label_agreement(["urgent", "non-urgent", "pain", "not urgent"], labels, LEVELS)
    assert shares == {
        "names_label_fraction": 0.25,
        "names_other_only_fraction": 0.5,
        "names_none_fraction": 0.25,
    }
    assert labels == ["urgent", "urgent", "urgent", "non-urgent"]
    assert label_agreement(["text"], ["a"], []) is None


@pytest.mark.parametrize("text", ["", " \n", "\u00a0\u3000", "\u200b", "\ufeff\u200d \u200f"])
def test_zero_width_characters_alone_are_blank(text):
    assert is_blank(text)
    assert not is_blank(f"{text}.")
    assert with_gold_rationale([Example("1", "q", "a", {"gold": text})], "gold").tolist() == [False]
    assert Example("1", "q", "a", {"gold": text}).lacks_rationale
    assert has_text([text, "a"]).tolist() == [0.0, 1.0]
