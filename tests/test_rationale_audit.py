"""`r2d rationales audit`: scores worked out by hand, thresholds, the judge, and label noise that it must find."""

import json
import os

import pytest

pytest_plugins = ["cli_cases", "llm_server"]
pytestmark = pytest.mark.usefixtures("clean_endpoint")

from cli_cases import as_lines, lines_of, snapshot
from llm_server import SCORES, answer

from r2d_jax.config import TriageConfig
from r2d_jax.data.triage import generate
from r2d_jax.errors import UserError
from r2d_jax.runtime import files as files_module

AUDIT = [
    # label, question, rationale; then names, numbers, unsupported, words, copied, reasons
    ("urgent", "HR 124 bpm.", "HR 124 bpm, so urgent.", "gold", 1, 0, 5, 0.0, []),
    ("urgent", "HR 124 bpm.", "HR 142 bpm, so not urgent.", "other", 1, 1, 6, 0.0, ["agreement"]),
    ("not urgent", "Small graze.", "Not-urgent rather than urgent.", "both", 0, 0, 5, 0.0, []),
    ("urgent", "Chest pain.", "Pain in the chest.", "none", 0, 0, 4, 0.0, []),
    ("urgent", "Chest pain.", "\u200b", "none", 0, 0, 0, 0.0, ["empty"]),
    ("urgent", "He has had pain since noon.", "he has had pain since", "none", 0, 0, 5, 1.0, ["copied"]),
    ("urgent", "Fell.", "BP 80/40, HR 130: urgent", "gold", 3, 3, 6, 0.0, ["unsupported numbers"]),
]


@pytest.fixture
def auditing(r2d, server, tmp_path):
    path = tmp_path / "audited.jsonl"
    cases = [dict(zip(("label", "question", "rationale"), row, strict=False)) for row in AUDIT]
    path.write_text(
        as_lines([{"id": str(n), "n": n} | case for n, case in enumerate(cases)]), encoding="utf-8"
    )

    def run(*more):
        return r2d(
            "rationales", "audit", "--input", path, "--id-column", "id", "--output", tmp_path / "a", *more
        )

    return run


def test_an_audit_by_hand(auditing, tmp_path, server):
    flag, passing = tmp_path / "flag.jsonl", tmp_path / "pass.jsonl"
    ended = auditing("--flag", flag, "--filter", passing)
    ended.done(
        "6 rationales of column 'rationale'",
        r"'not urgent' +0 +0 +1 +0 *\n",
        r"'urgent' +2 +1 +0 +2 *\n",
        r"all +2 +1 +1 +2 *\n",
        "4 of 5 numbers are not in the input; 2 rationales have one",
        "4 of 7 rows fail: 1 agreement, 1 copied, 1 empty, 1 unsupported numbers",
    )
    lines = lines_of(tmp_path / "a" / "audit.jsonl")
    for number, (line, row) in enumerate(zip(lines, AUDIT, strict=True)):
        names = ("names", "numbers", "unsupported_numbers", "words", "copied_fraction", "failures")
        assert (line["id"], *(line[name] for name in names)) == (str(number), *row[3:])
        assert line["characters"] == len(row[2].strip(" \u200b"))
    # "hr" and 124 stand there; "hr" does and 142 does not.
    assert [line["grounded_fraction"] for line in lines[:2]] == [1.0, 0.5]
    assert [line["grounded_fraction"] for line in lines[3:5]] == [1.0, None]
    failing = [row[-1] for row in AUDIT]
    given = lines_of(tmp_path / "audited.jsonl")
    assert lines_of(flag) == [
        row | {"rationale_audit": reasons} for row, reasons in zip(given, failing, strict=True)
    ]
    assert lines_of(passing) == [row for row, reasons in zip(given, failing, strict=True) if not reasons]
    result = json.loads((tmp_path / "a" / "audit.json").read_text())
    assert result["names"] == {"gold": 2, "other": 1, "both": 1, "none": 2}
    assert (result["rows"], result["rows_empty"], result["rows_failing"]) == (7, 1, 4)
    # Of 4, 5, 5, 5, 6 and 6 words: a quarter of the way from the first to the second.
    assert result["words"] == {"p05": 4.25, "median": 5.0, "p95": 6.0}
    assert not server.got
    before = snapshot(tmp_path)
    auditing("--flag", flag).refused("is there", "--overwrite")
    auditing("--flag", flag, "--filter", passing, "--overwrite").done()
    assert snapshot(tmp_path) == before
    # Ids and figures, and no text of a case.
    for path in (tmp_path / "a").iterdir():
        assert "graze" not in path.read_text()


@pytest.mark.parametrize(
    ("more", "failing"),
    [
        (("--agreement", "any"), "4 5 6"),
        (("--agreement", "gold"), "1 3 4 5 6"),
        (("--agreement", "only-gold"), "1 2 3 4 5 6"),
        (("--max-unsupported-numbers", 0), "1 4 5 6"),
        (("--max-unsupported-numbers", 3, "--max-copied", 1), "1 4"),
        (("--min-grounded", 0.6), "1 4 5 6"),
        (("--min-words", 5), "1 3 4 5 6"),
        (("--max-words", 5), "1 4 5 6"),
    ],
)
def test_thresholds(auditing, tmp_path, more, failing):
    auditing(*more).done()
    lines = lines_of(tmp_path / "a" / "audit.jsonl")
    assert " ".join(line["id"] for line in lines if line["failures"]) == failing


def test_options_of_an_audit(auditing, tmp_path, server):
    auditing("--agreement", "all").refused("--agreement: 'all' is not known")
    auditing("--base-url", server.url).refused("--base-url: goes with --judge only")
    auditing("--judge").refused("--base-url: is not given")
    auditing("--dry-run").refused("--dry-run: goes with --judge only")
    auditing("--filter", tmp_path / "audited.jsonl").refused("is an input")
    auditing("--filter", tmp_path / "x.csv").refused("does not end in .jsonl")
    auditing("--filter", tmp_path / "x.jsonl", "--flag", tmp_path / "x.jsonl").refused(
        "is the file of --filter"
    )
    (tmp_path / "folder").mkdir()
    same = tmp_path / "folder" / ".." / "x.jsonl"
    auditing("--filter", tmp_path / "x.jsonl", "--flag", same).refused("is the file of --filter")
    auditing("--rationale-column", "llm").refused("no column 'llm'")
    assert not (tmp_path / "a").exists()


def test_an_audit_with_a_judge(auditing, tmp_path, server):
    judge = ("--judge", "--base-url", server.url, "--llm", "m")
    server.script = [answer({"justification": "", **SCORES, "grounding": score}) for score in (5, 3, 2)]
    auditing(*judge, "--dry-run").done("6 rows, 0 of them")
    assert not server.got
    auditing(*judge).done("judge, mean of 6: correctness 4.00, alignment 5.00, grounding 3.17", "1 judge")
    assert len(server.got) == 6
    assert server.got[0].case == {
        "input": "HR 124 bpm.",
        "reference_label": "urgent",
        "predicted_label": "urgent",
        "rationale": "HR 124 bpm, so urgent.",
    }
    lines = lines_of(tmp_path / "a" / "audit.jsonl")
    assert lines[2]["failures"] == ["judge"]
    assert lines[4]["judge"] is None
    auditing(*judge, "--min-judge-score", 4, "--overwrite").done("5 judge")
    assert len(server.got) == 6


def test_a_dry_run_is_not_refused_by_an_audit(auditing, tmp_path, server):
    files = ("--filter", tmp_path / "pass.jsonl", "--flag", tmp_path / "flag.jsonl")
    auditing(*files).done()
    before = snapshot(tmp_path)
    auditing(*files, "--judge", "--base-url", server.url, "--llm", "m", "--dry-run").done("6 rows, 0 of them")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("stopped_at", ["audit.jsonl", "pass.jsonl", "flag.jsonl", "audit.json"])
@pytest.mark.parametrize("again", [(), ("--overwrite",)], ids=["first", "again"])
def test_a_stopped_audit_is_given_again(auditing, tmp_path, monkeypatch, stopped_at, again):
    """The same command was refused by audit.jsonl; --filter and --flag name files that may be anybody's."""
    files = ("--filter", tmp_path / "pass.jsonl", "--flag", tmp_path / "flag.jsonl")
    if again:
        auditing(*files).done()
    replace = os.replace

    def full(partial, path):
        if path.name == stopped_at:
            raise UserError(str(path), "cannot be written (No space left on device)", "Make room.")
        replace(partial, path)

    with monkeypatch.context() as patch:
        patch.setattr(files_module.os, "replace", full)
        auditing(*files, *again).refused(f"{stopped_at}: cannot be written")
    assert not (tmp_path / "a" / "audit.json").exists()
    standing = [path for path in files[1::2] if path.exists()]
    if standing:
        auditing(*files).refused(f"{standing[0].name}: is there already", "add --overwrite")
        for path in standing:
            path.unlink()
    auditing(*files).done("4 of 7 rows fail")
    auditing().refused("audit.json: is there already")


def test_a_file_of_another_command_is_no_stopped_audit(auditing, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "audit.jsonl").write_text('{"id": "1", "rationale_llm": "paid"}\n')
    auditing().refused("audit.jsonl: is there already", "add --overwrite")
    (tmp_path / "a" / "audit.jsonl").write_text("no JSON")
    auditing().refused("audit.jsonl: is there already", "add --overwrite")
    auditing("--overwrite").done()


def test_a_low_score_of_the_judge_fails_by_every_criterion_but_completeness(auditing, tmp_path, server):
    criteria = ("correctness", "alignment", "grounding", "completeness")
    server.script = [answer({"justification": "", **SCORES, name: 2}) for name in criteria]
    auditing("--judge", "--base-url", server.url, "--llm", "m", "--agreement", "any").done("3 judge")
    lines = lines_of(tmp_path / "a" / "audit.jsonl")
    assert [line["failures"] for line in lines[:4]] == [["judge"], ["judge"], ["judge"], []]


def test_label_noise_is_found(r2d, tmp_path):
    """Rationales for the true labels, and labels of which 30 % are wrong: agreement falls by just that."""
    clean, noisy = (
        generate(
            TriageConfig(train_rows=600, validation_rows=1, test_rows=1, label_noise_fraction=share), 0
        ).train
        for share in (0.0, 0.3)
    )
    changed = [a.label != b.label for a, b in zip(clean, noisy, strict=True)]
    assert 0.25 < sum(changed) / 600 < 0.35

    def audited(labelled, name):
        rows = [
            {
                "id": row.row_id,
                "question": row.question,
                "label": label.label,
                "rationale": row.rationales["llm"],
            }
            for row, label in zip(clean, labelled, strict=True)
        ]
        (tmp_path / f"{name}.jsonl").write_text(as_lines(rows), encoding="utf-8")
        out = tmp_path / name
        r2d(
            "rationales", "audit", "--input", tmp_path / f"{name}.jsonl", "--id-column", "id", "--output", out
        ).done()
        return json.loads((out / "audit.json").read_text()), lines_of(out / "audit.jsonl")

    result, _ = audited(clean, "clean")
    assert result["names"] == {"gold": 600, "other": 0, "both": 0, "none": 0}
    result, lines = audited(noisy, "noisy")
    assert result["names"]["gold"] == 600 - sum(changed)
    assert [line["failures"] == ["agreement"] for line in lines] == changed
