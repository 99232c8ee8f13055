"""What a run tells before its first step: rows that are cut, settings that nothing depends on."""

import io
import json
import pathlib

import pytest
from rich.console import Console
from test_run import write_config

from r2d_jax.config import MeshConfig
from r2d_jax.config_file import load_config
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.errors import UserError
from r2d_jax.runtime.mesh import make_mesh
from r2d_jax.runtime.run_files import MODEL_CARD
from r2d_jax.runtime.stop_signal import StopSignal
from r2d_jax.training import stages
from r2d_jax.training.loop import Progress
from r2d_jax.training.prepare import prepare
from r2d_jax.training.run import start, takes_days, train_stage
from r2d_jax.training.workdir import Workdir, adopt_stage1


@pytest.fixture
def config(tmp_path):
    """Stage 1 learns longer rationales than stage 2."""
    path = write_config(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    long = {row["id"]: " ".join([row["rationale"]] * (8 if row["id"].endswith("3") else 1)) for row in rows}
    text = "".join(json.dumps(row | {"long": long[row["id"]]}) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(text)
    return path


ROOT = pathlib.Path(__file__).parents[1]
SOURCES = ["data.columns.rationales={short: rationale, long: long}", "stage2.rationale_source=short"]


@pytest.mark.parametrize(
    ("first", "cut"),
    [("long", [("train, rationales long", 4), ("validation, rationales long", 1)]), ("short", [])],
)
def test_cut_rationales_of_both_stages_are_told(config, tmp_path, monkeypatch, first, cut):
    # It would change where this whole process keeps programs.
    monkeypatch.setattr("r2d_jax.training.run.enable_compile_cache", lambda: None)
    stream = io.StringIO()
    monkeypatch.setenv("XLA_FLAGS", "")
    changes = [f"stage1.rationale_source={first}", "stage2.cycle_weight=0.3", "deterministic=true"]
    settings = load_config(config, [*SOURCES, *changes])
    start(settings, Workdir(tmp_path / "run"), Console(file=stream, width=1000))
    told = stream.getvalue()
    lines = [line.partition("warning: ")[2] for line in told.splitlines() if "were cut at the end" in line]
    assert [line.partition(":")[0] for line in lines] == [name for name, _ in cut]
    assert all(f"{count} rationales" in line for line, (_, count) in zip(lines, cut, strict=True))
    assert "without effect in this run (method=r2d): stage2.cycle_weight\n" in told
    assert "deterministic: XLA_FLAGS=--xla_gpu_deterministic_ops=true\n" in told


def test_a_published_size_on_a_cpu_takes_days_and_a_tiny_one_does_not():
    """B073: with platform=any a run without its accelerator went on with the CPU, and only its pace told."""
    published = load_config(ROOT / "configs" / "pubmedqa_t5_small.yaml")
    quick = load_config(ROOT / "configs" / "quickstart.yaml")
    assert takes_days(published, 60_506_624)
    assert not takes_days(quick, 2_000_000)


@pytest.mark.parametrize("platform", ["any", "cpu"])
def test_a_start_without_an_accelerator_warns_where_it_would_take_days(
    config, tmp_path, monkeypatch, platform
):
    monkeypatch.setattr("r2d_jax.training.run.enable_compile_cache", lambda: None)
    monkeypatch.setattr("r2d_jax.training.run._DAYS_ON_A_CPU", 1.0)
    stream = io.StringIO()
    settings = load_config(config, [*SOURCES, "stage1.rationale_source=short", f"platform={platform}"])
    start(settings, Workdir(tmp_path / "run"), Console(file=stream, width=1000))
    assert ("warning: JAX found a CPU only" in stream.getvalue()) == (platform == "any")


@pytest.mark.parametrize(
    "missing", [["tokenizer_config.json", f"../{MODEL_CARD}"], ["tokenizer_config.json"]]
)
def test_a_kill_while_the_tokenizer_is_written_does_not_turn_the_text_map_on(tmp_path, missing):
    """tokenizer.json came first, and what says that it has no map was missing at the next start."""
    settings = load_config(write_config(tmp_path), ["tokenizer.text_map=false"])
    workdir, mesh = Workdir(tmp_path / "run"), make_mesh(MeshConfig())
    first = prepare(settings, workdir, mesh).tokenizer
    before = {path.name: path.read_bytes() for path in workdir.tokenizer.iterdir()}
    assert first.markers == {}
    for name in missing:
        (workdir.tokenizer / name).unlink()
    again = prepare(settings, workdir, mesh)
    assert again.tokenizer.fingerprint == again.card.tokenizer_fingerprint == first.fingerprint
    assert {path.name: path.read_bytes() for path in workdir.tokenizer.iterdir()} == before


def test_a_run_goes_on_with_its_tokenizer_as_another_version_of_the_library_writes_it(tmp_path):
    settings = load_config(write_config(tmp_path))
    workdir, mesh = Workdir(tmp_path / "run"), make_mesh(MeshConfig())
    first, file = prepare(settings, workdir, mesh).tokenizer, workdir.tokenizer / "tokenizer.json"
    stored = json.loads(file.read_text(encoding="utf-8"))
    del stored["model"]["ignore_merges"]
    file.write_text(json.dumps(stored), encoding="utf-8")
    again = prepare(settings, workdir, mesh).tokenizer
    assert again.fingerprint != first.fingerprint
    assert again.encode("fever and a rash") == first.encode("fever and a rash")


@pytest.mark.parametrize("older", ["donor", "taker"])
def test_a_first_stage_is_taken_from_a_run_whose_tokenizer_another_version_wrote(tmp_path, older):
    settings, mesh = load_config(write_config(tmp_path)), make_mesh(MeshConfig())
    runs = {name: Workdir(tmp_path / name) for name in ("donor", "taker")}
    for name, workdir in runs.items():
        prepare(settings, workdir, mesh)
        if name == older:
            file, card = workdir.tokenizer / "tokenizer.json", workdir.path / MODEL_CARD
            stored, told = json.loads(file.read_text()), json.loads(card.read_text())
            del stored["model"]["ignore_merges"]
            file.write_text(json.dumps(stored))
            told["tokenizer_fingerprint"] = Tokenizer.load(workdir.tokenizer).fingerprint
            card.write_text(json.dumps(told))
        workdir.stage(1).mkdir(exist_ok=True)
    runs["donor"].mark("stage1_done", {"step": 3})
    adopt_stage1(runs["taker"], runs["donor"], Console(quiet=True))
    assert runs["taker"].state["stage1_done"] == {"step": 3}


def test_a_first_stage_of_another_vocabulary_is_refused(tmp_path):
    settings, mesh = load_config(write_config(tmp_path)), make_mesh(MeshConfig())
    donor, taker = Workdir(tmp_path / "donor"), Workdir(tmp_path / "taker")
    for workdir in (donor, taker):
        prepare(settings, workdir, mesh)
    other = Tokenizer.train(["predict: explain: given label: urgent, not urgent, cough"], 130)
    (donor.tokenizer / "tokenizer.json").write_text(other.files()["tokenizer.json"])
    card = donor.path / MODEL_CARD
    told = json.loads(card.read_text())
    card.write_text(json.dumps(told | {"tokenizer_fingerprint": Tokenizer.load(donor.tokenizer).fingerprint}))
    donor.mark("stage1_done", {"step": 3})
    with pytest.raises(UserError, match="another vocabulary or model shape"):
        adopt_stage1(taker, donor, Console(quiet=True))


@pytest.mark.parametrize("left", [".run.json.partial", ".write_probe_0123abcd", ".shared_probe"])
def test_what_a_kill_at_the_start_leaves_does_not_bar_the_folder(tmp_path, left):
    settings = load_config(write_config(tmp_path))
    workdir = Workdir(tmp_path / "run")
    workdir.path.mkdir()
    (workdir.path / left).write_text("")
    workdir.check(settings)
    (workdir.path / "thesis.txt").write_text("")
    with pytest.raises(UserError, match=r"not a run folder \(holds thesis\.txt\)"):
        workdir.check(settings)


@pytest.mark.parametrize(
    ("best", "told"),
    [
        (None, "stage1: has no best checkpoint, for no evaluation that counts gave a finite score"),
        (4, "stage1/best: has no checkpoint, though step 4 was the best"),
    ],
)
def test_a_stage_without_a_best_checkpoint_is_not_done(tmp_path, monkeypatch, best, told):
    """It was marked as done, so no command trained it again, and stage 2 could never begin."""
    settings, workdir = load_config(write_config(tmp_path)), Workdir(tmp_path / "run")
    prepared = prepare(settings, workdir, make_mesh(settings.mesh))
    monkeypatch.setattr(stages, "_step_memory", lambda *_: None)
    monkeypatch.setattr(stages, "train", lambda *_, state, **__: (state, Progress(best_step=best)))
    with pytest.raises(UserError, match=told):
        stages.run_stage(prepared, workdir, 1, Console(quiet=True), StopSignal())
    assert not workdir.state.get("stage1_done")


def test_a_stage_2_that_is_refused_leaves_the_workdir_free(tmp_path):
    """It was claimed for a run of that config, though nothing had been done in it."""
    path, workdir = write_config(tmp_path), Workdir(tmp_path / "run")
    with pytest.raises(UserError, match="stage1: stage 1 is not finished here"):
        train_stage(load_config(path), workdir.path, 2, Console(quiet=True))
    assert not workdir.path.exists()
    workdir.check(load_config(path, ["stage1.max_steps=20"]))
