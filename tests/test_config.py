"""Config files: what is read is what was written, and what is dumped is what is read."""

import copy
import dataclasses
import json
import os
import pathlib
import re
from typing import get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2d_jax.config import (
    ColumnsConfig,
    Config,
    DataConfig,
    OptimizerConfig,
    Stage1Config,
    TokenizerConfig,
    TriageConfig,
)
from r2d_jax.config_check import check_config
from r2d_jax.config_effect import without_effect
from r2d_jax.config_file import dump_config, load_config
from r2d_jax.config_identity import config_hash, differences, settings_of
from r2d_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
GOLDEN = pathlib.Path(__file__).parent / "golden" / "default_config.yaml"
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.yaml") if not path.stem.startswith("compare_"))


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
    assert path.stem == "published" or f"--config configs/{path.name}" in text


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
    assert dataclasses.asdict(config.stage1.optimizer) == optimizer
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
    assert (config.stage1.batch_size, config.stage2.batch_size) == (64, 64)
    assert (config.stage2.label_weight, config.stage2.warmup_fraction) == (0.7, 0.05)
    assert (config.stage2.transition_fraction, config.stage2.max_sampling_probability) == (0.6, 0.9)
    assert config.model.shape.dropout_rate == 0.1
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


# Words that YAML could take for something else, or that a careless writer would fold or cut.
TRICKY = ["no", "null", "~", "", "1e-4", "01", "0o7", "1_0", "=", "<<", "2020-01-01", "1:30", "a: b", " a "]
TRICKY += [
    "a #b",
    "x  y" * 60,
    "a\tb",
    "a\nb\n",
    "'\"\\",
    "[a]",
    "&a",
    "*a",
    "!x",
    "%",
    "---",
    "≥ é",
    "\x85",
    "\u2028",
]
TEXT = st.one_of(st.sampled_from(TRICKY), st.text(st.characters(exclude_categories=("Cs",)), max_size=20))


@settings(max_examples=60, deadline=None)
@given(TEXT, TEXT, st.dictionaries(TEXT, TEXT, min_size=1, max_size=3), st.floats(1e-12, 1e12))
def test_what_is_dumped_is_what_is_read(tmp_path_factory, one, other, rationales, rate):
    config = Config(
        data=DataConfig(
            source="triage",
            columns=ColumnsConfig(question=one, id=other, rationales=rationales),
            triage=TriageConfig(class_shares=(rate, 0.0, 1.0, 2.0, 3.0)),
        ),
        tokenizer=TokenizerConfig(path=other),
        stage1=Stage1Config(optimizer=OptimizerConfig(learning_rate=rate)),
    )
    path = tmp_path_factory.mktemp("dump") / "config.yaml"
    path.write_text(dump_config(config), encoding="utf-8", newline="")
    assert load_config(path) == config


BAD_YAML = {
    "seed: 1\nstage1: {}\nseed: 2\n": 'line 3: .*duplicate key "seed"',
    "stage1:\n  max_steps: 9\n  max_steps: 8\n": 'line 3: .*duplicate key "max_steps"',
    "stage1:\n\tmax_steps: 3\n": "line 2: ",
    "seed: 1\n---\nseed: 2\n": "another document",
    "seed: !!python/object/apply:os.getcwd []\n": "line 1: .*constructor",
    "data: &a\n  triage: *a\n": "not valid YAML",
    "? [a, b]\n: 1\n": "not valid YAML",
    "seed: -_\n": "not valid YAML",
    "data: {encoding: 2020-99-99}\n": "not valid YAML",
    "seed: \x00\n": "not valid YAML",
    "- seed\n": "holds no settings",
    "extends: [a]\n": "extends: is not a file name",
    'extends: "a\\0b"\n': "extends: is not a file name",
    'extends: "\\ud800"\n': "extends: is not a file name",
    "extends: absent.yaml\n": "absent.yaml: no such config file",
}


@pytest.mark.parametrize("text", BAD_YAML)
def test_bad_yaml_is_one_line(tmp_path, text):
    with pytest.raises(UserError, match=BAD_YAML[text]) as caught:
        from_text(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_utf8_is_one_line(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_bytes(b"data: {encoding: \xe9}\n")
    with pytest.raises(UserError, match="Save it as UTF-8"):
        load_config(path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "override 'seed': is not KEY=VALUE"),
        ("=3", "is not KEY=VALUE"),
        ("seed=-_", "override seed: its value is not valid YAML"),
        ("stage1={max_steps: 8, max_steps: 9}", "override stage1: its value is not valid YAML"),
        ("stage1=&a [*a]", "override stage1: its value is not valid YAML"),
        ("stage1.max_steps.x=3", r"stage1\.max_steps: should be a valid integer"),
        ("extends=other.yaml", "extends: no such setting"),
    ],
)
def test_bad_overrides_are_one_line(tmp_path, override, message):
    with pytest.raises(UserError, match=message):
        from_text(tmp_path, "", override)


def whole_numbers(kind=Config, before=""):
    """Every setting that is a whole number, of sections that may be null too: name and upper limit, or None."""
    for name, hint in get_type_hints(kind, include_extras=True).items():
        parts = (hint, *get_args(hint))
        if inner := next(filter(dataclasses.is_dataclass, parts), None):
            yield from whole_numbers(inner, f"{before}{name}.")
            continue
        for part in parts:
            if part is int or int in get_args(part):
                marks = [mark for field in getattr(part, "__metadata__", ()) for mark in field.metadata]
                limits = [getattr(mark, "le", getattr(mark, "lt", None)) for mark in marks]
                yield before + name, next((limit for limit in limits if limit is not None), None)
                break


MOST = dict(whole_numbers())


@pytest.mark.parametrize("name", MOST)
def test_whole_numbers_beyond_any_use_are_refused(tmp_path, name):
    assert MOST[name] is not None
    for value in (MOST[name] + 1, 10**30):
        with pytest.raises(
            UserError, match=rf"{re.escape(name)}: should be less than .* Set .* {MOST[name]}"
        ):
            from_text(tmp_path, "evaluation: {bertscore: {model: x}}\n", f"{name}={value}")


def test_a_limit_is_told_with_its_line(tmp_path):
    with pytest.raises(UserError) as caught:
        from_text(tmp_path, "evaluation:\n  batch_size: 65537\n")
    assert str(caught.value) == (
        f"{tmp_path}/config.yaml line 2, evaluation.batch_size: should be less than or equal to 65536 "
        "(found 65537, int). Set at most 65536."
    )
    with pytest.raises(UserError, match=r"greater than or equal to 1 \(found 0, int\)\. Set at least 1\."):
        from_text(tmp_path, "evaluation:\n  batch_size: 0\n")


def test_the_line_of_a_wrong_value_is_told(tmp_path):
    text = "# top\nseed: 1\nstage1:\n  optimizer:\n    learning_rate: fast\n"
    with pytest.raises(
        UserError, match=r"config\.yaml line 5, stage1\.optimizer\.learning_rate: .*'fast', str"
    ):
        from_text(tmp_path, text)
    with pytest.raises(UserError, match=r"config\.yaml, stage1\.optimizer\.learning_rate: .*'slow', str"):
        from_text(tmp_path, text, "stage1.optimizer.learning_rate=slow")
    (tmp_path / "base.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml, stage1\.optimizer\.learning_rate: "):
        from_text(tmp_path, "extends: base.yaml\nseed: 2\n")


def test_numbers_are_not_bent_to_fit(tmp_path):
    assert from_text(tmp_path, "", "stage1.optimizer.learning_rate=1").stage1.optimizer.learning_rate == 1.0
    assert (
        from_text(tmp_path, "", "data.triage.class_shares=[1, 1, 1, 1, 1]").data.triage.class_shares
        == (1.0,) * 5
    )
    for value in ("1000.0", "'1000'", "true", "1e4", "null"):
        with pytest.raises(UserError, match="max_steps: should be a valid integer"):
            from_text(tmp_path, "", f"stage1.max_steps={value}")


def test_a_map_of_names_is_replaced_and_not_merged(tmp_path):
    (tmp_path / "base.yaml").write_text("data: {columns: {rationales: {llm: a}}, split_values: {train: x}}\n")
    text = "extends: base.yaml\ndata: {columns: {rationales: {nurse: b}}, split_values: {test: y}}\n"
    data = from_text(tmp_path, text).data
    assert (data.columns.rationales, data.split_values) == ({"nurse": "b"}, {"test": "y"})


def test_a_chain_of_extends_counts_from_each_file(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "root.yaml").write_text("seed: 1\nstage1: {batch_size: 8}\n")
    (tmp_path / "deep" / "base.yaml").write_text("extends: ../root.yaml\nstage1: {micro_batches: 2}\n")
    config = from_text(tmp_path, "extends: deep/base.yaml\nseed: 2\n")
    assert (config.seed, config.stage1.batch_size, config.stage1.micro_batches) == (2, 8, 2)


@pytest.mark.parametrize(("text", "value"), [("false", False), ("False", False), ("true", True)])
def test_booleans_are_strict(tmp_path, text, value):
    """B104: --do-export False."""
    assert from_text(tmp_path, "", f"tensorboard={text}").tensorboard is value
    for wrong in ("nope", "no", "yes", "0", "1", "", "'false'"):
        with pytest.raises(UserError, match="tensorboard: should be a valid boolean"):
            from_text(tmp_path, "", f"tensorboard={wrong}")


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
        ("stage1.save_every_steps=50001", r"stage1\.save_every_steps: 50001 is beyond .* Set at most 50000"),
        ("stage2.eval_every_steps=30001", r"stage2\.eval_every_steps: 30001 is beyond .* Set at most 30000"),
        ("stage2.micro_batches=5", "64 rows do not divide into 5 micro-batches. Set 60 or 65"),
        ("stage2.micro_batches=100", "64 rows do not divide into 100 micro-batches. Set 100 or 200"),
        ("stage1.rationale_source=gpt", "'gpt' is not a source. Choose one of llm, nurse, nurse_polished"),
        ("stage1.optimizer.beta2=1", "beta2: should be less than 1 .*Set a number below 1"),
        ("stage1.optimizer.eps=0", r"stage1\.optimizer\.eps: should be greater than 0"),
        ("stage1.optimizer.eps=.nan", "eps: should be a finite number"),
        ("stage2.optimizer.learning_rate=.inf", "learning_rate: should be a finite number"),
        ("stage1.optimizer.weight_decay=.inf", "weight_decay: should be a finite number"),
        ("model.shape.layer_norm_epsilon=0", "layer_norm_epsilon: should be greater than 0"),
        ("data.triage.class_shares=[1, 1, 1, 1, .nan]", "not five shares"),
        ("data.triage.class_shares=[1, 1, 1, 1, .inf]", "not five shares"),
        ("data.triage.class_shares=[1, 1, 1, 1, -1]", "not five shares"),
        ("data.triage.class_shares=[0, 0, 0, 0, 0]", "not five shares"),
        ("data.path=rows.jsonl", r"data\.path: a file is named beside data.source=triage"),
        ("data.test_path=rows.jsonl", r"data\.test_path: a file is named beside data.source=triage"),
        ("stage1.optimizer.beta1=1.0", "beta1: should be less than 1"),
        ("stage1.optimizer.warmup_steps=50000", "leaves no step to decay"),
        ("data.triage.class_shares=[1, 2]", "not five shares"),
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "a", "train_path": "b"}, "is set beside files by split"),
        ({"path": "a", "columns": ColumnsConfig(rationales={})}, "rationales: names no column"),
        (
            {"path": "a", "columns": ColumnsConfig(rationales={"x": "a", "y": "b"})},
            "stage1.rationale_source: .*x, y",
        ),
    ],
)
def test_what_does_not_fit_in_files_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        check_config(Config(data=DataConfig(**change)))


@pytest.mark.parametrize(
    "override",
    [
        "stage1.optimizer.learning_rate=3",
        "stage2.warmup_fraction=0.4",
        "stage2={warmup_fraction: 0.9, select_before_transition: true}",
        "stage1.rationale_source=nurse",
        "stage1.eval_every_steps=50000",
        "stage1.optimizer.warmup_steps=49999",
        "stage1.optimizer.clip_norm=.inf",
        "stage1.micro_batches=64",
    ],
)
def test_what_is_unusual_but_fits_is_taken(tmp_path, override):
    from_text(tmp_path, "", override)


def test_the_hash_covers_results_only(tmp_path):
    one = from_text(tmp_path, "")
    assert config_hash(one) != config_hash(from_text(tmp_path, "", "seed=1"))
    assert config_hash(one) != config_hash(from_text(tmp_path, "", "stage2.optimizer.clip_norm=2"))
    shown_only = ["tensorboard=false", "evaluation.worked_examples=2"]
    shown_only += ["stage1.log_every_steps=7", "stage2.log_every_steps=7", "stage2.save_every_steps=7"]
    assert config_hash(one) == config_hash(from_text(tmp_path, "", *shown_only))
    layout = ["mesh.fsdp=2", "model.remat=full", "model.scan_layers=true", "stage1.micro_batches=4"]
    assert config_hash(one) == config_hash(from_text(tmp_path, "", *layout, "evaluation.batch_size=8"))


R2DC = ["adaptive_sampling", "tau_window_steps", "cycle_weight", "gumbel_start_temperature"]
R2DC += ["gumbel_end_temperature"]


def test_settings_of_r2dc_count_for_r2dc_alone(tmp_path):
    """A run of another method, begun before there was R2D-C, goes on."""
    values = ["false", "7", "0.3", "0.9", "0.4"]
    changes = [f"stage2.{name}={value}" for name, value in zip(R2DC, values, strict=True)]
    for method in ("r2d", "sft", "dss"):
        plain = from_text(tmp_path, "", f"method={method}")
        assert config_hash(plain) == config_hash(from_text(tmp_path, "", f"method={method}", *changes))
    hashes = {config_hash(from_text(tmp_path, "", "method=r2dc", change)) for change in changes}
    assert len(hashes | {config_hash(from_text(tmp_path, "", "method=r2dc"))}) == 6


def leaves(value, path=()):
    if isinstance(value, dict) and path[-1:] not in (("rationales",), ("split_values",)):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    else:
        yield path, value


def another(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return {dict: {"train": "x"}, tuple: (1.0,)}.get(type(value), "other")


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("path", [path for path, _ in leaves(dataclasses.asdict(Config()))], ids=".".join)
def test_every_setting_is_in_the_hash_unless_results_do_not_depend_on_it(path):
    """A setting left out would let a run go on with other settings than it began with."""
    config = holder = copy.deepcopy(Config())
    for name in path[:-1]:
        holder = getattr(holder, name)
    # Past validation on purpose: any other value will do.
    value = "sft" if path == ("method",) else another(getattr(holder, path[-1]))
    object.__setattr__(holder, path[-1], value)
    free = path[0] in ("tensorboard", "donate_buffers", "deterministic", "platform", "mesh") or path in (
        ("data", "check"),
        ("model", "remat"),
        ("model", "scan_layers"),
        ("evaluation", "batch_size"),
        ("evaluation", "worked_examples"),
    )
    free = free or path[-1] in ("log_every_steps", "save_every_steps", "micro_batches", *R2DC)
    assert (config_hash(config) == config_hash(Config())) == free
    assert (differences(config, recorded(Config())) == []) == free


def recorded(config):
    return json.loads(json.dumps(settings_of(config)))


def test_what_differs_from_a_run_is_named(tmp_path):
    one = from_text(tmp_path, "")
    assert differences(one, recorded(one)) == []
    changes = ["stage1.max_steps=4000", "data.label_map={a: b}", "stage2.log_every_steps=7"]
    found = differences(from_text(tmp_path, "", *changes), recorded(one))
    assert found == [
        'data.label_map is {}, here {"a": "b"}',
        f"stage1.max_steps is {one.stage1.max_steps}, here 4000",
    ]


def test_a_newer_version_goes_on_with_a_run_where_its_new_settings_have_their_defaults(tmp_path):
    """One more setting must not strand the runs that were begun before it was there."""
    one = from_text(tmp_path, "", "method=sft")
    older = recorded(one)
    del older["stage2.optimizer.clip_norm"], older["data.label_map"]
    assert differences(one, older) == []
    assert differences(from_text(tmp_path, "", "method=sft", "data.label_map={a: b}"), older) != []
    clipped = from_text(tmp_path, "", "method=sft", "stage2.optimizer.clip_norm=7")
    assert differences(clipped, older) == ["stage2.optimizer.clip_norm is 1.0, here 7.0"]
    # What is no setting any more was one that the run looked at.
    assert differences(one, older | {"stage2.gone": 3}) == ["stage2.gone is 3, here absent"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["stage1.max_steps=7000", "stage2.max_sampling_probability=0.5"], []),
        (["stage2.cycle_weight=0.3"], ["stage2.cycle_weight"]),
        (["method=r2dc", "stage2.cycle_weight=0.3"], []),
        (
            ["method=r2dc", "stage2.cycle_weight=0", "stage2.gumbel_end_temperature=0.4"],
            ["stage2.gumbel_end_temperature"],
        ),
        (
            ["method=r2dc", "stage2.adaptive_sampling=false", "stage2.tau_window_steps=9"],
            ["stage2.tau_window_steps"],
        ),
        (["method=dss", "stage1.optimizer.clip_norm=3"], ["stage1.optimizer.clip_norm"]),
        (["method=dss", "stage2.label_weight=0.5", "stage1.enabled=false"], []),
        (["method=dss", "stage2.max_sampling_probability=0.5"], ["stage2.max_sampling_probability"]),
        (["method=sft", "stage2.label_weight=0.5"], ["stage2.label_weight"]),
        (["stage1.enabled=false", "stage1.batch_size=8"], ["stage1.batch_size"]),
        (
            ["stage2.max_sampling_probability=0", "stage2.label_decode_dropout=true"],
            ["stage2.label_decode_dropout"],
        ),
        (["evaluation.rationale_checks=false", "evaluation.flip_rows=3"], ["evaluation.flip_rows"]),
        (["evaluation.probabilities=false", "evaluation.target_risk=0.1"], ["evaluation.target_risk"]),
    ],
)
def test_settings_that_a_run_does_not_look_at_are_told(tmp_path, settings, told):
    assert without_effect(from_text(tmp_path, "", *settings)) == told


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("model.shape.relative_attention_num_buckets=2", "greater than or equal to 4"),
        (
            "model.shape.relative_attention_max_distance=16",
            "relative_attention_max_distance must be at least 17",
        ),
    ],
)
def test_distance_buckets_that_cannot_grow_are_refused(setting, told):
    """Two buckets ended a run with ZeroDivisionError."""
    with pytest.raises(UserError, match=told):
        load_config(None, ["data.source=triage", setting])
