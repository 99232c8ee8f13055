"""Config files: what is read is what was written, and what is dumped is what is read."""

import dataclasses
import os
import pathlib

import pytest

from r2d_jax.config import Config, DataConfig
from r2d_jax.config_file import config_hash, dump_config, load_config
from r2d_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
GOLDEN = pathlib.Path(__file__).parent / "golden" / "default_config.yaml"
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def from_text(tmp_path, text, *overrides):
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, ["data.source=triage", *overrides])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_load_and_survive_a_dump(path, tmp_path):
    config = load_config(path)
    (tmp_path / "dumped.yaml").write_text(dump_config(config), encoding="utf-8")
    assert load_config(tmp_path / "dumped.yaml") == config
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert path.stem == "published" or f"r2d run --config configs/{path.name}" in text


def test_published_settings():
    config = load_config(ROOT / "configs" / "pubmedqa_t5_large.yaml")
    optimizer = dataclasses.asdict(config.stage2.optimizer)
    assert optimizer == {
        "learning_rate": 5e-5,
        "warmup_steps": 0,
        "beta1": 0.9,
        "beta2": 0.999,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "clip_norm": 1.0,
    }
    assert (config.stage1.max_steps, config.stage1.eval_every_steps, config.stage1.patience_evals) == (
        50000,
        1000,
        3,
    )
    assert (config.stage2.max_steps, config.stage2.eval_every_steps, config.stage2.patience_evals) == (
        30000,
        500,
        5,
    )
    assert (config.data.input_limit_tokens, config.data.rationale_limit_tokens) == (1024, 256)
    assert config.model.compute_dtype == "bfloat16"


def test_the_default_config_is_the_golden_one():
    """R2D_WRITE_GOLDEN=1 rewrites it; a change of a default must be seen in review."""
    text = dump_config(Config(data=DataConfig(source="triage")))
    if os.environ.get("R2D_WRITE_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(text, encoding="utf-8")
    assert GOLDEN.read_text(encoding="utf-8") == text


def test_yaml_is_1_2(tmp_path):
    text = "data:\n  columns: {label: no, question: yes}\nstage1:\n  optimizer: {learning_rate: 1e-4}\n"
    config = from_text(tmp_path, text)
    assert (config.data.columns.label, config.data.columns.question) == ("no", "yes")
    assert config.stage1.optimizer.learning_rate == 1e-4


@pytest.mark.parametrize(("text", "value"), [("false", False), ("False", False), ("true", True)])
def test_booleans_are_strict(tmp_path, text, value):
    """B104: --do-export False."""
    assert from_text(tmp_path, "", f"tensorboard={text}").tensorboard is value
    with pytest.raises(UserError, match="tensorboard: should be a valid boolean"):
        from_text(tmp_path, "", "tensorboard=nein")


def test_an_alias_is_not_shared(tmp_path):
    config = from_text(tmp_path, "stage1: &s {max_steps: 1000}\nstage2: *s\n", "stage1.max_steps=2000")
    assert (config.stage1.max_steps, config.stage2.max_steps) == (2000, 1000)


def test_extends_merges_and_refuses_a_circle(tmp_path):
    (tmp_path / "base.yaml").write_text("seed: 3\nstage1: {max_steps: 2000, batch_size: 8}\n")
    config = from_text(tmp_path, "extends: base.yaml\nstage1: {batch_size: 16}\n")
    assert (config.seed, config.stage1.max_steps, config.stage1.batch_size) == (3, 2000, 16)
    (tmp_path / "base.yaml").write_text("extends: config.yaml\n")
    with pytest.raises(UserError, match="extends itself"):
        from_text(tmp_path, "extends: base.yaml\n")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stage2.warmup_fraction=0.5", "exceed the stage"),
        ("stage1.optimizer.beta1=1.0", "beta1: must be below 1"),
        ("stage1.optimizer.warmup_steps=50000", "leaves no step to decay"),
        ("data.triage.class_shares=[1, 2]", "no five shares"),
        ("data.split_values={train: a, test: a}", "the same value"),
        ("data.source=files", "no file is named"),
        ("seed=-1", "seed: should be greater than or equal to 0"),
        ("modle.init=x", "Did you mean 'model'"),
        ("stage2.optimizer.learning_rat=1", "Did you mean 'learning_rate'"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, override, message):
    with pytest.raises(UserError, match=message):
        from_text(tmp_path, "", override)


def test_the_hash_covers_results_only(tmp_path):
    one = from_text(tmp_path, "")
    assert config_hash(one) != config_hash(from_text(tmp_path, "", "seed=1"))
    assert config_hash(one) != config_hash(from_text(tmp_path, "", "stage2.optimizer.clip_norm=2"))
    assert config_hash(one) == config_hash(
        from_text(tmp_path, "", "tensorboard=false", "stage1.log_every_steps=7")
    )
