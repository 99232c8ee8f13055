"""Config files; in: YAML 1.2 and dotted overrides, out: a checked Config, its text and its hash."""

import dataclasses
import difflib
import hashlib
import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from r2d_jax.config import Config, StageConfig
from r2d_jax.errors import UserError

_ADAPTER = TypeAdapter(Config)
# What a run prints or writes beside its results: may change without making it another run.
_NOT_IN_HASH = (
    "tensorboard",
    "evaluation.worked_examples",
    "stage1.log_every_steps",
    "stage2.log_every_steps",
)
TRIAGE_SOURCES = ("llm", "nurse", "nurse_polished")


def _yaml() -> YAML:
    # YAML 1.2: `no` is a word and 1e-4 a number, unlike in YAML 1.1.
    yaml = YAML(typ="safe", pure=True)
    yaml.version = (1, 2)
    yaml.default_flow_style = False
    yaml.allow_duplicate_keys = False
    return yaml


def load_config(path: str | pathlib.Path | None, overrides: Sequence[str] = ()) -> Config:
    """Read a config file, apply overrides and check every field and how fields fit together.

    Args:
        path: YAML file; `extends: other.yaml` in it names a file to start from. None: defaults.
        overrides: "stage1.max_steps=100"; the value is YAML.

    Raises:
        UserError: names file, field, what was found, and the nearest key for an unknown one.
    """
    values = _read_chain(pathlib.Path(path), []) if path is not None else {}
    for override in overrides:
        _apply(values, override)
    where = str(path) if path is not None else "config"
    try:
        # Through JSON, since YAML has lists where the config has tuples.
        config = _ADAPTER.validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise _explained(where, error) from error
    check_config(config)
    return config


def _read_chain(path: pathlib.Path, seen: list[pathlib.Path]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise UserError(str(path), "extends itself, directly or through others", "Remove one `extends`.")
    if not path.is_file():
        raise UserError(str(path), "no such config file", "Check the path; configs/ holds examples.")
    try:
        values = _yaml().load(path.read_text(encoding="utf-8"))
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise UserError(
            f"{path} line {line}", f"is not valid YAML ({error.problem})", "Mend this line."
        ) from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(
            str(path), f"is not valid YAML ({type(error).__name__})", "Save it as UTF-8 YAML."
        ) from error
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise UserError(str(path), "holds no settings", "Write `key: value` lines.")
    # An alias in YAML is one shared object; an override of one place must not change the other.
    values = json.loads(json.dumps(values, default=str))
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise UserError(f"{path}, extends", "is not a file name", "Name one YAML file.")
    return _merged(_read_chain(path.parent / base, [*seen, path.resolve()]), values)


def _merged(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        # A map of names, such as data.columns.rationales, is replaced as a whole.
        merged[key] = (
            _merged(merged[key], value) if both and key not in ("rationales", "split_values") else value
        )
    return merged


def _apply(values: dict[str, Any], override: str) -> None:
    name, sign, text = override.partition("=")
    if not sign or not name:
        raise UserError(
            f"override {override!r}", "is not KEY=VALUE", "Write for example stage1.max_steps=100."
        )
    try:
        value = _yaml().load(text) if text else ""
    except YAMLError as error:
        raise UserError(f"override {name}", "its value is not valid YAML", "Quote the value.") from error
    *parents, last = name.split(".")
    inner = values
    for parent in parents:
        inner = inner.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise UserError(f"override {name}", f"{parent!r} holds no settings", "Check the name.")
    inner[last] = value


def _keys_at(location: Sequence[Any]) -> list[str]:
    keys: Any = dataclasses.asdict(Config())
    for part in location:
        keys = keys.get(part, {}) if isinstance(keys, dict) else {}
    return list(keys) if isinstance(keys, dict) else []


def _explained(where: str, error: ValidationError) -> UserError:
    first = error.errors(include_url=False)[0]
    location = [part for part in first["loc"]]
    field = ".".join(str(part) for part in location)
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _keys_at(location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]!r}?" if near else f"Known here: {', '.join(known)}."
        return UserError(f"{where}, {field}", "no such setting", hint)
    found = first.get("input")
    message = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
    return UserError(
        f"{where}, {field}", f"{message} (found {found!r}, {type(found).__name__})", "Correct the value."
    )


def dump_config(config: Config) -> str:
    """Every effective value as YAML; `load_config` of it gives the same config."""
    stream = io.StringIO()
    yaml = YAML()
    yaml.version = None
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.dump(_ADAPTER.dump_python(config, mode="json"), stream)
    return stream.getvalue()


def config_hash(config: Config) -> str:
    """Short sha256 of all settings that can change what is trained or how it is scored."""
    values = _ADAPTER.dump_python(config, mode="json")
    for name in _NOT_IN_HASH:
        inner = values
        *parents, last = name.split(".")
        for parent in parents:
            inner = inner[parent]
        del inner[last]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def check_config(config: Config) -> None:
    """Check how settings fit together.

    Raises:
        UserError: names the setting and what fits.
    """
    for name, stage in (("stage1", config.stage1), ("stage2", config.stage2)):
        _check_stage(name, stage, config)
    second = config.stage2
    if second.warmup_fraction + second.transition_fraction > 1 and not second.select_before_transition:
        raise UserError(
            "stage2.transition_fraction",
            f"warm-up {second.warmup_fraction} and transition {second.transition_fraction} exceed the stage, so no "
            "evaluation could be selected",
            "Lower one of them, or set stage2.select_before_transition=true.",
        )
    data = config.data
    if data.source == "files" and not (data.path or data.train_path):
        raise UserError(
            "data", "no file is named", "Set data.path or data.train_path, or data.source=triage."
        )
    if data.path and (data.train_path or data.validation_path or data.test_path):
        raise UserError("data.path", "is set beside files by split", "Use either.")
    shares = data.triage.class_shares
    if len(shares) != 5 or min(shares) < 0 or sum(shares) <= 0:
        raise UserError(
            "data.triage.class_shares", f"{list(shares)} are no five shares", "Give five numbers >= 0."
        )
    if len(set(data.split_values.values())) < len(data.split_values):
        raise UserError("data.split_values", "two splits have the same value", "Give each its own.")


def _check_stage(name: str, stage: StageConfig, config: Config) -> None:
    for key in ("eval_every_steps", "save_every_steps"):
        if getattr(stage, key) > stage.max_steps:
            raise UserError(
                f"{name}.{key}",
                f"{getattr(stage, key)} is beyond the run of {stage.max_steps} steps",
                f"Set at most {stage.max_steps}.",
            )
    if stage.optimizer.warmup_steps >= stage.max_steps:
        raise UserError(
            f"{name}.optimizer.warmup_steps", "leaves no step to decay", f"Set below {stage.max_steps}."
        )
    if stage.batch_size % stage.micro_batches:
        below = max(stage.batch_size // stage.micro_batches, 1) * stage.micro_batches
        raise UserError(
            f"{name}.batch_size",
            f"{stage.batch_size} rows do not divide into {stage.micro_batches} micro-batches",
            f"Set {below} or {below + stage.micro_batches}.",
        )
    for key in ("beta1", "beta2"):
        if getattr(stage.optimizer, key) >= 1:
            raise UserError(f"{name}.optimizer.{key}", "must be below 1", "Use for example 0.9.")
    sources = TRIAGE_SOURCES if config.data.source == "triage" else tuple(config.data.columns.rationales)
    if stage.rationale_source is None and len(sources) > 1 and config.data.source != "triage":
        raise UserError(
            f"{name}.rationale_source", "several sources and none chosen", f"Choose of {sources}."
        )
    if stage.rationale_source is not None and stage.rationale_source not in sources:
        raise UserError(
            f"{name}.rationale_source",
            f"{stage.rationale_source!r} is no source",
            f"Choose of {', '.join(sources)}.",
        )
