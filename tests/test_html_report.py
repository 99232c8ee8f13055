"""The HTML report of runs: what is on it, what never is, and that a real browser can use it."""

import configparser
import dataclasses
import html.parser
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import sklearn.metrics
from cli_cases import r2d  # noqa: F401

from r2d_jax.config import EvaluationConfig, TriageScoringConfig
from r2d_jax.config_file import dump_config, load_config
from r2d_jax.data.schema import Example
from r2d_jax.data.splits import content_hash, load_splits
from r2d_jax.errors import UserError
from r2d_jax.evaluation import plots
from r2d_jax.evaluation.calibration import Calibration
from r2d_jax.evaluation.html_report import write_report
from r2d_jax.evaluation.metrics import label_metrics, outside_name
from r2d_jax.evaluation.predict import Prediction
from r2d_jax.evaluation.probability_scores import Probabilities
from r2d_jax.evaluation.report import result_lines
from r2d_jax.evaluation.report_labels import calibration, matrix
from r2d_jax.evaluation.report_values import warnings_of
from r2d_jax.evaluation.run_record import read_run
from r2d_jax.evaluation.scoring import Scores, score

pytest_plugins = ["chromium"]
ROOT = pathlib.Path(__file__).parents[1]
LABELS = ("immediate", "standard", "urgent")
HOSTILE = (
    "<script>window.hacked=1</script>",
    "</script><script>window.hacked=2</script><!--",
    "\"quotes' & <b>bold</b>",
    "שלום \u202eturned",
    "🚑 $\\frac{1}{2}$ {{ 7*7 }}",
    "bell\x07 \x1b[31m red\u2028line",
)


@pytest.fixture(scope="module")
def compile_cache(tmp_path_factory):
    """Nothing is compiled here, but what other files compile in this process may go there."""
    return tmp_path_factory.mktemp("unused")


class Run:
    """A small run folder as `r2d run` leaves it, made without training."""

    def __init__(self, folder, labels=LABELS, rows=12, *, right=0.6, seed=0, overrides=(), id_form="case-{}"):
        self.path, rng = folder, np.random.default_rng(seed)
        folder.mkdir(parents=True)
        self.examples = [
            {
                "id": id_form.format(number) if split == "test" else f"{split} {number}",
                "split": split,
                "question": f"Qestion{number} of {split} <i>has</i> fever",
                "context": f"Kontext{number} of {split} </script> & more",
                "label": labels[number % len(labels)],
                "rationale": f"Goldrational{number} of {split}",
            }
            for split, count in (("train", len(labels)), ("validation", 1), ("test", rows))
            for number in range(count)
        ]
        # Another seed would be other rows only if it made another file.
        data = folder.parent / f"{rows}-{len(labels)}-{hash(labels) % 1000}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in self.examples))
        settings = [f"data.path={data}", "data.columns={id: id, split: split, context: context}"]
        for stage, steps in (("stage1", 40), ("stage2", 60)):
            settings += [
                f"{stage}.{name}={steps}" for name in ("max_steps", "eval_every_steps", "save_every_steps")
            ]
        self.config = load_config(None, [*settings, *overrides])
        (folder / "config.yaml").write_text(dump_config(self.config))
        splits = load_splits(self.config.data, self.config.seed, ("default",))
        done = {"stage1_done": {"best_step": 40}, "stage2_done": {"best_step": 40}, "run_done": True}
        self.write("run.json", {"config_hash": "x", "data_hash": content_hash(splits), **done})
        self.write("r2d_model.json", {"labels": labels})
        self.write_lines("stage1/metrics.jsonl", self.stage1())
        self.write_lines("stage2/metrics.jsonl", self.stage2())
        self.predictions = [
            self.prediction(row, labels, rng.random() < right, rng)
            for row in self.examples
            if row["split"] == "test"
        ]
        self.score(labels)

    def prediction(self, row, labels, right, rng):
        other = labels[(labels.index(row["label"]) + 1) % len(labels)]
        return {
            "id": row["id"],
            "label": row["label"] if right else other,
            "label_valid": True,
            "label_confidence": round(float(rng.random()), 6),
            "label_finished": True,
            "rationale": f"Modelrational {row['question']}",
            "rationale_finished": bool(right),
            "gold_label": row["label"],
        }

    def stage1(self):
        for step in (10, 20, 30, 40):
            yield {"step": step, "train/loss": 9 / step, "train/rationale_loss": 9 / step}
            if step % 20 == 0:
                yield {"step": step, "eval/rationale_loss": 10 / step}

    def stage2(self):
        for step in (20, 40, 60):
            yield {
                "step": step,
                "train/label_loss": 3 / step,
                "train/rationale_loss": 2 / step,
                "train/label_weight": 0.7,
                "train/sampling_probability": step / 100,
                "train/sampled_fraction": step / 101,
            }
            yield {
                "step": step,
                "eval/macro_f1": 0.9 - abs(step - 40) / 100,
                "eval/label_loss": 4 / step,
                "eval/rationale_loss": 3 / step,
            }

    def score(self, labels, **more):
        gold, predicted = ([row[name] for row in self.predictions] for name in ("gold_label", "label"))
        self.metrics = {
            **label_metrics(gold, predicted, labels),
            "rows": len(gold),
            "bleu": {"corpus": 33.25, "signature": "s"},
            "label_agreement": {"names_label_fraction": 0.75},
            "model": str(self.path / "stage2" / "best" / "40"),
            **more,
        }
        self.write("evaluation/metrics.json", self.metrics)
        self.write_lines("evaluation/predictions.jsonl", self.predictions)

    def write(self, name, value):
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(value, ensure_ascii=False))

    def write_lines(self, name, rows):
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    def texts(self):
        """All case text of the test rows."""
        for row in self.examples:
            if row["split"] == "test":
                yield from (row["question"], row["context"], row["rationale"])
        yield from (row["rationale"] for row in self.predictions)


class Page(html.parser.HTMLParser):
    """Elements, attributes and texts of a report."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags, self.attributes, self.scripts, self.words, self._open = [], [], [], [], None
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]
        self._open = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._open = None

    def handle_data(self, data):
        if self._open == "script":
            self.scripts[-1] += data
        elif self._open != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def cases(self, number=0):
        return json.loads(self.scripts[number])


def report(*runs, **options):
    output = runs[0].path.parent / "report.html"
    write_report([run.path for run in runs], output, overwrite=True, **options)
    return Page(output)


def dense(rows, labels):
    """The confusion matrix [labels, labels + 1] of rows with valid gold labels, as lists."""
    written = [row["label"] if row["label"] in labels else "" for row in rows]
    gold = [row["gold_label"] for row in rows]
    return sklearn.metrics.confusion_matrix(gold, written, labels=[*labels, ""])[:-1].tolist()


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "method-a")


@pytest.fixture
def undrawn(monkeypatch):
    """Drawing takes most of the time, and many tests are about the rest of the page."""
    for name in ("curves", "dots", "reliability"):
        monkeypatch.setattr(plots, name, lambda *_, **__: "<svg></svg>")


# Content


def test_a_finished_run(run):
    page = report(run)
    for wanted in (
        "Report of one run",
        "method-a",
        "finished",
        "40 of 40 steps; chosen: step 40 (validation loss 0.250)",
        "60 of 60 steps; chosen: step 40 (validation macro-F1 0.900)",
        "stage2, best, step 40",
        f"{run.metrics['macro_f1']:.3f}",
        "33.2",
        "Expected calibration error",
        "over 12 rows",
        "Stage 2: scheduled sampling",
        "realised share",
        "chosen checkpoint",
        "(no label)",
        "the most common label, always",
    ):
        assert wanted in page.text, wanted
    assert "Warning." not in page.text
    assert "Settings that differ" not in page.text
    row = dense(run.predictions, LABELS)[0]
    assert "".join(map(str, row)) in re.sub(r"[^0-9]|\d+ %", "", page.text)


def test_the_page_stands_alone(run):
    page = report(run, include_text=True)
    allowed = {"svg", "xmlns", "href", "id"}
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name not in ("src", "style", "srcset", "action", "ping"), (tag, name)
        if "href" in name:
            assert value.startswith("#"), (tag, value)
        assert "url(" not in (value or "") or "url(#" in value
        assert "//" not in (value or "") or name == "xmlns" or name in allowed
    policy = dict((value, name) for _, name, value in page.attributes if name == "content")
    (policy,) = [value for value in policy if "default-src" in value]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert not {"img", "link", "iframe", "object", "embed", "base"} & set(page.tags)


def test_several_runs_are_compared(tmp_path):
    one = Run(tmp_path / "a" / "method", right=1.0)
    two = Run(tmp_path / "b" / "method", right=0.3, seed=1, overrides=["stage2.label_weight=0.5", "seed=1"])
    two.predictions[0] |= {"label": "who knows", "label_valid": False}
    two.score(LABELS, intervals={"macro_f1": [0.1, 0.2], "bleu.corpus": [30.0, 36.5], "accuracy": None})
    page = report(one, two)
    for wanted in (
        "Report of 2 runs",
        "a/method",
        "b/method",
        "stage2.label_weight",
        "0.100 to 0.200",
        "30.0 to 36.5",
    ):
        assert wanted in page.text, wanted
    assert "max_steps" not in page.text
    descriptions = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert f"macro-F1: a/method 1.000, b/method {two.metrics['macro_f1']:.3f}." in descriptions
    cases = page.cases()
    assert [name for _, name in cases["runs"]] == ["a/method", "b/method"]
    differ = [row[2][0][0] != row[2][1][0] for row in cases["rows"]]
    assert differ == sorted(differ, reverse=True)
    assert any(differ)
    assert len(cases["rows"]) == 12


def test_runs_on_other_rows_have_tables_of_their_own(tmp_path, undrawn):
    one, two = Run(tmp_path / "one"), Run(tmp_path / "two", rows=15)
    page = report(one, two)
    assert "not evaluated on the same test rows" in page.text
    assert [len(page.cases(number)["rows"]) for number in (0, 1)] == [12, 15]


def test_a_collapse_is_a_warning(run, undrawn):
    for row in run.predictions:
        row["label"] = "urgent"
    run.score(LABELS)
    assert "gives nearly one label only (urgent, in 100.0 % of rows)" in report(run).text


def test_another_checkpoint_than_the_chosen_one_is_a_warning(run, undrawn):
    run.score(LABELS, model="/elsewhere/stage2/best/20")
    assert "Evaluated at step 20 of stage 2, but step 40 is the chosen" in report(run).text


def test_mistakes_come_first_and_flags_are_told(run, undrawn):
    run.predictions[5] |= {
        "label": "",
        "label_valid": False,
        "label_finished": False,
        "label_confidence": math.nan,
    }
    run.score(LABELS)
    rows = report(run).cases()["rows"]
    right = [bool(row[2][0][2] & 4) for row in rows]
    assert right == sorted(right)
    (odd,) = [row for row in rows if row[0] == "case-5"]
    assert odd[2] == [[-1, None, 1 | 8 | (0 if run.predictions[5]["rationale_finished"] else 2)]]


def test_many_labels_and_long_names(tmp_path, undrawn):
    labels = tuple(f"label {number} " + "x" * (number % 150) for number in range(300))
    page = report(Run(tmp_path / "many", labels, rows=600))
    assert "The 20 of 300 labels with the most gold rows" in page.text
    assert "(280 other labels)" in page.text
    assert "All 300 labels, the most common first" in page.text
    assert page.tags.count("td") < 6000


def test_scores_that_no_row_could_have_given_are_no_zeros(run, undrawn):
    for row in run.predictions:
        row["label"] = "standard" if row["gold_label"] == "urgent" else row["gold_label"]
    per_class = {"never": {"support": 0, "predicted": 0, "precision": 0.0, "recall": 0.0, "f1": 0.0}}
    run.score(LABELS)
    run.score(LABELS, per_class=run.metrics["per_class"] | per_class)
    text = report(run).text
    assert "urgent 4 0 \N{EN DASH} 0.000 0.000 " in text
    assert "never 0 0 \N{EN DASH} \N{EN DASH} \N{EN DASH} " in text


@pytest.mark.parametrize("count", [20, 21, 33])
def test_the_matrix_of_many_labels(count):
    rng, labels = np.random.default_rng(count), [f"label {number}" for number in range(count)]
    gold = [labels[number] for number in rng.integers(0, rng.integers(1, count + 1, 300))]
    predicted = [rng.choice([one, labels[rng.integers(count)], "none of them"]) for one in gold]
    made = matrix(types.SimpleNamespace(metrics=label_metrics(gold, predicted, labels)))
    kept = sorted(labels, key=lambda label: -gold.count(label))[:20] if count > 20 else labels
    names = [*kept, *([f"({count - 20} other labels)"] if count > 20 else [])]
    assert made["columns"] == [*names, "(no label)"]

    def shown(label):
        return label if label in kept or label not in labels else names[-1]

    rows = [{"gold_label": shown(g), "label": shown(p)} for g, p in zip(gold, predicted, strict=True)]
    assert [[cell["count"] for cell in row["cells"]] for row in made["rows"]] == dense(rows, names)


def test_a_matrix_that_an_earlier_version_wrote_whole_is_read(run, undrawn):
    run.predictions[0] |= {"label": "who knows", "label_valid": False}
    run.score(LABELS)
    source = report(run).source
    assert 'class="matrix"' in source
    run.score(LABELS, confusion={"labels": LABELS, "counts": dense(run.predictions, LABELS)})
    assert report(run).source == source


def test_other_numbers_of_a_run_are_listed(run, undrawn):
    run.score(LABELS, checks={"flip_sensitivity": 0.125, "by_label": {"Secret label": 1}})
    page = report(run)
    assert "checks.flip_sensitivity" in page.text
    assert "Secret label" not in page.source


def grouped(run, **triage):
    """Metrics of a run with triage, both rules and two subgroups, one of them with a small group."""
    settings = EvaluationConfig(
        resamples=50,
        subgroup_least_rows=4,
        triage=TriageScoringConfig(("immediate", "urgent", "standard"), "most_urgent", "linear_under_x3"),
    )
    gold, predicted = ([row[name] for row in run.predictions] for name in ("gold_label", "label"))
    groups = [{"ward": f"<b>ward {number % 3 % 2}</b>", "age": "below 40"} for number in range(len(gold))]
    examples = [
        Example(str(number), "q", label, {}, subgroups=groups[number]) for number, label in enumerate(gold)
    ]
    probabilities = np.random.default_rng(3).dirichlet(np.ones(3), len(gold))
    predictions = [Prediction(label, True, 0.9) for label in predicted]
    metrics = score(examples, predictions, LABELS, None, settings, probabilities=probabilities).metrics
    metrics["triage"] |= triage
    return {name: metrics[name] for name in ("triage", "subgroups", "intervals")}


def test_triage_and_subgroups(run):
    run.predictions[0] |= {"label": "who knows", "label_valid": False}
    found = grouped(run)
    run.score(LABELS, **found)
    page = report(run)
    triage, ward = found["triage"], found["subgroups"]["by"]["ward"]
    least = triage["rules"]["least_cost"]
    assert [one["rows"] for one in ward["groups"]] == [8, 4]
    for wanted in (
        f"generated label {triage['under_fraction']:.3f}",
        f"label of least expected cost {least['under_fraction']:.3f}",
        f"{least['expected_cost']:.3f}",
        f"{triage['quadratic_kappa']:.3f}",
        "Costs (linear under x3) gold ↓ predicted → immediate urgent standard (no label) immediate 0 3 6 6",
        "<b>ward 0</b> 8",
        f"worst {ward['worst']['macro_f1']['value']:.3f}",
        "Groups of under 4 rows are never named the worst",
    ):
        assert wanted in page.text, wanted
    low, high = found["intervals"]["triage.expected_cost"]
    assert f"{triage['expected_cost']:.3f} {low:.3f} to {high:.3f}" in page.text
    assert "<b>ward" not in page.source
    descriptions = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    (bars,) = [text for text in descriptions if text.startswith("Mistakes by gold level")]
    rows = [row for row in run.predictions if row["gold_label"] == "urgent"]
    over = sum(row["label"] == "immediate" for row in rows)
    under = sum(row["label"] == "standard" for row in rows)
    assert f"urgent: {over} over, {under} under of {len(rows)}" in bars
    assert any(text.startswith("expected cost by ward: <b>ward 0</b> ") for text in descriptions)


def test_all_groups_that_tie_for_the_worst_are_tagged(run, undrawn):
    found = grouped(run)
    worst = found["subgroups"]["by"]["ward"]["worst"]
    names = [one["group"] for one in found["subgroups"]["by"]["ward"]["groups"]]
    tags = []
    # An earlier version named one group.
    for groups in ({"groups": names}, {"groups": names[1:]}, {}):
        for figure in worst:
            worst[figure] = {"group": names[0], "value": 0.5, "distance": 0.1} | groups
        run.score(LABELS, **found)
        tags.append(report(run).source.count('class="tag">worst'))
    assert tags == [2 * len(worst), len(worst), len(worst)]


def with_probabilities(run, calibration):
    """Sections of metrics.json for the run's rows, whose scores are drawn."""
    scores = (
        np.random.default_rng(0).normal(size=(len(run.predictions), len(LABELS))).astype(np.float32) * 2 - 9
    )
    gold, predicted = ([row[name] for row in run.predictions] for name in ("gold_label", "label"))
    found = Probabilities.of(LABELS, scores, calibration, predicted).scores(gold)
    return found.added_to(Scores({}, {}), 60).metrics


@pytest.mark.parametrize("threshold", [0.5, None])
def test_probabilities_and_abstention(run, threshold):
    metrics = with_probabilities(run, Calibration(2.5, threshold, 0.2, 30, "0" * 64, 0.9))
    run.score(LABELS, **metrics)
    page = report(run)
    for name, title in (("before", "before scaling"), ("after", "after scaling")):
        figures = metrics["calibration"][name]
        low, high = metrics["intervals"][f"calibration.{name}.ece"]
        assert (
            f"{title} {figures['ece']:.3f} {low:.3f} to {high:.3f} {figures['adaptive_ece']:.3f}" in page.text
        )
        assert f"{figures['nll']:.3f}" in page.text
        assert f"Reliability {title}" in page.source
    assert "Temperature 2.500, fitted to 30 rows." in page.text
    wanted = "answered from probability 0.5000 on" if threshold else "no row is answered"
    assert "at most 20 % wrong among the answered rows, with confidence 0.9" in page.text
    assert wanted in page.text
    assert f"{metrics['abstention']['aurc']:.3f}" in page.text
    assert "Risk and coverage: " in page.source
    damaged = metrics | {"abstention": metrics["abstention"] | {"curve": "Case text"}}
    run.score(LABELS, **damaged)
    with pytest.raises(UserError, match=r"damaged \(abstention\)") as told:
        report(run)
    assert "Case text" not in str(told.value)


@pytest.mark.parametrize(
    "changed", [{}, {"temperature": 2.6}, {"threshold": 0.7}, {"threshold": None}, {"target_risk": 0.1}]
)
def test_figures_of_an_earlier_calibration_are_not_told(changed, run, undrawn):
    """`r2d calibrate` after the evaluation: the page and the card of an export told what is no longer so."""
    old = Calibration(2.5, 0.5, 0.2, 30, "0" * 64, 0.9)
    run.score(LABELS, **(grouped(run) | with_probabilities(run, old)))
    run.write("calibration.json", dataclasses.asdict(dataclasses.replace(old, **changed)))
    record = read_run(run.path)
    card = dict(line[:2] for line in result_lines(record.metrics))
    told = " ".join(warnings_of(record))
    assert ("Calibrated again" in told) == bool(changed)
    assert ({"rows answered", "ECE of probabilities, scaled"} <= card.keys()) == (not changed)
    assert ("rules" in record.metrics["triage"]) == (not changed)
    # Nor are those of groups, which lie deeper.
    assert ("triage.rules." in json.dumps(record.metrics["subgroups"])) == (not changed)
    assert "triage.expected_cost" in json.dumps(record.metrics["subgroups"])


def test_rows_of_a_file_that_are_scored_are_no_validation_rows(run, undrawn):
    """Figures on the rows of the calibration read as held out: page and card, whose warnings are the same, say it."""
    calibration = Calibration(2.5, None, 0.2, 30, "0" * 64, 0.9, source="file")
    metrics = with_probabilities(run, calibration)
    metrics["calibration"] |= {"overlap_rows": 3, "overlap_estimated": False}
    run.score(LABELS, **metrics)
    text = report(run).text
    assert "Temperature 2.500, fitted to 30 rows of a file." in text
    assert "No threshold reached it on 30 rows of a file: no row is answered." in text
    wanted = f"3 of the {len(run.predictions)} scored rows were used to calibrate: probabilities and risk look better"
    assert wanted in text
    assert wanted in " ".join(warnings_of(read_run(run.path)))


def test_each_calibration_error_says_of_what(run, undrawn):
    run.score(LABELS, **with_probabilities(run, Calibration(2.5, 0.5, 0.2, 30, "0" * 64, 0.9)))
    text = report(run).text
    for name in ("ECE of label_confidence", "ECE of probabilities, scaled", "(ECE) 0."):
        assert name in text
    assert not re.findall(r"(?<!expected )(?<!Expected )calibration error", text)


def test_probabilities_without_a_calibration(run, undrawn):
    run.score(LABELS, **with_probabilities(run, None))
    page = report(run)
    assert "Not calibrated" in page.text
    assert "No target_risk is set" in page.text
    assert "after scaling" not in page.text


def test_a_damaged_section_of_triage_is_told(run, undrawn):
    run.score(LABELS, **grouped(run, by_gold=[{"gold": "Qestion"}]))
    with pytest.raises(UserError, match=r"metrics\.json: is damaged \(triage\)") as caught:
        report(run)
    assert "Qestion" not in str(caught.value)


@pytest.mark.parametrize("bins", [1, 10])
def test_calibration(bins):
    rng = np.random.default_rng(0)
    confidence, right = rng.random(200), rng.random(200) < 0.5
    confidence[:3] = 0.0, 1.0, 0.1
    made, error = calibration(confidence, right, bins)
    inside = [
        (confidence > low if number else confidence >= 0) & (confidence <= high)
        for number, (low, high) in enumerate((one.low, one.high) for one in made)
    ]
    assert [one.rows for one in made] == [int(rows.sum()) for rows in inside]
    assert sum(one.rows for one in made) == 200
    wanted = sum(
        rows.sum() / 200 * abs(right[rows].mean() - confidence[rows].mean()) for rows in inside if rows.any()
    )
    assert error == pytest.approx(wanted, abs=1e-12)
    assert math.isnan(calibration([], [])[1])


# Privacy


@pytest.mark.parametrize("earlier", [False, True])
def test_no_case_text_without_being_asked(run, earlier):
    """B: an output that is no label may quote the input, and so may a gold label that is none."""
    run.predictions[0] |= {"label": "Qestion0 quoted", "label_valid": False}
    run.predictions[1]["gold_label"] = "Kontext1 as a label"
    run.score(LABELS)
    if earlier:
        # Earlier versions wrote the text itself.
        told = json.dumps(run.metrics).replace(outside_name(1), "Kontext1 as a label")
        run.write("evaluation/metrics.json", json.loads(told))
        assert told.count("Kontext1 as a label") > 3
    page = report(run)
    assert outside_name(1) in page.text
    assert "Without texts" in page.text
    assert "This page contains case text" not in page.text
    for text in (*run.texts(), "Qestion", "Kontext", "Goldrational", "Modelrational", "fever", "quoted"):
        assert text not in page.source
        assert json.dumps(text)[1:-1] not in page.source
    assert page.cases()["text"] is False
    assert {len(row) for row in page.cases()["rows"]} == {4}


def test_all_case_text_when_asked(run, undrawn):
    page = report(run, include_text=True)
    assert "This page contains case text." in page.text
    held = {text for row in page.cases()["rows"] for text in (*row[4:], *(one[4] for one in row[2]))}
    for row in run.examples:
        if row["split"] == "test":
            assert any(row["question"] in text and row["context"] in text for text in held)
            assert row["rationale"] in held
    assert all(row["rationale"] in held for row in run.predictions)
    assert "train <i>" not in page.source.replace("\\u003c", "<")


def test_changed_data_are_not_shown_as_what_the_model_saw(run, undrawn):
    data = pathlib.Path(run.config.data.path)
    data.write_text(data.read_text().replace("fever", "cough"))
    with pytest.raises(UserError, match="no longer those of the run"):
        report(run, include_text=True)
    assert not (run.path.parent / "report.html").exists()
    report(run)


# Hostile text


@pytest.fixture
def hostile(tmp_path):
    run = Run(tmp_path / "<img src=x onerror=alert(1)> $x$ & 'q'", HOSTILE, id_form="</script>{}<b>'\"&amp;")
    run.predictions[0] |= {"label": "<img src=x onerror=alert(2)>", "label_valid": False}
    for row in run.predictions:
        row["rationale"] = "".join(HOSTILE)
    run.score(HOSTILE)
    other = Run(tmp_path / "</title><svg onload=alert(3)>", HOSTILE, id_form="</script>{}<b>'\"&amp;", seed=3)
    return run, other


@pytest.mark.parametrize("include_text", [False, True])
def test_hostile_text_stays_text(hostile, include_text):
    page = report(*hostile, include_text=include_text)
    assert not {"img", "b", "i"} & set(page.tags)
    assert page.tags.count("script") == 2
    assert page.tags.count("title") == 1
    assert "49" not in page.cases()["labels"][4]
    assert page.cases()["labels"][0] == HOSTILE[0]
    assert page.cases()["labels"][3] == "שלום \N{REPLACEMENT CHARACTER}turned"
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", page.source)
    assert "window.hacked=1" in page.text
    if include_text:
        assert any(HOSTILE[0] in row[2][0][4] for row in page.cases()["rows"])


# The same bytes


def test_the_same_runs_give_the_same_bytes(tmp_path):
    run, other = Run(tmp_path / "one"), Run(tmp_path / "two", seed=2)
    first = report(run, other).source
    assert report(run, other).source == first
    output = tmp_path / "again.html"
    subprocess.run(
        [sys.executable, "-m", "r2d_jax", "report", run.path, other.path, "--output", output],
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT), "TZ": "Asia/Tokyo"},
    )
    assert output.read_text(encoding="utf-8") == first


# Unfinished runs


def test_a_run_that_has_only_begun(run):
    for name in ("stage1", "stage2", "evaluation", "r2d_model.json"):
        subprocess.run(["rm", "-r", run.path / name], check=True)
    run.write("run.json", {"config_hash": "x", "data_hash": "y"})
    page = report(run)
    assert "unfinished" in page.text
    assert "Unfinished: stage 1 has logged nothing yet; stage 2 has logged nothing yet" in page.text
    assert "there are no test predictions yet; there are no test figures yet." in page.text
    assert page.scripts == [(ROOT / "r2d_jax/evaluation/page/report.js").read_text()]


def test_a_run_in_its_first_stage(run):
    subprocess.run(["rm", "-r", run.path / "stage2", run.path / "evaluation"], check=True)
    run.write("run.json", {"config_hash": "x", "data_hash": "y"})
    log = run.path / "stage1" / "metrics.jsonl"
    rows = [*list(run.stage1())[:3], {"step": 25, "train/rationale_loss": math.nan}]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 30, "train/ratio')
    page = report(run)
    assert "stage 1 is not finished (step 25 of 40)" in page.text
    assert "25 of 40 steps; no checkpoint chosen yet" in page.text
    assert "Stage 1: rationale loss" in page.text
    assert "Stage 2: label loss" not in page.text


def test_predictions_that_were_not_scored_yet(run, undrawn):
    (run.path / "evaluation" / "metrics.json").unlink()
    page = report(run)
    assert "Unfinished: there are no test figures yet." in page.text
    assert len(page.cases()["rows"]) == 12
    assert "Expected calibration error" in page.text


def test_an_unfinished_run_beside_a_finished_one(tmp_path, undrawn):
    one, two = Run(tmp_path / "one"), Run(tmp_path / "two")
    subprocess.run(["rm", "-r", two.path / "evaluation"], check=True)
    page = report(one, two)
    assert "one row" not in page.text
    assert [name for _, name in page.cases()["runs"]] == ["one"]
    assert "not evaluated on the same" not in page.text


def test_a_method_without_a_first_stage_is_finished_without_one(run):
    subprocess.run(["rm", "-r", run.path / "stage1"], check=True)
    config = run.path / "config.yaml"
    lines = [line for line in config.read_text().splitlines() if not line.startswith("method")]
    config.write_text("\n".join([*lines, "method: sft"]) + "\n")
    run.write("run.json", {"stage2_done": {"best_step": 40}})
    assert read_run(run.path).missing == ()


def test_a_method_that_no_version_has_is_no_crash(run):
    config = run.path / "config.yaml"
    config.write_text(re.sub("(?m)^method: .*$", "method: [r2d]", config.read_text()))
    assert read_run(run.path).settings["method"] == ["r2d"]


# Errors


def test_the_command(r2d, run):  # noqa: F811
    output = run.path.parent / "page.html"
    r2d("report", run.path, "--output", output).done(r"written: \S+page\.html")
    before = output.read_bytes()
    r2d("report", run.path, "--output", output).refused("is there already", "--overwrite")
    r2d("report", run.path, "--output", output, "--overwrite", "--include-text").done()
    assert output.read_bytes() != before


def test_the_folder_of_a_comparison_stands_for_its_runs(r2d, tmp_path, undrawn):  # noqa: F811
    home = tmp_path / "compared"
    for method, seed in (("sft", 0), ("r2d", 10), ("r2d", 2)):
        (home / method).mkdir(parents=True, exist_ok=True)
        Run(home / method / f"seed{seed}", seed=seed)
    (home / "comparison.json").write_text("{}")
    output = tmp_path / "page.html"
    r2d("report", home, "--output", output).done("written")
    in_order = [home / name for name in ("r2d/seed2", "r2d/seed10", "sft/seed0")]
    r2d("report", *in_order, "--output", tmp_path / "named.html").done("written")
    assert output.read_bytes() == (tmp_path / "named.html").read_bytes()
    assert {"r2d/seed2", "r2d/seed10", "sft/seed0"} <= set(Page(output).text.split())
    r2d("report", home, home / "sft" / "seed0", "--output", output, "--overwrite").refused("named twice")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["{run}", "{home}/nothing"], "nothing: no such folder"),
        (["{run}", "{home}"], r"no run here \(run.json is missing\)"),
        (["{run}", "{home}/../{name}/method-a"], "named twice"),
        (["{run}", "--output", "{home}/page.txt"], "does not end in .html"),
        (["{run}", "--output", "{home}/absent/page.html"], "its folder does not exist"),
        ([], "RUN"),
    ],
)
def test_refusals_write_nothing(r2d, run, arguments, wanted):  # noqa: F811
    home = run.path.parent
    before = {path for path in home.rglob("*")}
    filled = [text.format(run=run.path, home=home, name=home.name) for text in arguments]
    output = [] if "--output" in filled else ["--output", home / "page.html"]
    r2d("report", *filled, *output).refused(wanted)
    assert {path for path in home.rglob("*")} == before


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.json", "{"),
        ("config.yaml", "a: [1"),
        ("config.yaml", "just words"),
        ("config.yaml", "a: &a {x: *a}"),
        ("config.yaml", "a: [&b [*b]]"),
        ("config.yaml", "[" * 3000),
        ("r2d_model.json", '{"labels": null}'),
        ("evaluation/metrics.json", '{"majority_class": {"accuracy": "high"}}'),
        ("evaluation/metrics.json", '{"collapsed": ["a"]}'),
        ("evaluation/metrics.json", '{"labels_outside_set": 3}'),
        ("evaluation/metrics.json", "[]"),
        ("evaluation/metrics.json", '{"per_class": {"a": 1}}'),
        ("evaluation/metrics.json", '{"confusion": {"labels": []}}'),
        ("evaluation/metrics.json", '{"confusion": {"labels": ["a"], "counts": [[1]]}}'),
        ("evaluation/metrics.json", '{"confusion": {"labels": ["a"], "cells": [{"gold": "a", "count": 1}]}}'),
        (
            "evaluation/metrics.json",
            '{"confusion": {"labels": ["a"], "cells": [{"gold": ["b"], "predicted": null, "count": 1}]}}',
        ),
        ("evaluation/predictions.jsonl", '{"id": "1"}\n{"id": "Qestion\n'),
        ("evaluation/predictions.jsonl", "7\n"),
        ("stage1/metrics.jsonl", '{"loss": 1}\n{"step": 2}\n'),
        ("r2d_model.json", '{"labels": 0}'),
    ],
)
def test_a_damaged_file_is_named_and_not_quoted(run, name, text, undrawn):
    (run.path / name).write_text(text)
    with pytest.raises(UserError, match=re.escape(name.partition("/")[2] or name)) as error:
        report(run)
    assert "Qestion" not in str(error.value)
    assert not (run.path.parent / "report.html").exists()


def test_numbers_that_no_float_holds_are_no_figures(run, undrawn):
    run.score(LABELS, accuracy=10**400)
    run.write_lines("stage1/metrics.jsonl", [{"step": 1, "train/loss": 10**400}])
    report(run)
    assert "10000000000" not in (run.path.parent / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_missing_package_is_told_in_one_line(run, package, monkeypatch):
    for module in [name for name in sys.modules if name.startswith((package, "r2d_jax.evaluation.plots"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    # Else the module is found as an attribute of its package.
    monkeypatch.delattr("r2d_jax.evaluation.plots")
    with pytest.raises(UserError, match=rf"cannot import {package}.*\.\[report\]"):
        report(run)


def test_the_command_line_loads_none_of_it():
    code = "import sys, r2d_jax.cli; print([m for m in ('matplotlib', 'jinja2', 'jax') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.stdout == "[]\n", done.stderr


def test_the_page_files_are_package_data():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    (pattern,) = parser["options.package_data"]["r2d_jax.evaluation"].split()
    page = ROOT / "r2d_jax" / "evaluation"
    assert set(page.glob(pattern)) == {
        path for path in page.rglob("*") if path.suffix in (".j2", ".css", ".js")
    }


# A real browser


@pytest.fixture
def opened(browser):
    """Opens a report; in the end nothing may have been said in the console or fetched."""
    browser.messages.clear()
    browser.requests.clear()
    paths = []

    def open_page(page_runs, width=1400, **options):
        report(*page_runs, **options)
        paths.append(page_runs[0].path.parent / "report.html")
        browser.open(paths[-1], width)
        return browser

    yield open_page
    assert browser.messages == []
    assert set(browser.requests) <= {path.as_uri() for path in paths}
    assert browser.value("window.hacked") is None


COUNT = "document.querySelector('.count').textContent"
ROWS = "document.querySelectorAll('.cases tbody tr:not(.texts)').length"


def choose(browser, field, value):
    browser.value(
        f"(() => {{ const one = document.querySelector('form').elements[{json.dumps(field)}];"
        f" one.value = {json.dumps(value)}; one.dispatchEvent(new Event('input', {{bubbles: true}})); }})()"
    )


def test_filters_and_search(opened, tmp_path, undrawn):
    run = Run(tmp_path / "run", rows=90)
    browser = opened([run], include_text=True)
    assert browser.value(COUNT) == "90 of 90 cases, 1 to 20 shown"
    choose(browser, "gold", "1")
    gold = sum(row["gold_label"] == LABELS[1] for row in run.predictions)
    assert browser.value(COUNT).startswith(f"{gold} of 90 cases")
    choose(browser, "show", "wrong")
    wrong = sum(row["gold_label"] == LABELS[1] != row["label"] for row in run.predictions)
    assert browser.value(COUNT).startswith(f"{wrong} of 90 cases")
    browser.value("document.querySelector('[type=reset]').click()")
    assert browser.value("new Promise(done => setTimeout(() => done(" + COUNT + "), 50))").startswith(
        "90 of 90"
    )
    choose(browser, "words", "KONTEXT17 </SCRIPT>")
    assert browser.value(COUNT) == "1 of 90 cases, 1 to 1 shown"
    assert browser.value("[...document.querySelectorAll('mark')].map(one => one.textContent)") == [
        "Kontext17",
        "</script>",
    ]
    choose(browser, "words", "nothing (like.this[")
    assert browser.value(COUNT) == "None of 90 cases fits these filters"
    choose(browser, "words", "")
    choose(browser, "order", "as in the file")
    assert browser.value("document.querySelector('.cases tbody th').textContent") == "case-0"


def test_pages_by_keyboard(opened, tmp_path, undrawn):
    browser = opened([Run(tmp_path / "run", rows=120)])
    assert browser.value(ROWS) == 50
    # From the search field: Clear, the scrolling box, and, as First and Previous are off, Next.
    browser.value("document.querySelector('[name=words]').focus()")
    for _ in range(3):
        browser.press("Tab", 9)
    assert browser.value("document.activeElement.textContent") == "Next"
    browser.press("Enter", 13, "\r")
    assert browser.value(COUNT) == "120 of 120 cases, 51 to 100 shown"
    browser.press("Enter", 13, "\r")
    assert browser.value(COUNT) == "120 of 120 cases, 101 to 120 shown"
    # Next is off now, so the focus went to a button that is not.
    assert browser.value("document.activeElement.textContent") == "First"
    assert browser.value("[...document.querySelectorAll('.scroll')].every(box => box.tabIndex === 0)")


@pytest.mark.parametrize("width", [390, 1400])
def test_no_page_is_wider_than_the_window(opened, hostile, width):
    labels = tuple(f"label{number}" + "x" * 150 for number in range(30))
    many = Run(hostile[0].path.parent / ("long-" * 30), labels, rows=60)
    with (many.path / "config.yaml").open("a") as config:
        config.write(f"{'setting' * 20}: {'x' * 300}\n")
    browser = opened([*hostile, many], width)
    assert browser.value("document.documentElement.scrollWidth <= innerWidth")
    assert browser.value("[...document.querySelectorAll('svg.plot')].every(one => one.clientWidth > 250)")


def test_five_thousand_rows_stay_quick(opened, tmp_path, undrawn):
    browser = opened([Run(tmp_path / "run", rows=5000)], include_text=True)
    start = time.monotonic()
    choose(browser, "words", "kontext4999 fever")
    assert browser.value(COUNT) == "1 of 5000 cases, 1 to 1 shown"
    assert time.monotonic() - start < 2


def test_hostile_text_does_nothing_in_a_browser(opened, hostile):
    browser = opened(hostile, include_text=True)
    assert browser.value("document.querySelectorAll('img, main b, main i').length") == 0
    assert browser.value(ROWS) == 12
    assert browser.value("getComputedStyle(document.querySelector('.banner.text')).borderTopWidth") == "3px"
