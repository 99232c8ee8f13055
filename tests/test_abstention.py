"""Abstention: thresholds by brute force and by simulation, and a model that is calibrated, used and evaluated."""

import dataclasses
import itertools
import json
import math
import shutil

import numpy as np
import pytest
import scipy.stats
from cli_cases import lines_of
from probability_cases import lively, words

from r2d_jax.cli import main
from r2d_jax.config import ColumnsConfig, EvaluationConfig
from r2d_jax.errors import UserError
from r2d_jax.evaluation.abstention import (
    aurc_of,
    choose_threshold,
    curve_points,
    fewest_rows,
    risk_coverage,
    upper_risk,
)
from r2d_jax.evaluation.apply import evaluate_model, predict_file
from r2d_jax.evaluation.calibrate import left_out, told
from r2d_jax.evaluation.calibrate_model import calibrate_model, earlier_told
from r2d_jax.evaluation.calibration import load_calibration
from r2d_jax.evaluation.convert import export_folder, import_model
from r2d_jax.evaluation.model_folder import TOKENIZER_FOLDER, WEIGHTS_FOLDER, ModelCard
from r2d_jax.runtime.checkpoint_files import save_params
from r2d_jax.runtime.files import write_texts
from r2d_jax.runtime.run_files import MODEL_CARD

LABELS = ("rash", "cough", "pain", "fever")
ROWS = 60


def test_upper_bound_of_the_error_rate():
    # No error in 20 answers: at the bound, that had a chance of 5 %.
    assert upper_risk(0, 20, 0.95) == pytest.approx(1 - 0.05 ** (1 / 20))
    assert (upper_risk(3, 3, 0.95), upper_risk(0, 0, 0.95)) == (1.0, 1.0)
    for errors, rows in ((2, 30), (17, 200)):
        # One side of an exact interval whose two sides have 10 %.
        interval = scipy.stats.binomtest(errors, rows).proportion_ci(0.9, "exact")
        assert upper_risk(errors, rows, 0.95) == pytest.approx(interval.high, rel=1e-6)


def by_brute_force(probability, right, target):
    """The lowest threshold that holds the target."""
    for threshold in sorted(set(probability[np.isfinite(probability)])):
        answered = probability >= threshold
        if np.mean(~right[answered]) <= target:
            return threshold
    return None


@pytest.mark.parametrize("seed", range(12))
def test_a_threshold_for_the_rows_themselves(seed):
    rng = np.random.default_rng(seed)
    probability = rng.random(60)
    right = rng.random(60) < probability
    # With equal ones and with rows that have none.
    probability = np.where(rng.random(60) < 0.1, np.nan, probability.round(1 + seed % 3))
    for target in (0.01, 0.1, 0.3, 0.9):
        found = choose_threshold(probability, right, target, None)
        assert found == by_brute_force(probability, right, target)


def test_a_threshold_with_confidence_by_hand():
    """300 surest rows are right, then 100 wrong ones: 1 % is out of reach, 3 % is not."""
    probability = np.linspace(0.99, 0.2, 400)
    right = np.arange(400) < 300
    # The lowest, then 9 steps of a search over the other 399, so each may err in one of 200 cases.
    bound = 1 - (0.05 / 10) ** (1 / 300)
    assert choose_threshold(probability, right, bound * 0.999, 0.95) is None
    # The search tests 300 rows or a few less or more; at twice the bound some errors may come in.
    found = choose_threshold(probability, right, 2 * bound, 0.95)
    answered = probability >= found
    errors = int((~right[answered]).sum())
    assert answered.sum() >= 300
    assert upper_risk(errors, int(answered.sum()), 1 - 0.05 / 10) <= 2 * bound
    assert upper_risk(errors + 1, int(answered.sum()) + 1, 1 - 0.05 / 10) > 2 * bound


@pytest.mark.parametrize(("rows", "target"), [(99, 0.05), (537, 0.01)])
def test_few_answers_that_are_all_right_are_all_given(rows, target):
    """As docs/probabilities.md promises; half of them would have an error rate up to nearly twice the target."""
    probability = np.linspace(0.2, 0.99, rows)
    assert choose_threshold(probability, np.ones(rows, bool), target, 0.95) == 0.2
    assert choose_threshold(probability[1:], np.ones(rows - 1, bool), target, 0.95) is None


@pytest.mark.parametrize("confidence", [None, 0.95])
def test_no_threshold(confidence):
    wrong = np.zeros(50, bool)
    assert choose_threshold(np.linspace(0, 1, 50), wrong, 0.5, confidence) is None
    assert choose_threshold(np.full(50, np.nan), wrong, 0.5, confidence) is None
    # Five right rows say little.
    assert choose_threshold(np.ones(5), np.ones(5, bool), 0.1, 0.95) is None


def test_the_target_holds_on_other_rows_as_often_as_promised():
    """Rows of probability p, even over 0 to 1, are right with chance p: above t, (1 - t) / 2 of them are wrong."""
    rng = np.random.default_rng(0)
    target, broken = 0.1, {0.9: 0, None: 0}
    answered = []
    for _ in range(400):
        probability = rng.random(1500)
        right = rng.random(1500) < probability
        for confidence in broken:
            threshold = choose_threshold(probability, right, target, confidence)
            broken[confidence] += threshold is not None and (1 - threshold) / 2 > target
            if confidence is not None:
                answered.append(0.0 if threshold is None else 1 - threshold)
    # At most 10 % of 400; with luck of three standard deviations.
    assert broken[0.9] <= 40 + 18
    assert broken[None] > 120
    # And it is no threshold that answers nothing: 20 % of the rows could be answered.
    assert np.mean(answered) > 0.05


def test_risk_and_coverage_by_hand():
    probability = np.array([0.9, 0.5, 0.7, 0.7, np.nan])
    wrong = np.array([False, True, True, False, True])
    coverage, risk = risk_coverage(probability, wrong)
    assert coverage.tolist() == [0.2, 0.4, 0.6, 0.8, 1.0]
    # Of the two equally sure rows either may come first: half an error each.
    np.testing.assert_allclose(risk, [0, 0.25, 1 / 3, 0.5, 0.6])
    # In the order of a sample, the wrong one of them first: 0, 1/2, 1/3, 1/2, 3/5.
    statistic = aurc_of(probability, wrong)
    assert statistic(np.arange(5)) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2 + 3 / 5) / 5)
    both = statistic(np.array([[0, 1, 2, 3, 4], [0, 0, 0, 0, 0]]))
    assert both.tolist() == [statistic(np.arange(5)), 0.0]
    assert curve_points(coverage, risk)[0] == [0.2, 0.0]
    many = curve_points(*risk_coverage(np.linspace(0, 1, 1000), np.zeros(1000, bool)))
    assert (len(many), many[0], many[-1]) == (100, [0.001, 0.0], [1.0, 0.0])


# Nearly all of the time goes into compiling.
pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture(autouse=True, scope="module")
def one_cache(tmp_path_factory):
    """Every command compiles the same programs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("R2D_COMPILE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def make_model(folder, decode="constrained"):
    """A model of random weights that gives labels alone, as `r2d import` lays it out."""
    tokenizer, shape, params = lively(labels=LABELS)
    card = ModelCard(
        shape=shape,
        labels=LABELS,
        label_tokens=max(len(tokenizer.encode(label)) for label in LABELS) + 1,
        input_limit_tokens=128,
        rationale_tokens=8,
        compute_dtype="float32",
        tokenizer_fingerprint=tokenizer.fingerprint,
        columns=ColumnsConfig(id="id", rationales={}),
        rationale_prompt="none",
        label_decode=decode,
    )
    folder.mkdir()
    save_params(folder / WEIGHTS_FOLDER, params)
    write_texts(folder / TOKENIZER_FOLDER, tokenizer.files())
    (folder / MODEL_CARD).write_text(card.to_json())
    return folder


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@dataclasses.dataclass(frozen=True)
class Used:
    """A folder, its model, 60 labelled rows in it, and what `predict --probabilities` says of them before and after."""

    path: object
    model: object
    before: list
    after: list


def predicted(model, path, output, **options):
    predict_file(
        model,
        path,
        path.parent / output,
        columns={},
        batch_size=64,
        **options,
    )
    return lines_of(path.parent / output)


@pytest.fixture(scope="module")
def used(tmp_path_factory):
    """Gold labels are those predicted where the model is sure and others where it is not, except for some rows."""
    path = tmp_path_factory.mktemp("abstention")
    model = make_model(path / "model")
    questions = [{"id": str(row), "question": text} for row, text in enumerate(words(ROWS, 1, 50))]
    before = predicted(
        model, write_rows(path / "questions.jsonl", questions), "before.jsonl", probabilities=True
    )
    middle = np.median([row["label_probability"] for row in before])
    rows = []
    for number, (question, row) in enumerate(zip(questions, before, strict=True)):
        sure = row["label_probability"] >= middle
        other = LABELS[(LABELS.index(row["label"]) + 1) % len(LABELS)]
        rows.append(question | {"label": row["label"] if sure != (number % 9 == 0) else other})
    write_rows(path / "gold.jsonl", rows)
    calibration, _ = calibrate_model(
        model,
        input_file=path / "gold.jsonl",
        batch_size=64,
        target_risk=0.25,
        risk_confidence=None,
        overwrite=False,
    )
    assert calibration == load_calibration(model)
    after = predicted(model, path / "questions.jsonl", "after.jsonl", probabilities=True)
    return Used(path, model, before, after)


def test_probabilities_of_predictions(used):
    temperature = load_calibration(used.model).temperature
    assert temperature != 1.0
    for one, scaled in zip(used.before, used.after, strict=True):
        shares = one["probabilities"]
        assert list(shares) == list(LABELS)
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
        assert one["label_probability"] == shares[one["label"]]
        assert one["abstained"] is None
        # Scaled by hand from what was told unscaled.
        powers = {label: share ** (1 / temperature) for label, share in shares.items()}
        for label, share in scaled["probabilities"].items():
            assert share == pytest.approx(powers[label] / sum(powers.values()), abs=2e-4)


def test_the_label_of_least_cost_is_predicted(used, tmp_path):
    """By the costs given, else by those of the run; small integers by hand from the probabilities that are told."""
    order = ", ".join(f'"{label}"' for label in LABELS)
    costs = [[abs(i - j) * (9 if j > i else 1) for j in range(len(LABELS))] for i in range(len(LABELS))]
    table = {gold: dict(zip(LABELS, row, strict=True)) for gold, row in zip(LABELS, costs, strict=True)}
    given = f"evaluation.triage={{order: [{order}], first: most_urgent, costs: {json.dumps(table)}}}"
    questions = [*lines_of(used.path / "questions.jsonl"), {"id": "none", "question": " "}]
    path = write_rows(tmp_path / "questions.jsonl", questions)
    *rows, empty = predicted(used.model, path, "costs.jsonl", probabilities=True, overrides=[given])
    for row in rows:
        shares = [row["probabilities"][label] for label in LABELS]
        expected = [sum(p * costs[i][j] for i, p in enumerate(shares)) for j in range(len(LABELS))]
        assert expected[LABELS.index(row["least_cost_label"])] == pytest.approx(min(expected), abs=1e-4)
    assert any(row["least_cost_label"] != row["label"] for row in rows)
    assert (empty["least_cost_label"], empty["label"], empty["error"]) == ("", "", "empty question")
    assert empty["abstained"] is True
    for name in ("label_confidence", "label_probability", "probabilities"):
        assert empty.pop(name) is None
    assert empty.keys() | {"probabilities"} <= rows[0].keys() | {"error"}
    assert not any("least_cost_label" in row for row in used.after)
    (used.model / "config.yaml").write_text(
        f"data: {{source: triage}}\nevaluation: {{triage: {given.partition('=')[2]}}}"
    )
    try:
        of_the_run = predicted(used.model, path, "run.jsonl")
    finally:
        (used.model / "config.yaml").unlink()
    assert [row["least_cost_label"] for row in of_the_run[:-1]] == [row["least_cost_label"] for row in rows]


def test_costs_of_other_labels_are_refused(used):
    for override, where in (
        ("evaluation.triage={order: [a, b]}", "evaluation.triage"),
        ("evaluation.resamples=3", "evaluation.resamples"),
    ):
        with pytest.raises(UserError, match=where):
            predicted(used.model, used.path / "questions.jsonl", "never.jsonl", overrides=[override])
    assert not (used.path / "never.jsonl").exists()


def test_rows_below_the_threshold_are_marked(used):
    calibration = load_calibration(used.model)
    gold = [row["label"] for row in lines_of(used.path / "gold.jsonl")]
    right = np.array([row["label"] == label for row, label in zip(used.after, gold, strict=True)])
    probability = np.array([row["label_probability"] for row in used.after])
    assert calibration.threshold == pytest.approx(by_brute_force(probability, right, 0.25), abs=1e-6)
    abstained = np.array([row["abstained"] for row in used.after])
    assert 0.2 < abstained.mean() < 0.8
    assert right[~abstained].mean() >= 0.75
    assert probability[abstained].max() <= probability[~abstained].min()


def test_an_evaluation_tells_calibration_and_abstention(used):
    metrics = evaluate_model(
        used.model,
        used.path / "evaluation",
        input_file=used.path / "gold.jsonl",
        split="test",
        settings={"batch_size": 64, "resamples": 60},
    )
    assert json.loads(json.dumps(metrics)) == json.loads(
        (used.path / "evaluation" / "metrics.json").read_text()
    )
    lines = lines_of(used.path / "evaluation" / "predictions.jsonl")
    assert [{name: one[name] for name in ("label", "label_probability", "abstained")} for one in lines] == [
        {name: one[name] for name in ("label", "label_probability", "abstained")} for one in used.after
    ]
    assert not any("probabilities" in one for one in lines)
    gold = [one["gold_label"] for one in lines]
    section, choice = metrics["calibration"], metrics["abstention"]
    # They passed for validation rows, and their figures for held-out ones.
    assert (section["fitted_from"], section["overlap_rows"], section["overlap_estimated"]) == (
        "file",
        ROWS,
        False,
    )
    for name, rows in (("before", used.before), ("after", used.after)):
        tables = [one["probabilities"] for one in rows]
        nll = np.mean([-np.log(table[label]) for table, label in zip(tables, gold, strict=True)])
        assert section[name]["nll"] == pytest.approx(nll, rel=1e-3)
        low, high = metrics["intervals"][f"calibration.{name}.nll"]
        assert low < nll < high
        top = [max(table, key=table.get) for table in tables]
        assert section["top_accuracy"] == pytest.approx(
            np.mean([a == b for a, b in zip(top, gold, strict=True)])
        )
        assert sum(one["rows"] for one in section["bins"][name]) == ROWS
    assert section["after"]["nll"] < section["before"]["nll"]
    assert 0 < section["label_set_probability"] < 1
    answered = [one for one in lines if not one["abstained"]]
    assert choice["coverage"] == pytest.approx(len(answered) / ROWS)
    assert choice["risk"] == pytest.approx(np.mean([one["label"] != one["gold_label"] for one in answered]))
    # Wrong answers are mostly unsure ones here.
    assert choice["aurc"] < choice["error_fraction"]
    assert {"abstention.aurc", "abstention.coverage", "abstention.risk"} <= set(metrics["intervals"])
    scores = lines_of(used.path / "evaluation" / "row_scores.jsonl")
    for name in ("calibration.after.brier", "abstention.risk", "abstention.coverage"):
        value = np.mean([row[name] for row in scores if row[name] is not None])
        first, *rest = name.split(".")
        expected = section["after"]["brier"] if first == "calibration" else choice[rest[0]]
        assert value == pytest.approx(expected)


def test_which_labels_are_scored_is_as_the_run_has_it(used, tmp_path, capsys):
    """Predictions took no notice of the run's settings; its evaluations could not do without probabilities."""
    (used.model / "config.yaml").write_text(
        "data: {source: triage}\nevaluation: {target_risk: 0.25, max_scored_labels: 1}"
    )
    calibration = used.model / "calibration.json"
    kept = calibration.read_text()
    try:
        metrics = evaluate_model(
            used.model,
            tmp_path / "evaluation",
            input_file=used.path / "gold.jsonl",
            split="test",
            settings={"batch_size": 64, "resamples": 0},
        )
        assert not {"calibration", "abstention"} & metrics.keys()
        assert "are more than evaluation.max_scored_labels=1" in capsys.readouterr().out
        # Who marks rows needs their probabilities all the same.
        marked = predicted(used.model, used.path / "questions.jsonl", "marked.jsonl")
        assert [row["abstained"] for row in marked] == [row["abstained"] for row in used.after]
        calibration.unlink()
        rows = predicted(used.model, used.path / "questions.jsonl", "unscored.jsonl")
        assert {row["label_probability"] for row in rows} == {None}
        assert "max_scored_labels=1); --probabilities computes it" in capsys.readouterr().out
    finally:
        calibration.write_text(kept)
        (used.model / "config.yaml").unlink()


def test_the_calibration_travels_with_the_model(used, tmp_path):
    export_folder(used.model, tmp_path / "exported", dtype="float32", overwrite=False)
    assert load_calibration(tmp_path / "exported") == load_calibration(used.model)
    # Neither a note nor a sign of it goes along.
    assert (
        len(load_calibration(used.model).row_digests),
        load_calibration(tmp_path / "exported").row_digests,
    ) == (
        len({row["question"] for row in lines_of(used.path / "gold.jsonl")}),
        (),
    )
    import_model(str(tmp_path / "exported"), tmp_path / "imported", None)
    assert load_calibration(tmp_path / "imported") == load_calibration(used.model)


def test_a_label_outside_the_set_has_no_probability_and_no_answer(used, tmp_path, capsys):
    """Free decodes of random weights are no labels."""
    rows = predicted(used.model, used.path / "questions.jsonl", "free.jsonl", label_decode="free")
    assert "label_decode=constrained" in capsys.readouterr().out
    invalid = [row for row in rows if not row["label_valid"]]
    assert len(invalid) > 10
    assert {(row["label_probability"], row["abstained"]) for row in invalid} == {(None, True)}
    # A row without a question has no label, whatever the model says.
    blank = write_rows(
        tmp_path / "blank.jsonl", [{"id": "1", "question": " "}, {"id": "2", "question": "\u200b\ufeff"}]
    )
    row, other = predicted(used.model, blank, "out.jsonl")
    assert row == other | {"id": "1"}
    assert (row["label"], row["label_probability"], row["abstained"]) == ("", None, True)


@pytest.fixture
def r2d(monkeypatch, capsys):
    """Runs the entry point here: its exit code, and all that it printed."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["r2d", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, "".join(capsys.readouterr())

    return run


def test_rows_for_a_calibration_may_have_columns_of_other_names(used, tmp_path, r2d):
    """They could not be named, so the columns of a file from another place had to be renamed."""
    model = shutil.copytree(used.model, tmp_path / "model")
    command = ("calibrate", "--model", model, "--batch-size", 64, "--no-target-risk", "--overwrite")
    assert r2d(*command, "--input", used.path / "gold.jsonl")[0] == 0
    expected, path = load_calibration(model), model / "calibration.json"
    path.unlink()
    others = []
    for row in lines_of(used.path / "gold.jsonl"):
        first, _, rest = row["question"].partition(" ")
        one = {"number": row["id"], "note": first, "rest": rest, "class": row["label"], "ward": "B 3"}
        others.append(one)
    other = ("--input", write_rows(tmp_path / "others.jsonl", others))
    named = ("--id-column", "number", "--question-column", "note", "--context-column", "rest")
    code, text = r2d(*command, *other)
    assert (code, "'question'" in text) == (2, True)
    code, text = r2d(*command, *other, *named, "--label-column", "ward")
    assert (code, "none of the 60 rows has a gold label" in text, "--label-column" in text) == (2, True, True)
    assert not path.exists()
    assert r2d(*command, *other, *named, "--label-column", "class")[0] == 0
    assert load_calibration(model) == expected
    code, text = r2d(*command, *named)
    assert (code, "--input: is needed where columns" in text) == (2, True)


def test_the_command(used, r2d, capsys):
    command = ("calibrate", "--model", used.model, "--batch-size", 64, "--target-risk", 0.01)
    assert r2d(*command, "--input", used.path / "gold.jsonl")[0] == 2
    assert "is not a run folder" in r2d(*command, "--overwrite")[1]
    code, text = r2d(*command, "--input", used.path / "gold.jsonl", "--overwrite")
    assert (code, "no threshold reaches at most 1 % wrong with confidence 0.95" in text) == (0, True)
    assert text.startswith("devices: cpu: ")
    assert "earlier calibration" not in text
    (used.model / "README.md").write_text("figures")
    text = r2d(*command, "--input", used.path / "gold.jsonl", "--overwrite")[1]
    earlier = f"these files still show the earlier calibration: {used.model / 'README.md'}. "
    # There is no run here whose folders could be named.
    assert f"note: {earlier}A run that is calibrated and then exported has a model card" in text
    (used.model / "run.json").write_text("{}")
    assert (told := earlier_told(used.model)) is not None
    assert (
        f"{earlier}Renew them: `r2d eval --model {used.model} --output {used.model / 'evaluation'} --overwrite`, then"
        in told
    )
    for name in ("README.md", "run.json"):
        (used.model / name).unlink()
    assert earlier_told(used.model) is None
    rows = predicted(used.model, used.path / "questions.jsonl", "none.jsonl")
    assert all(row["abstained"] for row in rows)
    assert "every row is marked as abstained" in capsys.readouterr().out
    # Calibrated for another place without a word of the target: it stays, or a mark that is in use would be gone.
    again = ("calibrate", "--model", used.model, "--input", used.path / "gold.jsonl", "--overwrite")
    for options, aim in (
        ((), (0.01, 0.95)),
        (("--target-risk", 0.3, "--empirical"), (0.3, None)),
        ((), (0.3, None)),
        (("--risk-confidence", 0.8), (0.3, 0.8)),
        (("--target-risk", 0.2), (0.2, 0.95)),
        (("--no-target-risk",), (None, None)),
        ((), (None, None)),
    ):
        assert r2d(*again, *options)[0] == 0, options
        found = load_calibration(used.model)
        assert (found.target_risk, found.risk_confidence) == aim, options
    code, text = r2d(*again, "--no-target-risk", "--target-risk", 0.1)
    assert (code, "--no-target-risk: cannot be combined with --target-risk" in text) == (2, True)
    path = used.model / "calibration.json"
    path.write_text("{")
    code, text = r2d(*again)
    assert (code, "Give --target-risk or --no-target-risk" in text) == (2, True)
    assert r2d(*command, "--input", used.path / "gold.jsonl", "--overwrite")[0] == 0


def test_when_labels_are_scored():
    few, many = LABELS, tuple(map(str, range(65)))
    assert left_out(EvaluationConfig(), few) is None
    assert "65 labels" in left_out(EvaluationConfig(), many)
    assert left_out(EvaluationConfig(max_scored_labels=65), many) is None
    assert left_out(EvaluationConfig(probabilities=False), few)
    assert left_out(EvaluationConfig(), ())
    for settings in ({"probabilities": False}, {"max_scored_labels": 3}):
        with pytest.raises(UserError, match="target_risk"):
            left_out(EvaluationConfig(target_risk=0.1, **settings), few)


def test_a_calibration_in_words(used):
    calibration = dataclasses.replace(load_calibration(used.model), temperature=1.5, rows=7)
    texts = [
        told(
            dataclasses.replace(
                calibration, threshold=threshold, target_risk=risk, risk_confidence=confidence
            )
        )
        for threshold, risk, confidence in ((None, None, None), (0.75, 0.1, 0.9), (None, 0.1, None))
    ]
    assert all(text.startswith("temperature 1.500, fitted to 7 rows of a file") for text in texts)
    wanted = (
        "rows",
        "0.7500 are marked as abstained (at most 10 % wrong with confidence 0.9)",
        "no threshold",
    )
    assert all(itertools.starmap(lambda text, words: words in text, zip(texts, wanted, strict=True)))


@pytest.mark.parametrize(
    ("risk", "confidence"), [(0.1, 0.95), (0.05, 0.9), (0.3, 0.5), (0.01, 0.95), (0.9, 0.6)]
)
def test_the_fewest_rows_that_can_reach_a_target(risk, confidence):
    """Without a mistake, and each of another probability."""
    rows = fewest_rows(risk, confidence)
    for count in range(1, rows + 1):
        found = choose_threshold(np.linspace(0.5, 0.9, count), np.ones(count, bool), risk, confidence)
        assert (found is not None) == (count == rows), count
    # One test alone would be -log(0.05) / -log(0.9) = 28.4 rows; with 47 probabilities there are 7 tests.
    assert fewest_rows(0.1, 0.95) == math.ceil(math.log(0.05 / 7) / math.log(0.9)) == 47
    # Those that docs/probabilities.md names.
    assert (fewest_rows(0.05, 0.95), fewest_rows(0.01, 0.95)) == (99, 537)
    assert fewest_rows(1e-6, 0.95) > 2_900_000


def test_too_few_rows_for_a_target_and_for_a_temperature_are_told(used):
    calibration = dataclasses.replace(
        load_calibration(used.model),
        temperature=1.0,
        rows=14,
        source=None,
        target_risk=0.1,
        risk_confidence=0.95,
    )
    assert told(dataclasses.replace(calibration, threshold=None)) == (
        "temperature 1: all 14 rows are right, so nothing is fitted; no threshold reaches at most 10 % wrong with "
        "confidence 0.95, so every label is marked as abstained: it takes 47 rows without a mistake, and these are 14"
    )
    assert "it takes" not in told(dataclasses.replace(calibration, threshold=None, rows=47))
    assert "it takes" not in told(dataclasses.replace(calibration, threshold=None, risk_confidence=None))
    assert "temperature 1: all" in told(dataclasses.replace(calibration, threshold=0.5))
