"""Inputs without what a rationale cites: texts by hand, models whose reason is known, and a whole evaluation."""

import dataclasses
import itertools
import json
import types

import jax
import numpy as np
import pytest
from t5_cases import SMALL, random_weights

from r2d_jax.config import DataConfig, EvaluationConfig, MeshConfig, T5Config
from r2d_jax.data.features import FeatureEncoder, question_text
from r2d_jax.data.schema import Example
from r2d_jax.data.statements import STATEMENT_RULES
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.errors import UserError
from r2d_jax.evaluation import plots
from r2d_jax.evaluation.ablation_outcomes import Measured, measure
from r2d_jax.evaluation.ablations import VARIANTS, Ablation, ablate, chosen_rows, part_of, seen_part
from r2d_jax.evaluation.citations import kept_text, random_sentences
from r2d_jax.evaluation.evaluate import evaluate_rows
from r2d_jax.evaluation.faithfulness import faithfulness
from r2d_jax.evaluation.model_folder import LoadedModel
from r2d_jax.evaluation.predict import Prediction, Predictor
from r2d_jax.evaluation.rationale_checks import Flip
from r2d_jax.model.parameters import T5Factory
from r2d_jax.runtime.mesh import make_mesh

LABELS = ("urgent", "standard")
WORDS = ["fever", "pain", "cough", "rash", "since", "two", "days", "because", "no", "bleed", "stable", "gait"]


# Nearly all of the time goes into compiling.
pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["predict: explain: given label: , . ", *LABELS, *WORDS * 3], 120)


@pytest.fixture(scope="module")
def encoder(tokenizer):
    return FeatureEncoder(DataConfig(), tokenizer, LABELS)


# Texts


def test_the_texts_of_a_row_by_hand(encoder):
    example = Example("1", "Is it bad?", "urgent", {}, context="Fever.  Pain since\nCough.\n\nRash two days.")
    (one,) = ablate([example], ["Cough, and a rash for two days."], ["urgent"], encoder, rows=1, seed=3)
    drawn = random_sentences(2, 4, seed=3, row=0)
    sentences = ["Fever.", "Pain since", "Cough.", "Rash two days."]
    assert one.found.cited == (2, 3)
    assert [question_text(example)[start:end] for start, end in one.cited] == sentences[2:]
    assert [" ".join(text.split()) for text in one.texts] == [
        "Is it bad? Fever. Pain since Cough. Rash two days.",
        "Is it bad? Fever. Pain since",
        "Is it bad? " + " ".join(text for place, text in enumerate(sentences) if place not in drawn),
        "Is it bad? Cough. Rash two days.",
        "Is it bad? " + " ".join(sentences[place] for place in drawn),
    ]
    assert one.texts[0] == question_text(example)
    assert one.texts[3] == "Is it bad? Cough.\n\nRash two days."
    assert one.removed_words == (4 / 7, sum(len(sentences[place].split()) for place in drawn) / 7)


@pytest.mark.parametrize(
    ("rationale", "cited"),
    [("Nothing of it.", 0), ("Fever and cough.", 2), ("", 0)],
)
def test_rows_that_cannot_be_compared_have_no_texts(encoder, rationale, cited):
    (one,) = ablate([Example("1", "Fever. Cough.", "a", {})], [rationale], ["a"], encoder, rows=1)
    assert (len(one.found.cited), one.texts) == (cited, ())


def test_the_label_cites_nothing(encoder):
    example = Example("1", "No urgent need. Fever.", "a", {})
    for label, cited in (("urgent", ()), ("standard", (0,))):
        (one,) = ablate([example], ["So it is urgent."], [label], encoder, rows=1)
        assert one.found.cited == cited


def test_random_sentences_depend_on_seed_and_row_alone():
    draws = [random_sentences(2, 5, seed=0, row=row) for row in range(400)]
    assert draws == [random_sentences(2, 5, seed=0, row=row) for row in range(400)]
    assert draws != [random_sentences(2, 5, seed=1, row=row) for row in range(400)]
    assert all(len(set(draw)) == 2 and draw == tuple(sorted(draw)) for draw in draws)
    # Each of the ten pairs is drawn 40 times, give or take four standard deviations.
    counts = [draws.count(pair) for pair in itertools.combinations(range(5), 2)]
    assert sum(counts) == 400
    assert all(16 <= count <= 64 for count in counts)


def test_only_what_the_model_sees_is_cited_and_removed(tokenizer):
    sentences = ["fever since two days.", "pain.", "cough because rash.", "bleed."]
    example = Example("1", "pain", "urgent", {}, context=" ".join(sentences))
    widths = [len(tokenizer.encode("pain " + " ".join(sentences[:count]))) for count in range(5)]
    for limit, seen in ((widths[4], 4), (widths[4] - 1, 3), (widths[2], 2), (widths[1] - 1, 0)):
        encoder = types.SimpleNamespace(tokenizer=tokenizer, question_limit=limit)
        part = seen_part(part_of(example), encoder)
        assert part == ("pain ", " ".join(sentences[:seen]))
        (one,) = ablate([example], ["A cough, and a bleed."], ["urgent"], encoder, rows=1)
        assert one.found.cited == tuple(place for place in (2, 3) if place < seen)
        assert len(one.found.sentences) == seen
        assert all(len(tokenizer.encode(text)) <= limit for text in one.texts)


def test_rows_are_evenly_spaced():
    assert chosen_rows(10, 4) == [0, 3, 6, 9]
    assert chosen_rows(3, 200) == [0, 1, 2]
    assert chosen_rows(5, 0) == []
    assert kept_text("A.  B.\nC.", [(0, 2), (4, 6), (7, 9)], {0, 2}) == "A.  C."


# Models whose reason is known


class KnownReason:
    """A model that says urgent where the text has "bleed", and whose probability of it is 0.9 then, else 0.2."""

    def __init__(self):
        self.texts = []

    def features_of(self, texts):
        self.texts += texts
        return texts

    def predict(self, params, features, batch_size, *, rationales, score):
        assert not rationales
        for start in range(0, len(features), batch_size):
            texts = features[start : start + batch_size]
            scores = score(texts) if score else [None] * len(texts)
            yield [
                Prediction(LABELS["bleed" not in text], True, 1.0, log_probs=log_probs)
                for text, log_probs in zip(texts, scores, strict=True)
            ]

    @staticmethod
    def score_labels(texts):
        urgent = [0.9 if "bleed" in text else 0.2 for text in texts]
        # Not normalised, as the probabilities of texts are not.
        return [np.log(np.float32([p, 1 - p])) - 3 for p in urgent]


CASES = "fever since two days. {} pain in back. gait stable. rash because cough."


def known(encoder, rationale, rows=60, bleeding=lambda row: row % 2 == 0, scored=True):
    examples = [
        Example(str(row), CASES.format(finding), LABELS[row % 2], {"gold": rationale})
        for row in range(rows)
        for finding in ["a bleed." if bleeding(row) else "no itch."]
    ]
    predicted = [LABELS["bleed" not in example.question] for example in examples]
    rationales = [rationale] * rows
    ablations = ablate(examples, rationales, predicted, encoder, rows=rows)
    model = KnownReason()
    score = model.score_labels if scored else None
    measured = measure(model, None, ablations, 7, labels=LABELS, score_labels=score)
    assert len(model.texts) == 5 * len(measured)
    return faithfulness(examples, rationales, predicted, "gold", ablations, measured, [], LABELS)


def test_a_rationale_that_gives_the_reason(encoder):
    section = known(encoder, "There is a bleed.", bleeding=lambda row: True).section
    assert (section["rows"], section["compared_rows"], section["probability_rows"]) == (60, 60, 60)
    removed, kept = section["comprehensiveness"], section["sufficiency"]
    assert (removed["cited"], removed["cited_change"]) == (pytest.approx(0.7), 1.0)
    assert (kept["cited"], kept["cited_change"]) == (pytest.approx(0.0), 0.0)
    # One of five sentences at random is the bleed in one of five rows.
    share = removed["random_change"]
    assert 0.02 < share < 0.4
    assert kept["random_change"] == pytest.approx(1 - share)
    assert (removed["random"], kept["random"]) == (
        pytest.approx(0.7 * share),
        pytest.approx(0.7 * (1 - share)),
    )
    assert removed["difference"] == pytest.approx(0.7 * (1 - share))
    assert kept["change_difference"] == pytest.approx(share - 1)


def test_a_rationale_that_gives_another_reason(encoder):
    section = known(encoder, "There is back pain.", bleeding=lambda row: True).section
    removed, kept = section["comprehensiveness"], section["sufficiency"]
    assert (removed["cited"], removed["cited_change"]) == (pytest.approx(0.0), 0.0)
    assert (kept["cited"], kept["cited_change"]) == (pytest.approx(0.7), 1.0)
    assert removed["difference"] < 0 < kept["difference"]


def test_rows_where_nothing_or_all_is_cited_are_counted_apart(encoder):
    found = known(encoder, "There is a bleed.")
    section = found.section
    assert (section["rows"], section["compared_rows"], section["nothing_cited_rows"]) == (60, 30, 30)
    assert section["all_cited_rows"] == 0
    values = found.rows["faithfulness.comprehensiveness.cited"]
    assert np.isfinite(values).tolist() == [True, False] * 30
    assert [line["ablation"] is None for line in found.lines] == [False, True] * 30
    assert [len(line["cited"]) for line in found.lines] == [1, 0] * 30
    every = "Fever since two days, a bleed, back pain, stable gait, rash because cough."
    section = known(encoder, every, bleeding=lambda row: True).section
    assert (section["compared_rows"], section["all_cited_rows"]) == (0, 60)
    assert section["comprehensiveness"]["cited"] is None
    assert section["cited_words_fraction"] is None


def test_without_probabilities_labels_are_compared(encoder):
    found = known(encoder, "There is a bleed.", scored=False)
    assert found.section["comprehensiveness"]["cited"] is None
    assert found.section["comprehensiveness"]["cited_change"] == 1.0
    assert found.section["probability_rows"] == 0
    assert not [name for name in found.statistics if name.endswith((".cited", ".random", ".difference"))]
    assert found.lines[0]["ablation"]["probability"] == dict.fromkeys(VARIANTS)


def test_an_output_that_is_no_label_has_no_probability():
    texts = ("a", "b", "c", "d", "e")
    ablations = [Ablation(4, 0, None), Ablation(7, 0, None, texts)]
    model = KnownReason()
    model.predict = lambda *_, **__: iter([[Prediction("odd", True, 1.0, log_probs=np.zeros(2))] * 5])
    (one,) = measure(model, None, ablations, 8, labels=LABELS, score_labels=model.score_labels)
    assert (one.row, one.labels) == (7, ("odd",) * 5)
    assert np.isnan(one.probabilities).all()
    assert measure(model, None, ablations[:1], 8) == []


def test_figures_and_lines_by_hand():
    examples = [
        Example("one", "Fever. HR 124.", "urgent", {"gold": "Fever."}),
        Example("two", "No fever.", "standard", {"gold": "Shock."}),
    ]
    measured = [
        Measured(1, ("urgent", "standard", "urgent", " urgent", "no"), np.array([0.8, 0.3, 0.7, 0.9, 0.4]))
    ]
    flips = [
        Flip(1, "standard", "A standard one.", "standard", True),
        Flip(1, "urgent", "A text.", "standard", False),
    ]
    found = faithfulness(
        examples, ["Pulse 120, fever.", "A fever."], ["urgent", "urgent"], "gold", [], measured, flips, LABELS
    )
    removed, kept = found.section["comprehensiveness"], found.section["sufficiency"]
    assert [removed[name] for name in ("cited", "random", "difference")] == pytest.approx([0.5, 0.1, 0.4])
    assert [kept[name] for name in ("cited", "random", "difference")] == pytest.approx([-0.1, 0.4, -0.5])
    assert [removed[name] for name in ("cited_change", "random_change")] == [1.0, 0.0]
    assert [kept[name] for name in ("cited_change", "random_change", "change_difference")] == [0.0, 1.0, -1.0]
    statements = {
        "rationales": 2,
        "numbers": 1,
        "findings": 3,
        "unsupported_numbers_fraction": 1.0,
        "unsupported_findings_fraction": pytest.approx(1 / 3),
        "contradicted_findings_fraction": pytest.approx(1 / 3),
        "rationales_with_unsupported_number_fraction": 0.5,
        "rationales_with_unsupported_finding_fraction": 0.5,
        "rationales_with_contradiction_fraction": 0.5,
    }
    assert found.section["statements"] == statements
    gold = found.section["gold_statements"]
    assert (gold["unsupported_findings_fraction"], gold["unsupported_numbers_fraction"]) == (0.5, None)
    rate = found.statistics["faithfulness.statements.unsupported_findings_fraction"]
    for sample, wanted in (([0, 1], 1 / 3), ([0, 0], 0.0), ([1, 1], 1.0), ([0, 0, 1], 1 / 5)):
        assert rate(np.array(sample)) == pytest.approx(wanted)
    assert found.lines[0] == {
        "id": "one",
        "sentences": 2,
        "cited": [[0, 6], [7, 14]],
        "numbers": 1,
        "findings": 2,
        "unsupported": [{"start": 6, "end": 9, "kind": "number", "contradicted": False}],
        "ablation": None,
        "label_flip": None,
    }
    assert found.lines[1]["ablation"] == {
        "probability": dict(zip(VARIANTS, (0.8, 0.3, 0.7, 0.9, 0.4), strict=True)),
        "label_changes": dict(zip(VARIANTS[1:], (True, False, False, True), strict=True)),
    }
    assert found.lines[1]["label_flip"] == {
        "flips": 2,
        "changed_fraction": 0.5,
        "names_given_fraction": 0.5,
        "names_other_fraction": 0.0,
        "label_follows_fraction": 0.5,
    }


# A whole evaluation


FINDINGS = ["fever", "pain", "cough", "rash", "bleed", "gait", "stable", "itch"]


class Citing(Predictor):
    """Labels as the model gives them, and rationales that cite something; those of random weights never do."""

    def predict(self, params, features, batch_size, *, rationales=True, score=None):
        row = 0
        for batch in super().predict(params, features, batch_size, rationales=False, score=score):
            texts = [f"It has {FINDINGS[number % 8]}." for number in range(row, row + len(batch))]
            row += len(batch)
            yield [
                dataclasses.replace(one, rationale=text if rationales else "")
                for one, text in zip(batch, texts, strict=True)
            ]


@pytest.fixture(scope="module")
def evaluated(encoder, tokenizer, tmp_path_factory):
    """Sixteen rows by a small model with random weights, on one device."""
    rng = np.random.default_rng(5)
    examples = [
        Example(
            f"case {row}",
            " ".join(f"{word}." for word in rng.permutation(FINDINGS)[:6]),
            LABELS[row % 2],
            {"a": "no"},
        )
        for row in range(16)
    ]
    shape = T5Config(**SMALL | {"vocab_size": tokenizer.size, "num_layers": 1}, num_decoder_layers=1)
    predictor = Citing.of(
        T5Factory(shape), encoder, 12, "given_label", make_mesh(MeshConfig(), jax.devices()[:1])
    )
    weights = random_weights(shape, seed=3)
    model = LoadedModel(
        types.SimpleNamespace(labels=LABELS), predictor.programs.factory, weights, tokenizer, "x"
    )
    encoded = encoder.encode(examples, "a")
    features = encoder.features(encoded, encoder.shapes(encoded))
    folder = tmp_path_factory.mktemp("evaluation")
    settings = EvaluationConfig(batch_size=16, flip_rows=0, resamples=50, faithfulness_rows=12)
    metrics = evaluate_rows(model, predictor, examples, features, "a", settings=settings, folder=folder)
    return types.SimpleNamespace(
        examples=examples, predictor=predictor, model=model, features=features, folder=folder, metrics=metrics
    )


def lines_of(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_an_evaluation_tells_reasons_and_no_text(evaluated):
    section = json.loads((evaluated.folder / "metrics.json").read_text())["faithfulness"]
    assert section == evaluated.metrics["faithfulness"]
    assert section["rules"] == STATEMENT_RULES
    lines = lines_of(evaluated.folder, "faithfulness.jsonl")
    assert [line["id"] for line in lines] == [example.row_id for example in evaluated.examples]
    compared = [line for line in lines if line["ablation"]]
    assert (section["rows"], section["compared_rows"]) == (12, len(compared))
    assert 4 < len(compared) < 12
    changes = [line["ablation"]["label_changes"] for line in compared]
    for name, variant in (("comprehensiveness", "cited_removed"), ("sufficiency", "cited_kept")):
        share = np.mean([change[variant] for change in changes])
        assert section[name]["cited_change"] == pytest.approx(share)
        assert f"faithfulness.{name}.cited_change" in evaluated.metrics["intervals"]
    assert any(change["cited_removed"] for change in changes)
    assert not all(change["cited_removed"] for change in changes)
    written = (evaluated.folder / "faithfulness.jsonl").read_text()
    assert not [word for word in (*FINDINGS, "It has") if word in written]
    scores = lines_of(evaluated.folder, "row_scores.jsonl")
    parts = [row["faithfulness.sufficiency.random_change"] for row in scores]
    assert np.mean([part for part in parts if part is not None]) == pytest.approx(
        section["sufficiency"]["random_change"]
    )


def test_labels_are_those_of_the_texts_alone(evaluated):
    """Each ablated text is predicted again, as an input of its own."""
    predictions = lines_of(evaluated.folder, "predictions.jsonl")
    rationales, labels = ([row[name] for row in predictions] for name in ("rationale", "label"))
    ablations = ablate(evaluated.examples, rationales, labels, evaluated.predictor.encoder, rows=12)
    lines = lines_of(evaluated.folder, "faithfulness.jsonl")
    texts = {one.row: one.texts for one in ablations if one.texts}
    assert list(texts) == [row for row, line in enumerate(lines) if line["ablation"]]
    for row, some in texts.items():
        examples = [Example(str(place), text, "", {}) for place, text in enumerate(some)]
        encoded = evaluated.predictor.encoder.encode([*evaluated.examples, *examples], None)
        features = evaluated.predictor.encoder.features(encoded, evaluated.predictor.encoder.shapes(encoded))
        found = list(
            itertools.chain(
                *evaluated.predictor.predict(evaluated.model.params, features, 16, rationales=False)
            )
        )[len(evaluated.examples) :]
        assert found[0].label == labels[row]
        assert lines[row]["ablation"]["label_changes"] == {
            variant: one.label != labels[row] for variant, one in zip(VARIANTS[1:], found[1:], strict=True)
        }


def test_statements_are_told_where_nothing_is_ablated(evaluated, tmp_path):
    settings = EvaluationConfig(batch_size=16, rationale_checks=False, resamples=0)
    metrics = evaluate_rows(
        evaluated.model,
        evaluated.predictor,
        evaluated.examples,
        evaluated.features,
        None,
        settings=settings,
        folder=tmp_path,
    )
    section = metrics["faithfulness"]
    assert (section["rows"], section["gold_statements"]) == (0, None)
    assert section["statements"] == evaluated.metrics["faithfulness"]["statements"]
    assert len(lines_of(tmp_path, "faithfulness.jsonl")) == 16


def test_no_process_ends_before_the_figures_are_written(evaluated, tmp_path, monkeypatch):
    """One that has ended waits for the others at its exit, but not long."""
    there = []
    monkeypatch.setattr(
        "r2d_jax.evaluation.evaluate.wait_for_all",
        lambda _: there.append((tmp_path / "metrics.json").exists()),
    )
    settings = EvaluationConfig(batch_size=16, rationale_checks=False, resamples=0)
    rows = (evaluated.examples, evaluated.features, None)
    evaluate_rows(evaluated.model, evaluated.predictor, *rows, settings=settings, folder=tmp_path)
    assert there == [True]


class Collapsed(Predictor):
    """The model's labels, and for each the one text of its label."""

    def predict(self, params, features, batch_size, *, rationales=True, score=None):
        for batch in super().predict(params, features, batch_size, rationales=False, score=score):
            yield [dataclasses.replace(one, rationale=f"So {one.label}.") for one in batch]


def test_a_model_that_writes_one_text_for_each_label_is_found(evaluated, tmp_path):
    model, encoder = evaluated.model, evaluated.predictor.encoder
    examples = [
        dataclasses.replace(example, row_id=f"{copy}", rationales={"a": f"{word} {example.question}"})
        for copy, word in enumerate(["pain", "cough", "rash", "bleed"])
        for example in evaluated.examples
    ]
    predictor = Collapsed.of(model.factory, encoder, 12, "given_label", evaluated.predictor.programs.mesh)
    encoded = encoder.encode(examples, "a")
    features = encoder.features(encoded, encoder.shapes(encoded))
    settings = EvaluationConfig(batch_size=16, rationale_checks=False, resamples=0)
    metrics = evaluate_rows(model, predictor, examples, features, "a", settings=settings, folder=tmp_path)
    texts = metrics["faithfulness"]["texts"]
    labels = len({line["label"] for line in lines_of(tmp_path, "predictions.jsonl")})
    assert (texts["rows"], texts["distinct_fraction"]) == (64, labels / 64)
    assert texts["gold_distinct_fraction"] == 1.0
    assert texts["repeated"]
    # Rows without a gold rationale have no part in the comparison.
    few = [dataclasses.replace(one, rationales={"a": " "}) for one in examples[:30]] + examples[30:]
    metrics = evaluate_rows(model, predictor, few, features, "a", settings=settings, folder=tmp_path)
    texts = metrics["faithfulness"]["texts"]
    assert (texts["rows"], texts["gold_distinct_fraction"], texts["repeated"]) == (34, 1.0, False)
    metrics = evaluate_rows(model, predictor, few, features, None, settings=settings, folder=tmp_path)
    texts = metrics["faithfulness"]["texts"]
    assert (texts["rows"], texts["gold_distinct_fraction"], texts["repeated"]) == (64, None, False)


# The report


@pytest.fixture
def reported(tmp_path, monkeypatch):
    """A run whose cases have reasons, other plots left out; the module that makes such runs tests the rest."""
    from test_html_report import Run

    for name in ("curves", "dots", "reliability"):
        monkeypatch.setattr(plots, name, lambda *_, **__: "<svg></svg>")

    run = Run(tmp_path / "method")
    section = {
        "rows": 10,
        "compared_rows": 7,
        "nothing_cited_rows": 2,
        "all_cited_rows": 1,
        "cited_words_fraction": 0.25,
        "random_words_fraction": 0.2,
        "comprehensiveness": {"cited": 0.4375, "random": 0.125, "difference": 0.3125, "cited_change": 0.5},
        "sufficiency": {"cited": 0.0625, "random": 0.25, "difference": -0.1875},
        "statements": {
            "rationales": 12,
            "numbers": 3,
            "findings": 40,
            "unsupported_findings_fraction": 0.375,
        },
        "gold_statements": {
            "rationales": 12,
            "numbers": 0,
            "findings": 24,
            "unsupported_findings_fraction": 0.75,
        },
        "texts": {"distinct_fraction": 0.0625, "gold_distinct_fraction": 0.875},
    }
    run.score(
        ("immediate", "standard", "urgent"),
        faithfulness=section,
        label_flip={"changed_fraction": 0.625, "label_follows_fraction": 0.875},
        intervals={"faithfulness.comprehensiveness.cited": [0.3, 0.5]},
    )
    texts = [f"{row['question']} {row['context']}" for row in run.examples if row["split"] == "test"]
    ablation = {"probability": {"full": 0.75, "cited_removed": 0.5}, "label_changes": {"cited_removed": True}}
    run.write_lines(
        "evaluation/faithfulness.jsonl",
        [
            {
                "id": row["id"],
                "cited": [[0, text.index(" of")]],
                "unsupported": [{"start": 0, "end": 13, "kind": "finding", "contradicted": False}],
                "ablation": None if place else ablation,
            }
            for place, (row, text) in enumerate(zip(run.predictions, texts, strict=True))
        ],
    )
    return run


def test_the_report_shows_reasons(reported):
    from test_html_report import report

    page = report(reported)
    for wanted in (
        "Does the label rest on what the rationale cites?",
        "0.438 0.300 to 0.500 0.125 0.312",
        "7 of 10 rows are compared; in 2 the rationale cites no sentence of the input, in 1 each one.",
        "The cited sentences have 25 % of the words, the random ones 20 %.",
        "generated 12 3 40",
        "0.062 \N{EN DASH} gold",
        "0.875",
        "gold 12 0 24",
        "Does the rationale follow the label it is given?",
        "0.625",
    ):
        assert wanted in page.text, wanted
    descriptions = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert (
        "What the label rests on: without the sentences: cited 0.438, random 0.125, the sentences alone: cited "
        "0.062, random 0.250." in descriptions
    )
    assert page.cases()["reasons"] == [[[0, 1, 0.25, True], *[[0, 1, None, None]] * 11]]
    assert "Qestion" not in page.source
    assert "Modelrational" not in page.source


def test_marks_lie_where_the_shown_text_has_them(reported):
    from test_html_report import report

    reported.predictions[1]["rationale"] = "\N{AMBULANCE}\r\nModelrational of it"
    lines = [
        json.loads(line)
        for line in (reported.path / "evaluation/faithfulness.jsonl").read_text().splitlines()
    ]
    lines[1]["unsupported"] = [{"start": 3, "end": 16, "kind": "finding", "contradicted": True}]
    reported.write_lines("evaluation/predictions.jsonl", reported.predictions)
    reported.write_lines("evaluation/faithfulness.jsonl", lines)
    page = report(reported, include_text=True)
    table = page.cases()
    for row in table["rows"]:
        cited, unsupported = table["reasons"][0][row[3] - 1][4:]

        def shown(text, places):
            units = text.encode("utf-16-le")
            return [units[2 * start : 2 * end].decode("utf-16-le") for start, end in places]

        assert shown(row[4], cited) == [row[4].split()[0]]
        assert shown(row[2][0][4], unsupported) == ["Modelrational"]


@pytest.mark.parametrize("change", [{"cited": "x"}, {"unsupported": [{"start": 1}]}, {"id": None}])
def test_a_damaged_file_is_named_and_not_quoted(reported, change):
    from test_html_report import report

    path = reported.path / "evaluation/faithfulness.jsonl"
    lines = [json.loads(line) | change for line in path.read_text().splitlines()]
    reported.write_lines("evaluation/faithfulness.jsonl", lines)
    with pytest.raises(UserError, match=r"faithfulness\.jsonl: is damaged"):
        report(reported)


def test_reasons_of_other_rows_are_not_shown(reported):
    from test_html_report import report

    path = reported.path / "evaluation/faithfulness.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()][1:]
    reported.write_lines("evaluation/faithfulness.jsonl", lines)
    assert report(reported).cases()["reasons"] == [None]
