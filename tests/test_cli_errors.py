"""Mistakes with run folders, models and outputs: one line, exit code 2, nothing lost; and no case text told."""

import asyncio
import contextlib
import json
import logging
import os
import pathlib
import re
import shutil
import subprocess
import sys
import types

import pytest

pytest_plugins = ["cli_cases"]

from cli_cases import (
    LABELS,
    ROOT,
    SECRET,
    SECRET_WORDS,
    Trained,
    as_lines,
    holders,
    in_a_process,
    make_rows,
    settings,
    snapshot,
)
from ruamel.yaml import YAML

import r2d_jax
from r2d_jax.config import MeshConfig
from r2d_jax.config_file import load_config
from r2d_jax.errors import UserError
from r2d_jax.evaluation.metrics import label_metrics
from r2d_jax.evaluation.model_folder import load_model
from r2d_jax.runtime.checksums import checksum
from r2d_jax.runtime.locks import alone_in
from r2d_jax.runtime.mesh import make_mesh
from r2d_jax.runtime.outputs import require_not_own
from r2d_jax.training.workdir import Workdir

# Nearly all of the time goes into compiling.
pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, compile_cache):
    """A relative --workdir (B056); the last step is also one to save at (B055)."""
    home = tmp_path_factory.mktemp("home")
    (home / "rows.jsonl").write_text(as_lines(make_rows()), encoding="utf-8")
    YAML().dump(settings(home / "rows.jsonl"), home / "config.yaml")
    ended = in_a_process(
        "run", "--config", "config.yaml", "--workdir", "runs/first", cwd=home, cache=compile_cache
    )
    assert ended.code == 0, ended.err
    workdir = home / "runs" / "first"
    return Trained(home, workdir, ended, snapshot(workdir))


@pytest.fixture
def kept(trained):
    """The finished run; whatever a test does, not a byte of it may change."""
    yield trained
    assert snapshot(trained.workdir) == trained.files


# Workdir


def test_a_batch_that_does_not_divide_over_the_devices(trained, tmp_path, compile_cache):
    """B071: 6 rows on 4 devices, in a process that has 4."""
    ended = in_a_process(
        *trained.arguments[:-1],
        tmp_path / "w",
        "stage2.batch_size=6",
        cwd=tmp_path,
        cache=compile_cache,
        devices=4,
    )
    ended.refused(r"stage2\.batch_size: 6 rows do not divide by 4", "Set 4 or 8")
    assert not list((tmp_path / "w").glob("*"))


def test_a_workdir_of_another_config(r2d, kept):
    r2d(*kept.arguments, "stage2.max_steps=4").refused(
        f"{kept.workdir}: holds a run of another config",
        "stage2.max_steps is 3, here 4 .see config.yaml",
        "Choose a new --workdir, or the config it was started with; nothing",
    )


def test_a_workdir_without_a_checkpoint_may_go(tmp_path):
    """Of a run whose first step did not fit into memory: the smaller batch was refused, and nothing said why."""
    begun = Workdir(tmp_path)
    begun.check(load_config(None, ["data.source=triage"]))
    begun.start(load_config(None, ["data.source=triage"]), "rows")
    smaller = load_config(None, ["data.source=triage", "stage1.batch_size=8"])
    with pytest.raises(
        UserError, match=r"stage1\.batch_size is 64, here 8.*or remove it: it holds no checkpoint; n"
    ):
        Workdir(tmp_path).check(smaller)


@pytest.mark.parametrize("third", [{"rationale": "Edited."}, {"label": "not urgent"}, {"context": ""}])
def test_rows_edited_between_two_starts(r2d, kept, third):
    data = kept.home / "rows.jsonl"
    before = data.read_bytes()
    data.write_text(as_lines(make_rows(**third)), encoding="utf-8")
    try:
        ended = r2d(*kept.arguments)
    finally:
        data.write_bytes(before)
    ended.refused(
        f"{kept.workdir}: its run began with other rows", "Restore the data, or choose a new --workdir"
    )


def times_of(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_second_run_does_nothing_and_says_so(r2d, kept):
    before = times_of(kept.workdir)
    r2d(*kept.arguments).done("this run is finished; nothing to do", str(kept.workdir / "export"))
    # What changes no result may change, and still nothing is done.
    r2d(*kept.arguments, "tensorboard=false", "stage1.log_every_steps=2").done("nothing to do")
    assert times_of(kept.workdir) == before


def test_a_finished_run_whose_evaluation_was_begun_anew_evaluates_again(r2d, kept, tmp_path):
    """`r2d eval --overwrite` that failed in its folder left it without figures, and it was still "finished".

    Calibration and export are the user's by then: both were written anew, without a word.
    """
    copy = shutil.copytree(kept.workdir, tmp_path / "w")
    figures, calibration = copy / "evaluation" / "metrics.json", copy / "calibration.json"
    figures.unlink()
    changed = json.loads(calibration.read_text()) | {"target_risk": 0.4, "threshold": 0.3}
    calibration.write_text(json.dumps(changed))
    (copy / "export" / "NOTES.txt").write_text("mine")
    before = times_of(copy / "export")
    r2d(*kept.arguments[:-1], copy).done(
        "evaluating", "calibration: kept, as it is there", "export: kept, as"
    )
    assert json.loads(calibration.read_text()) == changed
    assert times_of(copy / "export") == before
    assert json.loads(figures.read_text())["abstention"]["target_risk"] == 0.4


def test_what_lies_in_the_export_of_an_unfinished_run_is_told_before_any_work(r2d, kept, tmp_path):
    copy = shutil.copytree(kept.workdir, tmp_path / "w")
    state = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(state | {"run_done": False}))
    (copy / "export" / "NOTES.txt").write_text("mine")
    before = times_of(copy / "export")
    r2d(*kept.arguments[:-1], copy).refused("export: holds NOTES.txt, which no export writes", "Move it away")
    assert times_of(copy / "export") == before
    (copy / "export" / "NOTES.txt").unlink()
    (copy / "calibration.json").write_text("{}")
    r2d(*kept.arguments[:-1], copy).refused("calibration.json: is damaged", "Remove it")


def test_a_folder_of_someone_else(r2d, kept, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    r2d(*kept.arguments[:-1], tmp_path).refused(
        "not empty and not a run folder", "thesis.txt", "new --workdir"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_workdir_that_cannot_be_written(r2d, kept, tmp_path):
    (tmp_path / "file").write_text("")
    places = [tmp_path / "file", tmp_path / "file" / "below"]
    # Stands for a read-only disk: no permission bits, which root would ignore.
    places += [pathlib.Path("/proc/workdir")] if pathlib.Path("/proc/self").exists() else []
    for place in places:
        r2d(*kept.arguments[:-1], place).refused(f"{place}: cannot be written", "Choose another --workdir")


def test_a_folder_without_write_permission(r2d, kept, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere; the test of /proc stands for this one")
    tmp_path.chmod(0o500)
    try:
        r2d(*kept.arguments[:-1], tmp_path).refused("cannot be written", "Choose another --workdir")
    finally:
        tmp_path.chmod(0o700)


def test_a_bucket_is_not_taken_for_a_local_folder(r2d, kept, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = next(argument for argument in kept.arguments if str(argument).endswith("config.yaml"))
    r2d("run", "--config", config, "--workdir", "gs://bucket/run").refused(
        "gs:/+bucket/run", "Mount the bucket"
    )
    assert not list(tmp_path.iterdir())


HOLD = """
import pathlib, sys, time
from r2d_jax.runtime.locks import alone_in
with alone_in(pathlib.Path(sys.argv[1])) as alone:
    print(alone, flush=True)
    time.sleep(600)
"""


def test_a_second_command_in_a_workdir_is_refused_while_the_first_lives(r2d, kept):
    """Both wrote into the same files; the log had each step twice."""
    command = [sys.executable, "-c", HOLD, str(kept.workdir)]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert first.stdout.readline() == "True\n"
    for arguments in (kept.arguments, ("train", "--stage", 1, *kept.arguments[1:])):
        r2d(*arguments).refused(f"{kept.workdir}: another command is running in it", "another --workdir")
    first.kill()
    first.wait()
    first.stdout.close()
    r2d(*kept.arguments).done("nothing to do")


def test_a_run_keeps_others_out_until_it_ends(r2d, kept, tmp_path, monkeypatch):
    def step(prepared, workdir, *_):
        with alone_in(workdir.path) as alone:
            raise UserError("here", f"alone: {alone}", "Go on")

    monkeypatch.setattr("r2d_jax.training.run.run_stage", step)
    for arguments in (kept.arguments, ("train", "--stage", 1, *kept.arguments[1:])):
        r2d(*arguments[:-1], tmp_path / "w").refused("here: alone: False")
        with alone_in(tmp_path / "w") as alone:
            assert alone


def test_a_file_where_a_run_has_a_folder_is_told_at_the_start(r2d, trained, tmp_path):
    """It came to light after the training."""
    for name in ("tokens", "stage1", "stage2", "tokenizer", "evaluation", "export"):
        copy = shutil.copytree(trained.workdir, tmp_path / name)
        shutil.rmtree(copy / name)
        (copy / name).write_text("")
        before = snapshot(copy)
        r2d(*trained.arguments[:-1], copy).refused(f"{copy / name}: stands where the run has a folder")
        assert snapshot(copy) == before


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"config_hash": ', "Expecting value"),
        ("[]", "dictionary or an instance"),
        ("null", "dictionary or an instance"),
        ("{}", "config_hash: Field required"),
        ("[" * 100_000, "recursion"),
        ({"config_hash": 1}, "config_hash: "),
        ({"batch_widths": []}, "batch_widths: "),
        ({"batch_widths": {"1": 5}}, r"batch_widths\.1: "),
        ({"batch_widths": {"2": [[8, 8], [8]]}}, r"batch_widths\.2\.1"),
        ({"batch_widths": {"2": [[0, 8]]}}, r"batch_widths\.2\.0"),
        ({"batch_widths": {"2": [["a", 8]]}}, r"batch_widths\.2\.0"),
        ({"stage1_done": "yes"}, "stage1_done: "),
    ],
)
def test_damaged_marks_of_a_run(r2d, trained, tmp_path, text, wanted):
    copy = shutil.copytree(trained.workdir, tmp_path / "copy")
    sound = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(text if isinstance(text, str) else json.dumps(sound | text))
    r2d(*trained.arguments[:-1], copy).refused(r"run\.json: is damaged \(.*" + wanted, "Restore it")
    assert snapshot(copy).keys() == trained.files.keys()


def test_stage_2_never_starts_from_other_weights(r2d, trained, tmp_path):
    """B046."""
    command = ("train", "--stage", 2, *trained.arguments[1:-1], tmp_path / "new")
    r2d(*command).refused("stage1: stage 1 is not finished here", "r2d train --stage 1")


def test_a_finished_stage_1_without_its_best_is_told_as_what_it_is(r2d, trained, tmp_path):
    """The advice was to train stage 1, and that found nothing to do."""
    copy = shutil.copytree(trained.workdir, tmp_path / "copy")
    state = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(state | {"stage2_done": None, "run_done": False}))
    for name in ("stage1", "stage2"):
        shutil.rmtree(copy / name)
    r2d("train", "--stage", 2, *trained.arguments[1:-1], copy).refused(
        "stage1/best: has no checkpoint, though stage 1 is marked as done", "Restore it"
    )


def test_what_is_still_read_of_a_damaged_checkpoint_prints_no_tracebacks(r2d, caplog):
    """Orbax raises the first fault; that of each other array comes when nobody waits for it."""
    caplog.set_level(logging.WARNING, "asyncio")
    r2d("--version").done("r2d_jax")
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        lost = {"message": "Future exception was never retrieved", "exception": ValueError("checksum")}
        loop.call_exception_handler(lost)
    assert not caplog.records


def test_late_answers_of_arrays_are_not_printed_and_other_exceptions_are(r2d, monkeypatch):
    """TensorStore's threads give them to the hook for what nobody can catch."""
    passed_on = []
    monkeypatch.setattr("sys.__unraisablehook__", lambda fault: passed_on.append(str(fault.exc_value)))
    r2d("--version").done("r2d_jax")
    for message in ("Event loop is closed", "another"):
        fault = RuntimeError(message)
        sys.unraisablehook(types.SimpleNamespace(exc_type=RuntimeError, exc_value=fault))
    assert passed_on == ["another"]


def test_stage_2_begins_with_the_best_of_stage_1_and_says_so(trained):
    """B046: folder, step and checksum are those of the checkpoint that it read."""
    told = re.search(
        r"starting from the best of stage 1: (\S+), step (\d+), checksum (\w+)", trained.ended.out
    )
    best = trained.workdir / "stage1" / "best" / "3"
    stored = load_model(best, make_mesh(MeshConfig())).params
    assert told.groups() == (str(best), "3", checksum(stored))


# Models, inputs and outputs


def export(r2d, model, tmp_path):
    return r2d("export", "--model", model, "--output", tmp_path / "out")


@pytest.mark.parametrize(
    ("inside", "used"),
    [
        (".", "stage2/best/3"),
        ("r2d_model.json", "stage2/best/3"),
        ("stage2", "stage2/best/3"),
        ("stage2/best", "stage2/best/3"),
        ("stage2/best/3", "stage2/best/3"),
        ("stage2/best/3/params", "stage2/best/3"),
        ("stage2/latest", "stage2/latest/3"),
        ("stage2/latest/3", "stage2/latest/3"),
        ("stage1", "stage1/best/3"),
        ("stage1/best/3", "stage1/best/3"),
        ("stage2/best/../../stage1", "stage1/best/3"),
        ("export", "export/model.safetensors"),
    ],
)
def test_a_path_into_a_run_gives_the_checkpoint_it_names(r2d, kept, tmp_path, inside, used):
    """B108: too deep is accepted, and never another checkpoint than the one that was named."""
    export(r2d, kept.workdir / inside, tmp_path).done(f"{kept.workdir / used} written to {tmp_path / 'out'}")


def test_a_path_into_a_run_where_no_checkpoint_is(r2d, kept, tmp_path):
    for inside in ("tokenizer", "evaluation/predictions.jsonl", "stage2/tensorboard"):
        ended = export(r2d, kept.workdir / inside, tmp_path)
        ended.refused(f"{inside}: lies in a run but holds no checkpoint", f"Give {kept.workdir}")
    export(r2d, kept.workdir / "stage2/best/4", tmp_path).refused("no such folder")


def test_a_checkpoint_that_is_not_whole(r2d, trained, tmp_path):
    copy = shutil.copytree(trained.workdir, tmp_path / "copy")
    (copy / "stage2/best/3/_CHECKPOINT_METADATA").unlink()
    export(r2d, copy / "stage2/best/3", tmp_path).refused("is not a complete checkpoint")
    export(r2d, copy, tmp_path).refused(
        "no best checkpoint of stage2 yet", "Finish training, or name .*stage1"
    )
    export(r2d, copy / "stage1", tmp_path).done("stage1/best/3")


@pytest.mark.parametrize("command", ["predict", "eval", "export"])
def test_a_folder_without_a_model(r2d, kept, tmp_path, command):
    more = ["--input", kept.home / "rows.jsonl"] if command == "predict" else []
    output = ["--output", tmp_path / "out"]
    (tmp_path / "empty").mkdir()
    r2d(command, "--model", tmp_path / "empty", *output, *more).refused("empty: no r2d_model.json", "workdir")
    r2d(command, "--model", tmp_path / "absent", *output, *more).refused("absent: no such folder", "workdir")
    # B108: one level too high.
    r2d(command, "--model", kept.workdir.parent, *output, *more).refused(f"Did you mean {kept.workdir}")
    assert not (tmp_path / "out").exists()


def test_an_input_that_cannot_be_predicted(r2d, kept, tmp_path):
    """B107: never taken for the text itself."""
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "other.jsonl").write_text(json.dumps({"text": SECRET}) + "\n")
    for command in ("predict", "eval"):
        start = (command, "--model", kept.workdir, "--output", tmp_path / "out", "--input")
        r2d(*start, tmp_path / "absent.jsonl").refused(r"absent\.jsonl: no such file", "Check the path")
        r2d(*start, tmp_path / "empty.jsonl").refused(r"empty\.jsonl: is empty", "file with rows")
        r2d(*start, tmp_path / "other.jsonl").refused(
            "no column 'question', nor 'context'.*; columns found: 'text'", "columns"
        )
        r2d(*start, tmp_path).refused("is a folder, not a file", "Name the file")
    (tmp_path / "unlabelled.jsonl").write_text(as_lines(make_rows(label=...)))
    r2d(*start, tmp_path / "unlabelled.jsonl").refused(r"line 3, field 'label': is missing", "Fill it in")
    assert not (tmp_path / "out").exists()


def test_a_run_of_one_device_predicts_on_all_there_are(r2d, kept, tmp_path):
    output = tmp_path / "out.jsonl"
    start = ("predict", "--model", kept.workdir, "--input", kept.home / "rows.jsonl", "--output", output)
    r2d(*start, "--batch-size", 16).done(f"30 predictions written to {output}")
    assert [json.loads(line)["id"] for line in output.read_text().splitlines()] == [
        row["id"] for row in make_rows()
    ]


def test_a_row_without_a_question_is_not_counted_as_predicted(r2d, kept, tmp_path):
    """It had a confidence, and the message counted it."""
    (tmp_path / "rows.jsonl").write_text(as_lines(make_rows(question=" ")[:4]))
    command = ("predict", "--model", kept.workdir, "--input", tmp_path / "rows.jsonl", "--output")
    r2d(*command, tmp_path / "out.jsonl").done(
        "(?m)^3 predictions written to .*; 1 row without a question is marked and has none"
    )
    first, _, empty, _ = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert (empty["id"], empty["label"], empty["rationale"], empty["error"]) == (
        "case-2",
        "",
        "",
        "empty question",
    )
    assert (empty["label_confidence"], empty["label_probability"]) == (None, None)
    assert not any(empty[name] for name in ("label_valid", "label_finished", "rationale_finished"))
    assert empty.keys() - {"error"} == first.keys()


def test_an_output_that_would_be_lost_or_cannot_be(r2d, kept, tmp_path):
    """All told before the first row is decoded."""
    own = tmp_path / "predictions.jsonl"
    own.write_text(as_lines(make_rows()))
    before = own.read_bytes()
    predict = ("predict", "--model", kept.workdir, "--input", own, "--output")
    r2d(*predict, own).refused("is an input", "nothing was changed")
    r2d(*predict, tmp_path).refused("is a folder, not a file", "Name the file")
    r2d(*predict, tmp_path / "absent" / "out.jsonl").refused("its folder does not exist", "Create it")
    evaluate = ("eval", "--model", kept.workdir, "--input", own, "--output")
    r2d(*evaluate, tmp_path).refused("is an input", "nothing was changed")
    r2d(*evaluate, own).refused("is a file, not a folder", "Name the folder")
    assert own.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [own.name]


def test_predictions_replace_nothing_but_predictions_and_on_request(r2d, kept, tmp_path):
    """A model, its card, the run's own results, a pipe and what a link leads to were written over."""
    exported, imported = (shutil.copytree(kept.workdir / "export", tmp_path / name) for name in ("a", "b"))
    own = [
        kept.workdir / name for name in ("run.json", "evaluation/predictions.jsonl", "stage2/metrics.jsonl")
    ]
    own += [exported / name for name in ("model.safetensors", "r2d_model.json", "README.md")]
    link = tmp_path / "link.jsonl"
    link.symlink_to(kept.home / "config.yaml")
    before = snapshot(tmp_path)
    rows = kept.home / "rows.jsonl"
    for model, output in [*((kept.workdir, one) for one in own), (imported, exported / "config.json")]:
        command = ("predict", "--model", model, "--input", rows, "--output", output)
        for more in ([], ["--overwrite"]):
            r2d(*command, *more).refused("belongs to the (run|model) in", "nothing was changed")
    command = ("predict", "--model", kept.workdir, "--input", rows, "--output")
    r2d(*command, link, "--overwrite").refused("is a device, pipe or link")
    evaluate = ("eval", "--model", kept.workdir, "--input", rows, "--output", kept.workdir / "evaluation")
    r2d(*evaluate).refused("belongs to the run in", "Choose another --output")
    assert snapshot(tmp_path) == before
    output = tmp_path / "out.jsonl"
    output.write_text("years of work")
    r2d(*command, output).refused("is there already", "--overwrite")
    assert output.read_text() == "years of work"
    r2d(*command, output, "--overwrite").done("30 predictions")


def test_no_file_of_a_run_or_model_may_be_written_over(r2d, kept, tmp_path):
    """Names are listed by hand in outputs.py; here are those that are really made."""
    exported, imported = (
        shutil.copytree(kept.workdir / "export", tmp_path / "exported"),
        tmp_path / "imported",
    )
    r2d("import", exported, "--output", imported).done()
    missed = []
    for home in (exported, imported, kept.workdir):
        found = [path for path in home.rglob("*") if path.is_file()]
        assert len(found) > 5
        for path in found:
            with contextlib.suppress(UserError):
                require_not_own(path)
                missed.append(str(path.relative_to(home)))
    assert not missed
    with pytest.raises(UserError, match=f"belongs to the run in {kept.workdir}"):
        require_not_own(max(kept.workdir.rglob("*"), key=lambda path: len(path.parts)))


def test_an_export_target_that_exists(r2d, kept, tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "thesis.txt").write_text("years of work")
    export(r2d, kept.workdir, tmp_path).refused("out: is not empty", "nothing was changed")
    ended = r2d("export", "--model", kept.workdir, "--output", target, "--overwrite")
    ended.refused("out: is not empty and holds no model", "Choose another folder")
    assert [path.name for path in target.iterdir()] == ["thesis.txt"]
    r2d("export", "--model", kept.workdir, "--output", target / "thesis.txt").refused(
        "is a file", "another folder"
    )
    assert (target / "thesis.txt").read_text() == "years of work"
    r2d("export", "--model", kept.workdir, "--output", kept.workdir / "export").refused(
        "holds a model", "--overwrite"
    )


# Privacy


def test_a_run_tells_nothing_of_its_rows(trained):
    assert not any(word in trained.ended.out + trained.ended.err for word in SECRET_WORDS)
    assert "stage 2: step 3/3" in trained.ended.out
    assert str(trained.workdir) in trained.ended.out


def test_case_text_is_in_no_file_of_a_run(trained, compile_cache):
    """A vocabulary trained here holds single words of the text, as the README says, and nothing else does."""
    assert holders(trained.home, SECRET) == {"rows.jsonl"}
    for word in SECRET_WORDS:
        vocabularies = {"tokenizer/tokenizer.json", "export/tokenizer.json"}
        assert holders(trained.workdir, word) - {"evaluation/predictions.jsonl"} <= vocabularies
        assert not holders(compile_cache, word)
    for line in (trained.workdir / "evaluation/predictions.jsonl").read_text().splitlines():
        row = json.loads(line)
        generated = row.pop("label"), row.pop("rationale")
        assert all(SECRET not in text for text in generated)
        assert not any(word in json.dumps(row) for word in SECRET_WORDS)


def test_a_generated_text_that_is_no_label_reaches_no_score():
    """A model may give back its training text where a label belongs; metrics.json and tables are shared freely."""
    metrics = label_metrics(["urgent", "not urgent"], ["urgent", SECRET], LABELS)
    assert metrics["invalid_fraction"] == 0.5
    assert SECRET not in json.dumps(metrics)


def test_a_wrong_label_column_brings_no_note_into_a_score():
    """`r2d eval --label-column note` wrote every note as a label."""
    metrics = label_metrics([SECRET, SECRET, "urgent"], ["urgent"] * 3, LABELS)
    assert metrics["majority_class"]["accuracy"] == pytest.approx(2 / 3)
    assert SECRET not in json.dumps(metrics)


@pytest.mark.parametrize("module", ["r2d_jax", "r2d_jax.cli"])
def test_either_module_is_the_command(module):
    """One of them did nothing, and said with exit code 0 that it was done."""
    command = [sys.executable, "-m", module, "--version"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (ended.returncode, ended.stdout) == (0, f"r2d_jax {r2d_jax.__version__}\n")


def test_a_library_that_only_the_evaluation_needs_is_missed_at_the_start(r2d, tmp_path, monkeypatch):
    """It was missed after the whole of stage 1."""
    monkeypatch.setitem(sys.modules, "sklearn", None)
    ended = r2d("run", "--config", ROOT / "configs" / "debug_cpu.yaml", "--workdir", tmp_path / "run")
    ended.refused("scikit-learn: is not installed", "pip install scikit-learn")
    assert not (tmp_path / "run").exists()
