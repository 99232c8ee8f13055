"""Rows that a calibration was fitted to: told by where they came from, and found again where they are scored."""

import dataclasses
import io

import pytest
from rich.console import Console

from r2d_jax.data.schema import Example
from r2d_jax.evaluation.calibration import Calibration
from r2d_jax.evaluation.fitted_rows import MOST_DIGESTS, fitted_to, overlap, overlap_warning, rows_told
from r2d_jax.evaluation.report import print_results

PLAIN = Calibration(1.5, None, None, 300, "0" * 64)


def rows(start, stop):
    return [
        Example(str(one), f"Note {one}: cough", "yes", {}, f"for {one} days") for one in range(start, stop)
    ]


def test_what_is_stored_has_no_text_and_no_id_and_differs_between_label_sets():
    one = fitted_to(PLAIN, rows(0, 50), "file")
    assert (one.source, len(one.row_digests)) == ("file", 50)
    assert list(one.row_digests) == sorted(one.row_digests)
    text = one.to_json()
    assert not {word for word in ("Note", "cough", "days") if word in text}
    other = fitted_to(dataclasses.replace(PLAIN, labels_sha256="1" * 64), rows(0, 50), "file")
    assert not set(one.row_digests) & set(other.row_digests)


def test_scored_rows_are_found_by_their_text_alone():
    """Another file has other ids, columns and blanks."""
    calibration = fitted_to(PLAIN, rows(0, 50), "validation")
    assert overlap(calibration, rows(0, 50)) == {"overlap_rows": 50, "overlap_estimated": False}
    assert overlap(calibration, rows(40, 90))["overlap_rows"] == 10
    assert overlap(calibration, rows(50, 90))["overlap_rows"] == 0
    moved = [
        Example("x", f"NOTE {one}:  cough for", "no", {"llm": "r"}, f"{one} days\n") for one in range(50)
    ]
    assert overlap(calibration, moved)["overlap_rows"] == 50


def test_what_is_not_known_is_not_counted():
    for calibration in (None, PLAIN):
        assert overlap(calibration, rows(0, 5)) == {"overlap_rows": None, "overlap_estimated": False}


def test_of_many_rows_the_lowest_digests_estimate_the_overlap():
    many = 5 * MOST_DIGESTS
    calibration = fitted_to(PLAIN, rows(0, many), "file")
    assert len(calibration.row_digests) == MOST_DIGESTS
    found = overlap(calibration, rows(many - 8000, many + 2000))
    assert found["overlap_estimated"]
    # 1600 of the 8000 are expected below the highest digest kept; three deviations of their number.
    assert found["overlap_rows"] == pytest.approx(8000, rel=3 / 1600**0.5)
    assert overlap(calibration, rows(many, many + 5000))["overlap_rows"] == 0
    assert overlap(calibration, rows(0, many))["overlap_rows"] == pytest.approx(many, rel=0.06)
    assert overlap(calibration, rows(0, many))["overlap_rows"] <= many


def metrics(**section):
    return {
        "rows": 400,
        "calibration": {"temperature": 1.484, "fitted_rows": 300, "labels": 3, "rows": 400, **section},
        "abstention": {"target_risk": 0.1, "threshold": None, "risk": None},
        "per_class": {},
    }


def printed(told):
    stream = io.StringIO()
    print_results(told, Console(file=stream, width=300))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"fitted_from": "validation"}, "300 validation rows"),
        ({"fitted_from": "file"}, "300 rows of a file"),
        ({"fitted_from": None}, "300 rows"),
        # Of an earlier version, that knew nothing of it.
        ({}, "300 rows"),
    ],
)
def test_the_console_says_what_rows_they_were(section, told):
    """Rows of a file, even the test rows, were called validation rows."""
    text = printed(metrics(**section))
    assert f"temperature 1.484 of {told}\n" in text
    assert f"no threshold reached the target of 10.0 % wrong on {told}, so" in text
    assert "were used to calibrate" not in text
    assert rows_told(300, section.get("fitted_from")) == told


def test_rows_that_are_scored_and_were_fitted_to_are_warned_of():
    text = printed(metrics(fitted_from="file", overlap_rows=300, overlap_estimated=False))
    wanted = "300 of the 400 scored rows were used to calibrate: probabilities and risk look better than on new rows"
    assert f"warning: {wanted}" in text
    about = metrics(overlap_rows=250, overlap_estimated=True)
    assert overlap_warning(about) == f"about 250{wanted[3:]}"
    assert overlap_warning(metrics(overlap_rows=0)) == overlap_warning({}) == ""
