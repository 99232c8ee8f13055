"""How far predictions, evaluations and calibrations have come: on stderr alone, by numbers, and not in short runs."""

import io
import json

import numpy as np
import pytest
from cli_cases import compile_cache, r2d, without_progress  # noqa: F401
from rich.console import Console
from test_eval_input import LABELS, QUICK, model  # noqa: F401

from r2d_jax.runtime import row_progress

SPLIT = [np.arange(3), np.arange(3, 6), np.arange(6, 8)]


def passed(rows=8):
    return [len(numbers) for numbers, _ in row_progress.followed(((one, None) for one in SPLIT), rows)]


def test_nothing_is_told_before_its_time(capfd):
    assert passed() == [3, 3, 2]
    with row_progress.row_progress("predicting"):
        assert passed() == [3, 3, 2]
    assert capfd.readouterr() == ("", "")


def test_lines_come_every_so_many_seconds_by_one_clock(monkeypatch, capfd):
    seconds = iter([0.0, 10.0, 29.0, 30.0, 45.0, 61.0, 62.0])
    monkeypatch.setattr(row_progress.time, "monotonic", lambda: next(seconds))
    with row_progress.row_progress("predicting"):
        passed(12_345)
        with row_progress.row_progress("reading labels back"):
            passed()
    told = "predicting: 8 of 12,345 rows\nreading labels back: 6 of 8 rows\n"
    assert capfd.readouterr() == ("", told)


def test_a_terminal_has_a_bar_that_goes_when_it_is_done_or_stopped(monkeypatch, capfd):
    stream = io.StringIO()
    terminal = Console(file=stream, force_terminal=True, width=80)
    monkeypatch.setattr(row_progress, "Console", lambda **_: terminal)

    @row_progress.row_progress("calibrating")
    def stopped():
        batches = row_progress.followed(((one, None) for one in SPLIT), 8)
        next(batches)
        print("a result")
        next(batches)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert "calibrating" in stream.getvalue()
    assert "3/8" in stream.getvalue()
    assert terminal._live_stack == []
    assert capfd.readouterr().out == "a result\n"
    with row_progress.row_progress("predicting"):
        passed()
    assert terminal._live_stack == []


def test_a_process_that_does_not_write_tells_nothing(monkeypatch, capfd):
    monkeypatch.setattr(row_progress, "EVERY_SECS", 0.0)
    monkeypatch.setattr(row_progress, "is_writer", lambda: False)
    with row_progress.row_progress("predicting"):
        passed()
    assert capfd.readouterr() == ("", "")


def test_predict_eval_and_calibrate_tell_their_rows_and_no_text(r2d, model, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(row_progress, "EVERY_SECS", 0.0)
    rows = [
        {"id": f"n{row}", "question": f"Zyzzyva {row}", "label": LABELS[row % 2], "reason": "Since Zyzzyva."}
        for row in range(10)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files, used = ("--input", tmp_path / "rows.jsonl"), ("--model", model)
    for command, doing in (
        (("predict", *used, *files, "--output", tmp_path / "p.jsonl", "--batch-size", "8"), ["predicting"]),
        (
            ("eval", *used, *files, "--output", tmp_path / "out", *QUICK[:1], *QUICK[2:]),
            ["predicting", "reading labels back", "explaining other labels"],
        ),
        (("calibrate", *used, *files, "--batch-size", "8", "--overwrite"), ["calibrating"]),
    ):
        ended = r2d(*command)
        assert ended.code == 0, ended.err
        told = ended.err.splitlines()
        assert {line.partition(":")[0] for line in told} == set(doing), told
        assert told[:2] == [f"{doing[0]}: 8 of 10 rows", f"{doing[0]}: 10 of 10 rows"]
        assert not [name for name in doing if f"{name}: " in ended.out]
        assert without_progress(ended.err) == ""
