"""What a user's mistakes end in: one line on stderr, exit code 2, nothing trained, nothing lost, no case text told."""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from ruamel.yaml import YAML

from r2d_jax import cli
from r2d_jax.evaluation.metrics import label_metrics

ROOT = pathlib.Path(__file__).parents[1]
# No piece of a vocabulary spans blanks or signs, so one trained here can hold a word but never all of it.
SECRET, SECRET_WORDS = "Zyzzyva-Quokka 4711", ("Zyzzyva", "Quokka")
LABELS = ("urgent", "not urgent")


def make_rows(**third):
    """30 rows; `third` changes line 3, ... removes a field from it."""
    rows = [
        {
            "id": f"case-{index}",
            "split": split,
            "question": f"Patient  {SECRET} fell on day {index}",
            "context": f"Seen by {SECRET} in room {index}",
            "label": LABELS[index % 2],
            "rationale": f"Since {SECRET} fell, it is so.",
        }
        for index, split in enumerate(["train"] * 18 + ["validation"] * 6 + ["test"] * 6)
    ]
    rows[2] = {name: value for name, value in (rows[2] | third).items() if value is not ...}
    return rows


def as_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def settings(data):
    stage = {"max_steps": 3, "batch_size": 8, "eval_every_steps": 3, "save_every_steps": 3, "log_every_steps": 1}
    shape = {"d_model": 16, "d_ff": 16, "d_kv": 4, "num_heads": 2, "num_layers": 2, "num_decoder_layers": 2}
    return {
        "data": {
            "path": str(data),
            "columns": {"id": "id", "split": "split", "context": "context"},
            "input_limit_tokens": 64,
            "rationale_limit_tokens": 8,
        },
        "tokenizer": {"train_vocab_size": 200},
        "model": {"shape": shape},
        "stage1": stage,
        "stage2": stage,
        "evaluation": {"batch_size": 8},
    }


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    def refused(self, *wanted):
        """One line, in the house form, with each of `wanted` (regular expressions) in it; no case text."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        for pattern in wanted:
            assert re.search(pattern, lines[0]), (pattern, lines[0])
        assert self.code == 2
        for word in SECRET_WORDS:
            assert word not in self.out + self.err
        assert "stage 1: step" not in self.out

    def done(self, *wanted):
        assert (self.code, self.err) == (0, "")
        for pattern in wanted:
            assert re.search(pattern, self.out), (pattern, self.out)


def in_a_process(*arguments, cwd, devices=1):
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "100",
        # Halves the time to compile; what is computed does not matter here.
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    command = [sys.executable, "-m", "r2d_jax.cli", *map(str, arguments)]
    process = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, timeout=300)
    return Ended(process.returncode, process.stdout, process.stderr)


@pytest.fixture
def r2d(monkeypatch, capfd):
    """Runs the entry point here, which is quicker than a process of its own."""

    def run(*arguments):
        capfd.readouterr()
        monkeypatch.setattr("sys.argv", ["r2d", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        code = stop.value.code
        return Ended(0 if code is None else code, *capfd.readouterr())

    return run


@pytest.fixture(autouse=True, scope="module")
def compile_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("R2D_COMPILE_CACHE", str(tmp_path_factory.mktemp("compiled")))
        yield pathlib.Path(os.environ["R2D_COMPILE_CACHE"])


@pytest.fixture
def job(tmp_path, r2d):
    """`r2d run` in a new workdir on given text of a data file; stages must never begin."""
    data, config, workdir = tmp_path / "rows.jsonl", tmp_path / "config.yaml", tmp_path / "new" / "workdir"

    def run(text=None, *overrides):
        data.write_text(as_lines(make_rows()) if text is None else text, encoding="utf-8")
        if not config.exists():
            YAML().dump(settings(data), config)
        ended = r2d("run", "--config", config, "--workdir", workdir, *overrides)
        assert not [path for path in workdir.rglob("*") if path.is_file()]
        return ended

    return run


def snapshot(folder):
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@dataclasses.dataclass(frozen=True)
class Trained:
    """A finished run and all that its process said."""

    home: pathlib.Path
    workdir: pathlib.Path
    ended: Ended
    files: dict[pathlib.Path, str]

    @property
    def arguments(self):
        return ("run", "--config", self.home / "config.yaml", "--workdir", self.workdir)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A relative --workdir (B056); the last step is also one to save at (B055)."""
    home = tmp_path_factory.mktemp("home")
    (home / "rows.jsonl").write_text(as_lines(make_rows()), encoding="utf-8")
    YAML().dump(settings(home / "rows.jsonl"), home / "config.yaml")
    ended = in_a_process("run", "--config", "config.yaml", "--workdir", "runs/first", cwd=home)
    assert ended.code == 0, ended.err
    workdir = home / "runs" / "first"
    return Trained(home, workdir, ended, snapshot(workdir))


@pytest.fixture
def kept(trained):
    """The finished run; whatever a test does, not a byte of it may change."""
    yield trained
    assert snapshot(trained.workdir) == trained.files


# Data


@pytest.mark.parametrize(
    ("third", "wanted"),
    [
        ({"label": ""}, ["field 'label': is empty", "Fill it in"]),
        ({"label": " \t"}, ["field 'label': is empty", "Fill it in"]),
        ({"rationale": ""}, ["field 'rationale': is empty", "Fill it in"]),
        ({"question": ""}, ["field 'question': is empty", "Fill it in"]),
        ({"label": 1}, ["field 'label': is a number, not text", 'in quotes, for example "1"']),
        ({"label": 2.5}, ["field 'label': is a number, not text"]),
        ({"label": True}, ["field 'label': is true or false, not text"]),
        ({"label": None}, ["field 'label': is null, not text"]),
        ({"rationale": [SECRET]}, ["field 'rationale': is a list, not text"]),
        ({"rationale": ...}, ["field 'rationale': is missing", "Fill it in"]),
        ({"id": "case-0"}, ["has the id of line 1", "an id of its own"]),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_field(job, third, wanted):
    job(as_lines(make_rows(**third))).refused(r"rows\.jsonl line 3\b", *wanted)


def test_a_broken_row_after_blank_lines_is_named_by_its_physical_line(job):
    """B020."""
    good = [json.dumps(row) for row in make_rows()]
    broken = f'{{"question": "{SECRET}"'
    job("\n".join([good[0], "", good[1], broken, *good[4:]])).refused(
        r"rows\.jsonl line 4: is not JSON", "one object a line"
    )
    job("\n".join([good[0], json.dumps([SECRET])])).refused(r"line 2: is a list, not an object", "Write {...}")
    job(json.dumps(make_rows())).refused(r"line 1: is a list", "Write {...}")


def test_a_missing_column_lists_those_there_are(job):
    text = as_lines({("Label" if k == "label" else k): v for k, v in row.items()} for row in make_rows())
    found = "columns found: 'id', 'split', 'question', 'context', 'Label', 'rationale'"
    job(text).refused(r"rows\.jsonl: no column 'label'", found, "Did you mean 'Label'", "data.columns")


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_split(job, split):
    job(as_lines(row for row in make_rows() if row["split"] != split)).refused(
        f"the {split} split has no rows", f"{split}_path"
    )


def test_an_empty_validation_split_that_may_not_be_taken_from_train(job):
    rows = [row for row in make_rows() if row["split"] != "validation"]
    job(as_lines(rows), "data.validation_fraction=0").refused(
        "the validation split has no rows", "data.validation_fraction"
    )


def test_data_that_is_not_there(job, tmp_path):
    job(None, "data.path=absent.jsonl").refused("absent.jsonl: no such file", "Check the path")
    job(None, f"data.path={tmp_path}").refused("is a folder, not a file")
    job("").refused(r"rows\.jsonl: is empty", "Give a file with rows")


@pytest.mark.parametrize("column", ["question", "context", "rationale"])
def test_a_wrong_column_does_not_print_what_it_holds(job, column):
    """The text of the column stands for label or split, so a fault of it concerns case text."""
    job(None, f"data.columns.split={column}").refused(f"field '{column}': values without a split: ", "split_values")
    job(None, f"data.columns.label={column}", "data.label_limit_tokens=2").refused(r"label \(\d+ characters\): ")
    for row in (doubled := make_rows()):
        row[column] = row[column].replace(" ", "  ") + " and so on, at length"
    job(as_lines(doubled), f"data.columns.label={column}").refused(r"label \(\d+ characters\): .* gives it back")


# Settings


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("stage1.max_step=3", [r"config\.yaml, stage1\.max_step: no such setting", "Did you mean 'max_steps'"]),
        ("stage1.max_steps=many", [r"config\.yaml, stage1\.max_steps: .* integer", "'many', str", "Correct"]),
        ("stage1.max_steps=2.5", [r"stage1\.max_steps: .* integer"]),
        ("stage1.max_steps=0", [r"stage1\.max_steps: .* greater than or equal to 1"]),
        ("tensorboard=no", [r"tensorboard: .* boolean"]),
        ("data.columns=question", [r"config\.yaml, data\.columns: "]),
        ("stage1.save_every_steps=4", [r"stage1\.save_every_steps: 4 is beyond the run of 3", "at most 3"]),
        ("stage2.eval_every_steps=4", [r"stage2\.eval_every_steps: 4 is beyond the run of 3", "at most 3"]),
        ("stage2.micro_batches=3", [r"stage2\.batch_size: 8 rows do not divide into 3", "6 or 9"]),
        ("data.label_limit_tokens=2", [r"label '(not )?urgent': it takes \d tokens", "is 2", "Raise the limit"]),
        ("platform=abacus", [r"platform: .*'cpu', 'gpu' or 'tpu'", "'abacus'"]),
        ("platform=tpu", ["platform: the config asks for tpu, JAX found cpu", "set platform=any"]),
        ("mesh.tensor=7", ["mesh: .* tensor=7 does not fit", "product"]),
        ("stage1.rationale_source=nurse", [r"stage1\.rationale_source: 'nurse' is no source", "default"]),
        ("model.init=./absent", [r"\./absent: no such folder or file", "Check the path"]),
        ("stage1", ["override 'stage1': is not KEY=VALUE", "stage1.max_steps=100"]),
        ("seed=[1", ["override seed: its value is not valid YAML", "Quote"]),
    ],
)
def test_a_bad_setting_is_named_with_what_fits(job, override, wanted):
    text = as_lines(row | {"label": row["label"] + " or so"} for row in make_rows())
    job(text if "label_limit" in override else None, override).refused(
        *[pattern.replace("urgent'", "urgent or so'") for pattern in wanted]
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("stage1:\n  max_step: 3\n", [r"bad\.yaml, stage1\.max_step: no such setting", "Did you mean 'max_steps'"]),
        ("sed: 3\n", [r"bad\.yaml, sed: no such setting", "Did you mean 'seed'"]),
        ("stage1: {max_steps: '3'}\n", [r"bad\.yaml, stage1\.max_steps: .* integer", "'3', str"]),
        ("seed: 1\nseed: 2\n", [r"bad\.yaml line 2: is not valid YAML", "Mend this line"]),
        ("seed: 1\nstage1: {max_steps: [}\n", [r"bad\.yaml line 2: is not valid YAML", "Mend this line"]),
        ("- seed\n", [r"bad\.yaml: holds no settings", "Write `key: value`"]),
        ("data: {path: caf\xe9.jsonl}\n", [r"bad\.yaml: is not valid YAML", "UTF-8"]),
        ("extends: nowhere.yaml\n", [r"nowhere\.yaml: no such config file", "Check the path"]),
    ],
)
def test_a_bad_config_file(r2d, tmp_path, text, wanted):
    (tmp_path / "bad.yaml").write_text(text, encoding="latin-1")
    r2d("run", "--config", tmp_path / "bad.yaml", "--workdir", tmp_path / "workdir").refused(*wanted)
    assert not (tmp_path / "workdir").exists()


@pytest.mark.parametrize("name", ["absent.yaml", "."])
def test_a_config_that_is_not_there(r2d, tmp_path, name):
    ended = r2d("run", "--config", tmp_path / name, "--workdir", tmp_path / "workdir")
    ended.refused("no such config file", "configs/ holds examples")


def test_a_batch_that_does_not_divide_over_the_devices(trained, tmp_path):
    """B071: 6 rows on 4 devices, in a process that has 4."""
    ended = in_a_process(*trained.arguments[:-1], tmp_path / "w", "stage2.batch_size=6", cwd=tmp_path, devices=4)
    ended.refused(r"stage2\.batch_size: 6 rows do not divide by 4", "Set 4 or 8")
    assert not list((tmp_path / "w").glob("*"))


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["run", "--config", "config.yaml"], ["run: Missing option '--workdir'"]),
        (["run", "--cfg", "config.yaml"], ["No such option.* --cfg"]),
        (["rum"], ["No such command 'rum'"]),
        (["predict", "--batch-size", "x"], ["'--batch-size': 'x' is not a valid int"]),
        (["train", "--stage", "3"], ["'--stage': 3 is not in the range"]),
        (["export", "--model", "m", "--output", "o", "--overwrite", "False"], ["unexpected extra argument.*False"]),
    ],
)
def test_a_mistyped_command(r2d, arguments, wanted):
    """B104 too: a switch takes no value, so `--overwrite False` cannot mean True."""
    r2d(*arguments).refused(*wanted, "--help. tells what it takes")


# Workdir


def test_a_workdir_of_another_config(r2d, kept):
    r2d(*kept.arguments, "stage2.max_steps=4").refused(
        f"{kept.workdir}: holds a run of another config", "config.yaml", "Choose a new --workdir"
    )


@pytest.mark.parametrize("third", [{"rationale": "Edited."}, {"label": "not urgent"}, {"context": ""}])
def test_rows_edited_between_two_starts(r2d, kept, third):
    data = kept.home / "rows.jsonl"
    before = data.read_bytes()
    data.write_text(as_lines(make_rows(**third)), encoding="utf-8")
    try:
        ended = r2d(*kept.arguments)
    finally:
        data.write_bytes(before)
    ended.refused(f"{kept.workdir}: its run began with other rows", "Restore the data, or choose a new --workdir")


def test_a_second_run_does_nothing_and_says_so(r2d, kept):
    r2d(*kept.arguments).done("this run is finished; nothing to do", str(kept.workdir / "export"))
    # What changes no result may change, and still nothing is done.
    r2d(*kept.arguments, "tensorboard=false", "stage1.log_every_steps=2").done("nothing to do")


def test_a_folder_of_someone_else(r2d, kept, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    r2d(*kept.arguments[:-1], tmp_path).refused("not empty and not a run folder", "thesis.txt", "new --workdir")
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


def test_damaged_marks_of_a_run(r2d, trained, tmp_path):
    copy = shutil.copytree(trained.workdir, tmp_path / "copy")
    (copy / "run.json").write_text('{"config_hash": ')
    r2d(*trained.arguments[:-1], copy).refused(r"run\.json: is damaged", "Restore it")
    assert snapshot(copy).keys() == trained.files.keys()


def test_stage_2_never_starts_from_other_weights(r2d, trained, tmp_path):
    """B046."""
    command = ("train", "--stage", 2, *trained.arguments[1:-1], tmp_path / "new")
    r2d(*command).refused("stage1: stage 1 is not finished here", "r2d train --stage 1")


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
    export(r2d, copy / "stage2/best/3", tmp_path).refused("is no complete checkpoint")
    export(r2d, copy, tmp_path).refused("no best checkpoint of stage2 yet", "Finish training, or name .*stage1")
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
        r2d(*start, tmp_path / "other.jsonl").refused("no column 'question'; columns found: 'text'", "columns")
        r2d(*start, tmp_path).refused("is a folder, not a file", "Name the file")
    (tmp_path / "unlabelled.jsonl").write_text(as_lines(make_rows(label=...)))
    r2d(*start, tmp_path / "unlabelled.jsonl").refused(r"line 3, field 'label': is missing", "Fill it in")
    assert not (tmp_path / "out").exists()


def test_an_output_that_would_be_lost_or_cannot_be(r2d, kept, tmp_path):
    """All told before the first row is decoded."""
    own = tmp_path / "predictions.jsonl"
    own.write_text(as_lines(make_rows()))
    before = own.read_bytes()
    predict = ("predict", "--model", kept.workdir, "--input", own, "--output")
    r2d(*predict, own).refused("is the input itself", "nothing was changed")
    r2d(*predict, tmp_path).refused("is a folder, not a file", "Name the file")
    r2d(*predict, tmp_path / "absent" / "out.jsonl").refused("its folder does not exist", "Create it")
    evaluate = ("eval", "--model", kept.workdir, "--input", own, "--output")
    r2d(*evaluate, tmp_path).refused("is the input itself", "nothing was changed")
    r2d(*evaluate, own).refused("is a file, not a folder", "Name the folder")
    assert own.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [own.name]


def test_an_export_target_that_exists(r2d, kept, tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "thesis.txt").write_text("years of work")
    export(r2d, kept.workdir, tmp_path).refused("out: is not empty", "nothing was changed")
    ended = r2d("export", "--model", kept.workdir, "--output", target, "--overwrite")
    ended.refused("out: is not a model folder, so it is not replaced", "Choose another folder")
    assert [path.name for path in target.iterdir()] == ["thesis.txt"]
    r2d("export", "--model", kept.workdir, "--output", target / "thesis.txt").refused("is a file", "another folder")
    assert (target / "thesis.txt").read_text() == "years of work"
    r2d("export", "--model", kept.workdir, "--output", kept.workdir / "export").refused("is not empty")


# Privacy


def test_a_run_tells_nothing_of_its_rows(trained):
    assert not any(word in trained.ended.out + trained.ended.err for word in SECRET_WORDS)
    assert "stage 2: step 3/3" in trained.ended.out
    assert str(trained.workdir) in trained.ended.out


def holders(folder, text):
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and text.encode() in path.read_bytes()
    }


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
