"""Where commands may write: no address, no device, nothing of a run or model; all told before any work."""

import os
import pathlib

import jax
import pytest

pytest_plugins = ["cli_cases"]

from cli_cases import as_lines, make_rows, settings, snapshot
from ruamel.yaml import YAML

from r2d_jax.errors import UserError
from r2d_jax.runtime import devices, files
from r2d_jax.runtime.outputs import require_distinct, require_file, require_folder, require_not_own
from r2d_jax.training import topology_report

ASKING = ("--base-url", "http://localhost:9/v1", "--llm", "m", "--id-column", "id")
COMMANDS = [
    ("run", "--config", "config.yaml", "--workdir"),
    ("eval", "--model", "absent", "--output"),
    ("predict", "--model", "absent", "--input", "rows.jsonl", "--output"),
    ("export", "--model", "absent", "--output"),
    ("import", "absent", "--output"),
    ("compile", "--config", "config.yaml", "--topology", "v5e:2x4", "--output"),
    ("report", "absent", "--output"),
    ("data", "prepare", "ecqa", "--source", "absent", "--out"),
    ("data", "tfds", "--path", "rows.jsonl", "--out"),
    ("data", "check", "rows.jsonl", "--json"),
    ("judge", "--predictions", "rows.jsonl", "--input", "rows.jsonl", *ASKING, "--output"),
    ("zero-shot", "--input", "rows.jsonl", *ASKING, "--output"),
    ("rationales", "generate", "--input", "rows.jsonl", *ASKING, "--output"),
    ("rationales", "polish", "--input", "rows.jsonl", *ASKING, "--output"),
    ("rationales", "audit", "--input", "rows.jsonl", "--output"),
    ("rationales", "audit", "--input", "rows.jsonl", "--output", "audited", "--filter"),
    ("rationales", "audit", "--input", "rows.jsonl", "--output", "audited", "--flag"),
]


@pytest.fixture
def home(tmp_path, monkeypatch):
    (tmp_path / "rows.jsonl").write_text(as_lines(make_rows()))
    YAML().dump(settings("rows.jsonl"), tmp_path / "config.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("address", ["gs://bucket/x.jsonl", "s3://bucket/x.jsonl"])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda one: " ".join([*one[:2], one[-1]]))
def test_an_address_is_not_taken_for_a_local_folder(r2d, home, command, address):
    before = snapshot(home)
    r2d(*command, address).refused(
        f"{command[-1]} {address[:3]}/+bucket/x.jsonl: buckets", "Mount the bucket"
    )
    assert snapshot(home) == before
    assert not (home / address[:3]).exists()


@pytest.mark.parametrize("name", ["x.csv", "x.TSV", "x.xlsx", "x.parquet"])
def test_predictions_are_not_written_into_a_file_called_a_table(r2d, home, name):
    """JSON lines in a .csv file, which no spreadsheet opens."""
    before = snapshot(home)
    told = rf"(?m)--output {name}: predictions are JSON lines\. Name a file that ends in \.jsonl\.$"
    r2d("predict", "--model", "absent", "--input", "rows.jsonl", "--output", name).refused(told)
    assert snapshot(home) == before


def test_the_cache_of_jax_alone_may_be_an_address(tmp_path, monkeypatch):
    """JAX writes to one itself; ours is a folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("R2D_COMPILE_CACHE", raising=False)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "gs://bucket/compiled")
    monkeypatch.setattr(devices, "write_fault", lambda place: None)
    before = jax.config.jax_compilation_cache_dir
    try:
        assert devices.enable_compile_cache() == "gs://bucket/compiled"
        assert jax.config.jax_compilation_cache_dir == "gs://bucket/compiled"
        monkeypatch.setenv("R2D_COMPILE_CACHE", "gs://bucket/compiled")
        with pytest.raises(UserError, match=r"R2D_COMPILE_CACHE gs:/+bucket/compiled: buckets"):
            devices.enable_compile_cache()
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert not list(tmp_path.iterdir())


def test_what_is_no_regular_file_is_not_replaced(tmp_path):
    rows, link, gone = tmp_path / "rows.jsonl", tmp_path / "link.jsonl", tmp_path / "gone.jsonl"
    rows.write_text("{}")
    link.symlink_to(rows)
    gone.symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe.jsonl")
    for file in (link, gone, tmp_path / "pipe.jsonl", pathlib.Path("/dev/null")):
        with pytest.raises(UserError, match=r"is a device, pipe or link.*nothing was changed"):
            require_file(file, overwrite=True)
        with pytest.raises(UserError, match="is a device, pipe or link"):
            require_folder(file.parent, [file.name])


def test_a_file_that_is_there_is_replaced_on_request_only(tmp_path):
    (tmp_path / "rows.jsonl").write_text("{}")
    with pytest.raises(UserError, match=r"--filter .*rows.jsonl: is there already.*--overwrite"):
        require_file(tmp_path / "rows.jsonl", "--filter", overwrite=False)
    require_file(tmp_path / "rows.jsonl", overwrite=True)
    require_file(tmp_path / "rows.jsonl")
    require_file(tmp_path / "other.jsonl", overwrite=False)
    with pytest.raises(UserError, match=r"does not end in \.html\. Name a file such as rows\.html"):
        require_file(tmp_path / "rows.jsonl", endings=[".html"])
    with pytest.raises(UserError, match="its folder does not exist"):
        require_file(tmp_path / "new" / "rows.jsonl")
    require_file(tmp_path / "new" / "rows.jsonl", made=True)
    with pytest.raises(UserError, match="a file is in the way"):
        require_folder(tmp_path / "rows.jsonl" / "new", ["x.json"])


@pytest.mark.parametrize(
    ("mark", "own", "free"),
    [
        (
            "run.json",
            "run.json config.yaml rows.json r2d_model.json stage1/metrics.jsonl stage2/best/7/params/x export/a.b "
            "tokenizer/tokenizer.json tokens/a.ids evaluation/metrics.json evaluation/predictions.jsonl",
            "mine.jsonl evaluation/mine.jsonl judged/predictions.jsonl again/metrics.json weights/a",
        ),
        (
            "r2d_model.json",
            "r2d_model.json model.safetensors config.json README.md tokenizer.json weights/a tokenizer/a onnx/a",
            "mine.jsonl run.json stage1/a evaluation/predictions.jsonl judged/predictions.jsonl",
        ),
    ],
)
def test_files_of_a_run_or_model_are_its_own_by_any_name(tmp_path, mark, own, free):
    home = tmp_path / "home"
    (home / "folder").mkdir(parents=True)
    (home / mark).write_text("{}")
    (tmp_path / "link").symlink_to(home)
    for name in own.split():
        for file in (home / name, tmp_path / "link" / name, home / "folder" / ".." / name):
            with pytest.raises(UserError, match=f"belongs to the (run|model) in {home}"):
                require_not_own(file)
    for name in free.split():
        require_not_own(home / name)
        require_not_own(tmp_path / "elsewhere" / name)


# A run probes its workdir, and a data set begins by making its folder.
PROBED = [one for one in COMMANDS if one[:2] != ("data", "prepare") and one[0] != "run"]


@pytest.mark.parametrize("command", PROBED, ids=lambda one: " ".join([*one[:2], one[-1]]))
def test_a_place_that_cannot_be_written_to_is_told_before_any_work(r2d, home, monkeypatch, command):
    """The model was loaded and every row decoded before."""
    (home / "locked").mkdir()
    locked = lambda folder, **_: "Read-only file system" if folder == home / "locked" else None  # noqa: E731
    monkeypatch.setattr(files, "write_fault", locked)
    before = snapshot(home)
    name = "x.html" if command[0] == "report" else "x.jsonl"
    r2d(*command, f"locked/{name}").refused("Read-only file system")
    assert snapshot(home) == before
    assert not list((home / "locked").iterdir())


@pytest.mark.parametrize("number", [1, 4, 8, 10, 11, 14])
def test_no_folder_of_results_lies_within_a_run(r2d, home, number):
    (home / "run.json").write_text("{}")
    before = snapshot(home)
    r2d(*COMMANDS[number], "stage1/x").refused("stage1/x: belongs to the run in", "nothing was changed")
    assert snapshot(home) == before


def test_a_tfds_data_set_that_is_there_is_told_before_rows_are_read(r2d, home):
    (home / "out" / "rows" / "1.0.0").mkdir(parents=True)
    r2d("data", "tfds", "--path", "absent.jsonl", "--out", "out").refused("1.0.0: is there already")


def test_two_outputs_of_one_name(tmp_path):
    require_distinct([("--output", tmp_path / "a"), ("--output", tmp_path / "b"), ("--flag", tmp_path / "c")])
    with pytest.raises(UserError, match=r"--flag .*: is the file of --output"):
        require_distinct([("--output", tmp_path / "a"), ("--flag", tmp_path / "x" / ".." / "a")])


def test_an_audit_does_not_replace_its_own_files(r2d, home):
    command = ("rationales", "audit", "--input", "rows.jsonl", "--output", "audited")
    for name in ("audit.jsonl", "audit_judge_answers.jsonl"):
        for option in ("--filter", "--flag"):
            r2d(*command, option, f"audited/{name}").refused(
                f"{option} audited/{name}: is the file of --output"
            )
    assert not (home / "audited").exists()
    r2d(*command, "--filter", "audited/good.jsonl").done()
    before = snapshot(home / "audited")
    r2d(*command).refused("audit.json: is there already", "--overwrite")
    r2d(*command[:-1], "other", "--filter", "audited/good.jsonl").refused("good.jsonl: is there already")
    assert snapshot(home / "audited") == before
    r2d(*command, "--min-words", "9", "--overwrite").done()
    assert snapshot(home / "audited") != before


@pytest.mark.parametrize("command", [COMMANDS[5], COMMANDS[9]], ids=" ".join)
def test_figures_that_are_there_are_replaced_on_request_only(r2d, home, monkeypatch, command):
    monkeypatch.setattr(topology_report, "chip_of", lambda _: 1 / 0)
    (home / "figures.json").write_text("{}")
    r2d(*command, "figures.json").refused("figures.json: is there already", "add --overwrite")
    assert (home / "figures.json").read_text() == "{}"


def test_a_data_check_leaves_a_run_as_it_is(r2d, home):
    (home / "run.json").write_text("{}")
    r2d("data", "check", "rows.jsonl", "--json", "run.json").refused("--json run.json: belongs to the run")
    r2d("data", "check", "rows.jsonl", "--config", "config.yaml", "--json", "config.yaml").refused(
        "is an input"
    )
    assert (home / "run.json").read_text() == "{}"
