"""Temperature, calibration errors and scores of probabilities: by hand, and against scikit-learn and scipy."""

import dataclasses
import json

import numpy as np
import pytest
import sklearn.linear_model
import sklearn.metrics

from r2d_jax.config import ColumnsConfig, T5Config
from r2d_jax.errors import UserError
from r2d_jax.evaluation.calibration import (
    Calibration,
    adaptive_calibration_error_of,
    brier_score,
    calibration_error_of,
    fit_temperature,
    label_probabilities,
    labels_digest,
    load_calibration,
    negative_log_likelihood,
)
from r2d_jax.evaluation.intervals import bootstrap_interval
from r2d_jax.evaluation.model_folder import ModelCard
from r2d_jax.evaluation.report_labels import calibration as bins_of
from r2d_jax.runtime.run_files import MODEL_CARD

LABELS = ("not urgent", "urgent")


def drawn(rows, labels, temperature, seed=0):
    """Scores, and gold labels that are drawn from their softmax at a temperature."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(rows, labels)) * 3 - 5
    shares = np.exp(scores / temperature)
    shares /= shares.sum(axis=1, keepdims=True)
    gold = (rng.random((rows, 1)) > shares.cumsum(axis=1)).sum(axis=1)
    return scores, np.minimum(gold, labels - 1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_rows_were_drawn_with_is_found(temperature):
    scores, gold = drawn(20_000, 4, temperature)
    assert fit_temperature(scores, gold) == pytest.approx(temperature, rel=0.04)


def test_of_two_labels_it_is_logistic_regression():
    """Without intercept and penalty: the slope on the difference of the scores is 1 / temperature."""
    scores, gold = drawn(300, 2, 2.0, seed=1)
    fitted = sklearn.linear_model.LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10)
    fitted.fit((scores[:, 1] - scores[:, 0])[:, None], gold)
    assert fit_temperature(scores, gold) == pytest.approx(1 / fitted.coef_[0, 0], rel=1e-5)


def test_no_temperature_is_better():
    scores, gold = drawn(200, 5, 1.7, seed=2)
    found = fit_temperature(scores, gold)
    grid = [negative_log_likelihood(scores, gold, one).mean() for one in np.geomspace(0.01, 100, 4001)]
    assert negative_log_likelihood(scores, gold, found).mean() <= min(grid)
    # Rows whose gold label is none of the set change nothing.
    more = np.concatenate([scores, -scores])
    assert fit_temperature(more, np.concatenate([gold, np.full(200, -1)])) == found


def test_where_nothing_can_be_fitted():
    scores, _ = drawn(50, 3, 1.0)
    best, worst = scores.argmax(axis=1), scores.argmin(axis=1)
    # All right: no temperature is low enough, so none is chosen.
    assert fit_temperature(scores, best) == 1.0
    # One row less than right, and there is one.
    assert 0.01 < fit_temperature(scores, np.where(np.arange(50) == 7, worst, best)) < 1.0
    # Worse than chance: the highest there is, so that all labels are about alike.
    assert fit_temperature(scores, worst) == pytest.approx(100, rel=1e-3)
    assert fit_temperature(scores, np.full(50, -1)) == 1.0
    assert fit_temperature(np.zeros((4, 1)), np.zeros(4, int)) == 1.0


def test_probabilities_by_hand():
    scores = np.log([[0.08, 0.02], [0.3, 0.3]])
    np.testing.assert_allclose(label_probabilities(scores, 1.0), [[0.8, 0.2], [0.5, 0.5]])
    # At temperature 2, square roots: 2 to 1.
    np.testing.assert_allclose(label_probabilities(scores, 2.0), [[2 / 3, 1 / 3], [0.5, 0.5]])
    extreme = label_probabilities(np.array([[-900.0, -2000.0]]), 0.01)
    assert extreme.tolist() == [[1.0, 0.0]]


def test_brier_and_likelihood():
    table = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.2, 0.3, 0.5]])
    gold = np.array([0, 1, -1])
    # 0.3² + 0.2² + 0.1², and 0.1² + 0.9² + 0.8².
    np.testing.assert_allclose(brier_score(table, gold), [0.14, 1.46, np.nan])
    np.testing.assert_allclose(
        negative_log_likelihood(np.log(table), gold, 1.0), [-np.log(0.7), -np.log(0.1), np.nan]
    )
    scores, gold = drawn(500, 2, 1.0)
    shares = label_probabilities(scores, 1.3)
    assert negative_log_likelihood(scores, gold, 1.3).mean() == pytest.approx(
        sklearn.metrics.log_loss(gold, shares)
    )
    # scikit-learn counts one of two labels.
    assert brier_score(shares, gold).mean() == pytest.approx(
        2 * sklearn.metrics.brier_score_loss(gold, shares[:, 1])
    )


def of_all(statistic, rows):
    return float(statistic(np.arange(rows)))


def test_calibration_errors_by_hand():
    """15 bins; 0.2 is the upper end of the third, so it lies in it with 0.19 and not with 0.21."""
    confidence = np.array([0.2, 0.19, 0.21, 0.95, 0.97, 1.0, 0.0])
    right = np.array([True, False, False, True, True, False, False])
    # Bins: {0.2, 0.19}: |1 - 0.39|; {0.21}: 0.21; {0.95, 0.97, 1}: |2 - 2.92|; {0}: 0.
    expected = (0.61 + 0.21 + 0.92 + 0) / 7
    assert of_all(calibration_error_of(confidence, right), 7) == pytest.approx(expected)
    # 3 bins of 2, 2 and 3 rows in order: {0, 0.19}: 0.19; {0.2, 0.21}: |1 - 0.41|; {0.95, 0.97, 1}: 0.92.
    assert of_all(adaptive_calibration_error_of(confidence, right, 3), 7) == pytest.approx(1.70 / 7)
    # With a bin for each row, and with more bins than rows, the distance of each row.
    alone = np.abs(right - confidence).mean()
    for bins in (7, 15):
        assert of_all(adaptive_calibration_error_of(confidence, right, bins), 7) == pytest.approx(alone)


def test_equally_sure_rows_count_alike_in_whatever_order_they_stand():
    confidence, right = np.full(150, 0.75), np.arange(150) < 105
    # 70 % of all are right; sorted by that, the first bins would be all right and the last ones all wrong.
    for order in (right, right[::-1], np.random.default_rng(0).permutation(right)):
        assert of_all(adaptive_calibration_error_of(confidence, order), 150) == pytest.approx(0.05)


def test_calibration_error_of_samples_is_that_of_their_rows():
    rng = np.random.default_rng(3)
    confidence = np.round(rng.random(40) ** 0.3, 2)
    right = rng.random(40) < confidence
    samples = rng.integers(0, 40, (2, 5, 40))
    found = calibration_error_of(confidence, right)(samples)
    equal = adaptive_calibration_error_of(confidence, right, 8)(samples)
    for place in np.ndindex(2, 5):
        rows = samples[place]
        assert found[place] == pytest.approx(bins_of(confidence[rows], right[rows], 15)[1])
        # Rows that are equally sure count with the mean of them.
        alike = [
            (right - confidence)[rows][confidence[rows] == one].mean() for one in np.sort(confidence[rows])
        ]
        gaps = [abs(one.sum()) for one in np.array_split(np.array(alike), 8)]
        assert equal[place] == pytest.approx(sum(gaps) / 40)
    # Also of fewer rows than there are.
    few = samples[0, 0, :25]
    assert calibration_error_of(confidence, right)(few) == pytest.approx(
        bins_of(confidence[few], right[few], 15)[1]
    )
    low, high = bootstrap_interval(calibration_error_of(confidence, right), 40, resamples=200)
    assert 0 < low < high < 1


def test_scaling_mends_what_was_scaled():
    """Probabilities that are too sure by a factor of 3 have a large error, and hardly one afterwards."""
    scores, gold = drawn(4000, 3, 3.0, seed=4)
    errors = []
    for temperature in (1.0, fit_temperature(scores[:2000], gold[:2000])):
        table = label_probabilities(scores[2000:], temperature)
        right = table.argmax(axis=1) == gold[2000:]
        errors.append(of_all(calibration_error_of(table.max(axis=1), right), 2000))
    assert errors[0] > 0.15
    assert errors[1] < 0.04


@pytest.fixture
def folder(tmp_path):
    """A model folder with a card and a calibration of its labels."""
    card = ModelCard(T5Config(), LABELS, 4, 64, 8, "float32", "0", ColumnsConfig())
    (tmp_path / MODEL_CARD).write_text(card.to_json())
    write(tmp_path, made())
    return tmp_path


def made(**changes):
    return dataclasses.replace(Calibration(1.25, 0.8, 0.05, 300, labels_digest(LABELS), 0.9), **changes)


def write(folder, calibration):
    (folder / "calibration.json").write_text(calibration.to_json())


def test_the_file_comes_back(folder):
    told = json.loads((folder / "calibration.json").read_text())
    assert told.items() >= {"temperature": 1.25, "threshold": 0.8, "target_risk": 0.05, "rows": 300}.items()
    assert load_calibration(folder) == made()
    # Of another program that knows five fields alone.
    (folder / "calibration.json").write_text(
        json.dumps({name: told[name] for name in ("temperature", "threshold", "target_risk", "rows")})[:-1]
        + f', "labels_sha256": "{labels_digest(LABELS)}"}}'
    )
    assert load_calibration(folder) == made(risk_confidence=None)
    assert (load_calibration(folder).source, load_calibration(folder).row_digests) == (None, ())
    write(folder, made(source="file", row_digests=("0123456789abcdef",)))
    assert load_calibration(folder).row_digests == ("0123456789abcdef",)
    assert (load_calibration(folder) == made(source="file"), load_calibration(folder) == made()) == (
        True,
        False,
    )
    (folder / "calibration.json").unlink()
    assert load_calibration(folder) is None


def test_a_run_is_calibrated_at_its_best_checkpoint_alone(folder):
    other = str(folder / "stage2" / "latest" / "60")
    assert load_calibration(folder, other) is not None
    (folder / "run.json").write_text("{}")
    assert load_calibration(folder, str(folder / "stage2" / "best" / "40")) == made()
    assert load_calibration(folder, other) is None
    assert load_calibration(folder, str(folder / "stage1" / "best" / "40")) is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "is damaged"),
        (json.dumps(dataclasses.asdict(made()) | {"temperature": 0.0}), "is damaged"),
        (json.dumps(dataclasses.asdict(made()) | {"temperature": "Case text"}), "is damaged"),
        (made(labels_sha256=labels_digest(LABELS[::-1])).to_json(), "another label set"),
    ],
)
def test_faulty_files_are_refused(folder, text, fault):
    (folder / "calibration.json").write_text(text)
    with pytest.raises(UserError, match=fault) as told:
        load_calibration(folder)
    assert "Case text" not in str(told.value)


def test_what_is_abstained():
    calibration = made()
    assert [calibration.abstains(one) for one in (0.9, 0.8, 0.79, None)] == [False, False, True, True]
    # No threshold reached the target: no answer is safe.
    assert [made(threshold=None).abstains(one) for one in (1.0, None)] == [True, True]
    assert made(threshold=None, target_risk=None).abstains(0.1) is None
