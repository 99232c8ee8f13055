"""Bad input ends before training: one line that says where, what and what to do, and exit code 2."""

import json
import os
import pathlib
import re

import pytest
from ruamel.yaml import YAML

from r2d_jax import cli

ROW = {
    "id": "1",
    "split": "train",
    "question": "a secret note",
    "label": "yes",
    "rationale": "a secret reason",
}


def rows(**changes):
    kinds = [("train", "yes"), ("train", "no"), ("validation", "yes"), ("test", "no")]
    made = [
        ROW | {"id": f"{split}{i}", "split": split, "label": label}
        for i, (split, label) in enumerate(kinds * 4)
    ]
    made[2] = {name: value for name, value in (made[2] | changes).items() if value is not ...}
    return made


def settings(data_path, **changes):
    stage = {"max_steps": 4, "batch_size": 8, "eval_every_steps": 2, "save_every_steps": 2}
    return {
        "data": {"path": str(data_path), "columns": {"id": "id", "split": "split"}, "input_limit_tokens": 64},
        "tokenizer": {"train_vocab_size": 150},
        "model": {"shape": {"d_model": 16, "d_ff": 16, "d_kv": 4, "num_heads": 2, "num_layers": 1,
                            "num_decoder_layers": 1}},
        "stage1": stage,
        "stage2": stage,
        **changes,
    }  # fmt: skip


@pytest.fixture
def job(tmp_path, monkeypatch, capsys):
    """Runs `r2d run`; returns (exit code, lines on stderr, workdir)."""
    monkeypatch.setenv("XLA_FLAGS", "")
    data, config = tmp_path / "rows.jsonl", tmp_path / "config.yaml"

    def run(lines=None, *, overrides=(), command=None, **changes):
        if lines is not None:
            text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
            data.write_text(text, encoding="utf-8")
        if not config.exists() or changes:
            YAML().dump(settings(data, **changes), config)
        workdir = tmp_path / "workdir"
        arguments = command or ["run", "--config", str(config), "--workdir", str(workdir), *overrides]
        monkeypatch.setattr("sys.argv", ["r2d", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        errors = capsys.readouterr().err.strip().splitlines()
        return stop.value.code, errors, workdir

    return run


def assert_refused(result, *wanted):
    code, errors, workdir = result
    assert code == 2
    assert len(errors) == 1, errors
    assert errors[0].startswith("error: ")
    for text in wanted:
        assert re.search(text, errors[0]), (text, errors[0])
    assert "secret" not in errors[0]
    assert not list(workdir.glob("stage*"))


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"label": ""}, ["rows.jsonl line 3, field 'label': is empty", "Fill it in"]),
        ({"rationale": "  "}, ["rows.jsonl line 3, field 'rationale': is empty"]),
        ({"question": ""}, ["rows.jsonl line 3, field 'question': is empty"]),
        ({"label": 1}, ["rows.jsonl line 3, field 'label': is int, not text", "quotes"]),
        ({"label": True}, ["line 3, field 'label': is bool, not text"]),
        ({"label": None}, ["line 3, field 'label': is null, not text"]),
        ({"rationale": ["x"]}, ["line 3, field 'rationale': is list, not text"]),
        ({"id": "train0"}, ["line 3: has the id of line 1"]),
        ({"split": "dev"}, ["field 'split': values without a split: 'dev'", "data.split_values"]),
    ],
)
def test_a_bad_row(job, changes, wanted):
    assert_refused(job(rows(**changes)), *wanted)


def test_a_broken_line_is_named_but_not_shown(job):
    """B020: blank lines, and one broken row on physical line 4."""
    lines = [rows()[0], "", rows()[1], '{"question": "a secret note"', *rows()[4:]]
    assert_refused(job(lines), "rows.jsonl line 4: is not JSON")
    assert_refused(job([rows()[0], '["a secret note"]']), "line 2: is a JSON list, not an object")


def test_a_missing_file(job):
    assert_refused(job(overrides=["data.path=absent.jsonl"]), "absent.jsonl: no such file")


def test_a_missing_column(job):
    lines = [
        {("labels" if name == "label" else name): value for name, value in row.items()} for row in rows()
    ]
    assert_refused(job(lines), "no column 'label'; columns found: 'id', 'split'", "Did you mean 'labels'")


def test_an_empty_split(job):
    lines = [row for row in rows() if row["split"] != "test"]
    assert_refused(job(lines), "the test split has no rows", "data.test_path")


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("stage1.max_step=3", ["stage1.max_step: no such setting", "Did you mean 'max_steps'"]),
        ("stage1.max_steps=many", ["stage1.max_steps: should be a valid integer"]),
        ("tensorboard=perhaps", ["tensorboard: should be a valid boolean"]),
        (
            "stage1.save_every_steps=5",
            ["stage1.save_every_steps: 5 is beyond the run of 4 steps", "at most 4"],
        ),
        ("stage2.eval_every_steps=5", ["stage2.eval_every_steps: 5 is beyond"]),
        (
            "stage2.micro_batches=3",
            ["stage2.batch_size: 8 rows do not divide into 3 micro-batches", "6 or 9"],
        ),
        ("data.label_limit_tokens=2", ["label 'no': it takes 3 tokens|label 'yes': it takes [345] tokens"]),
        ("platform=tpu", ["platform: the config asks for tpu, JAX found cpu"]),
        ("mesh.tensor=3", ["mesh: data=-1 fsdp=1 tensor=3 does not fit"]),
        ("stage1.rationale_source=nurse", ["stage1.rationale_source: 'nurse' is no source"]),
        ("data.input_limit_tokens=16", ["data.input_limit_tokens: 16 tokens leave no room"]),
        ("model.init=./absent", ["./absent: no such folder or file"]),
        ("stage1", ["'stage1': is not KEY=VALUE"]),
    ],
)
def test_a_bad_setting(job, override, wanted):
    if "label_limit" in override:
        result = job([row | {"label": row["label"] + " indeed"} for row in rows()], overrides=[override])
        assert_refused(result, "label '(no|yes) indeed': it takes . tokens and data.label_limit_tokens is 2")
    elif "input_limit" in override:
        result = job(
            [row | {"label": row["label"] + " one two three four"} for row in rows()], overrides=[override]
        )
        assert_refused(result, *wanted)
    else:
        assert_refused(job(rows(), overrides=[override]), *wanted)


def test_a_bad_config_file(job, tmp_path):
    config = tmp_path / "bad.yaml"
    command = ["run", "--config", str(config), "--workdir", str(tmp_path / "w")]
    assert_refused(job(command=command), "bad.yaml: no such config file")
    config.write_text("seed: 1\nseed: 2\n")
    assert_refused(job(command=command), "bad.yaml line 2: is not valid YAML")
    config.write_text("stage1: {max_steps: [}\n")
    assert_refused(job(command=command), "bad.yaml line 1: is not valid YAML")


def test_strangers_in_the_workdir_are_left_alone(job, tmp_path):
    (tmp_path / "workdir").mkdir()
    (tmp_path / "workdir" / "thesis.txt").write_text("years of work")
    assert_refused(job(rows()), "workdir: not empty and not a run folder")
    assert (tmp_path / "workdir" / "thesis.txt").read_text() == "years of work"


def test_a_workdir_that_cannot_be_written(job, tmp_path):
    (tmp_path / "workdir").write_text("a file")
    code, errors, _ = job(rows())
    assert code == 2
    assert "cannot be written" in errors[0]


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_another_config_or_other_rows_in_a_started_workdir(job):
    """Nothing already saved is lost."""
    code, errors, workdir = job(rows(), overrides=["stage1.max_steps=4"], command=None)
    assert code == 0, errors
    before = snapshot(workdir)
    code, errors, _ = job(overrides=["stage1.max_steps=6"])
    assert (code, len(errors)) == (2, 1)
    assert "holds a run of another config" in errors[0]
    code, errors, _ = job(rows(question="another secret note"))
    assert (code, len(errors)) == (2, 1)
    assert "its run began with other rows" in errors[0]
    assert snapshot(workdir) == before
    # What does not change the result may change.
    code, errors, _ = job(rows(), overrides=["tensorboard=false", "stage1.log_every_steps=1"])
    assert code == 0, errors


@pytest.mark.parametrize("name", ["predict", "eval", "export"])
def test_a_folder_without_a_model(job, tmp_path, name):
    command = [name, "--model", str(tmp_path), "--output", str(tmp_path / "out")]
    if name == "predict":
        command += ["--input", str(tmp_path / "rows.jsonl")]
    assert_refused(job(command=command), "no r2d_model.json here or above")
    command[2] = str(tmp_path / "absent")
    assert_refused(job(command=command), "absent: no such folder")


def test_stage_2_needs_stage_1(job, tmp_path):
    """B046: never a silent start from other weights."""
    job(rows(), overrides=["platform=tpu"])
    command = [
        "train",
        "--stage",
        "2",
        "--config",
        str(tmp_path / "config.yaml"),
        "--workdir",
        str(tmp_path / "w2"),
    ]
    code, errors, _ = job(command=command)
    assert code == 2
    assert "stage1: stage 1 is not finished here" in errors[0]


def test_case_text_is_in_no_file_but_the_predictions(job):
    code, errors, workdir = job(rows(question="xylophone note", rationale="xylophone reason"))
    assert code == 0, errors
    holders = {
        str(path.relative_to(workdir))
        for path in workdir.rglob("*")
        if path.is_file() and b"xylophone" in path.read_bytes()
    }
    # A vocabulary trained here may hold words of the text, as the README says.
    assert {name for name in holders if not name.endswith("tokenizer.json")} <= {
        "evaluation/predictions.jsonl"
    }


def test_help_explains_every_command(capsys, monkeypatch):
    for command in ([], ["run"], ["train"], ["eval"], ["predict"], ["export"], ["import"]):
        monkeypatch.setattr("sys.argv", ["r2d", *command, "--help"])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 0
        assert len(capsys.readouterr().out) > 200
    assert os.environ.get("JAX_PLATFORMS") == "cpu"
    assert pathlib.Path(cli.__file__).exists()
