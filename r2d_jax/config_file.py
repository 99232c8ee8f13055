"""Config files; in: YAML 1.2 and dotted overrides, out: a checked Config, and its text."""

import dataclasses
import difflib
import functools
import io
import json
import pathlib
import reprlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode

from r2d_jax.config import Config
from r2d_jax.config_check import check_config
from r2d_jax.config_identity import MAPS_OF_NAMES
from r2d_jax.errors import UserError

_ADAPTER = TypeAdapter(Config)
# Beside its own errors ruamel lets those of int(), date() and deep recursion through, and values that
# JSON cannot say (an alias within itself, a list as key) fail when they are copied.
_BAD_YAML = (YAMLError, ValueError, TypeError, RecursionError)
_LIMITS = {"le": "at most", "ge": "at least", "lt": "a number below", "gt": "a number above"}

__all__ = ["config_with", "dump_config", "load_config", "read_settings"]


def _yaml() -> YAML:
    # YAML 1.2: `no` is a word and 1e-4 a number, unlike in YAML 1.1.
    yaml = YAML(typ="safe", pure=True)
    yaml.version = (1, 2)
    yaml.default_flow_style = False
    yaml.allow_duplicate_keys = False
    return yaml


def _parsed(text: str) -> Any:
    # An alias in YAML is one shared object; an override of one place must not change the other.
    return json.loads(json.dumps(_yaml().load(text), default=str))


def load_config(path: str | pathlib.Path | None, overrides: Sequence[str] = ()) -> Config:
    """Read a config file, apply overrides and check every field and how fields fit together.

    Args:
        path: YAML file; `extends: other.yaml` in it names a file to start from. None: defaults.
        overrides: "stage1.max_steps=100"; the value is YAML.

    Raises:
        UserError: names file, field, what was found, and the nearest key for an unknown one.
    """
    return _checked(read_settings(path, overrides), path, overrides)


def read_settings(path: str | pathlib.Path | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The settings of a YAML file, of those it extends, and of overrides, as nested plain values, unchecked.

    Raises:
        UserError: names file and line, or the override.
    """
    values = _read_chain(pathlib.Path(path), []) if path is not None else {}
    for override in overrides:
        _apply(values, override)
    return values


def config_with(values: Mapping[str, Any], changes: Sequence[Mapping[str, Any]], where: str) -> Config:
    """A checked Config of settings with some of them changed.

    Args:
        values: from `read_settings`.
        changes: nested like them; a later one goes before an earlier one.
        where: named in errors.

    Raises:
        UserError: as `load_config`.
    """
    try:
        return _checked(functools.reduce(_merged, changes, dict(values)), None, ())
    except UserError as error:
        raise UserError(f"{where}: {error.where}", error.what, error.fix) from error


def _checked(values: dict[str, Any], path: str | pathlib.Path | None, overrides: Sequence[str]) -> Config:
    try:
        # Through JSON, since YAML has lists where the config has tuples.
        config = _ADAPTER.validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise _explained(path, overrides, error) from error
    check_config(config)
    return config


def _read_chain(path: pathlib.Path, seen: list[pathlib.Path]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise UserError(str(path), "extends itself, directly or through others", "Remove one `extends`.")
    if not path.is_file():
        raise UserError(str(path), "no such config file", "Check the path; configs/ holds examples.")
    try:
        values = _parsed(path.read_text(encoding="utf-8"))
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise UserError(
            f"{path} line {line}", f"is not valid YAML ({error.problem})", "Fix this line."
        ) from error
    except _BAD_YAML as error:
        raise UserError(
            str(path),
            f"is not valid YAML ({type(error).__name__})",
            "Save it as UTF-8, and quote what is to be text.",
        ) from error
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise UserError(str(path), "holds no settings", "Write `key: value` lines.")
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str) or not base.isprintable():
        raise UserError(f"{path}, extends", "is not a file name", "Name one YAML file.")
    return _merged(_read_chain(path.parent / base, [*seen, path.resolve()]), values)


def _merged(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both and key not in MAPS_OF_NAMES else value
    return merged


def _apply(values: dict[str, Any], override: str) -> None:
    name, sign, text = override.partition("=")
    if not sign or not name:
        raise UserError(
            f"override {override!r}", "is not KEY=VALUE", "Write for example stage1.max_steps=100."
        )
    try:
        value = _parsed(text) if text else ""
    except _BAD_YAML as error:
        raise UserError(f"override {name}", "its value is not valid YAML", "Quote the value.") from error
    *parents, last = name.split(".")
    inner = values
    for parent in parents:
        inner = inner.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise UserError(f"override {name}", f"{parent!r} holds no settings", "Check the name.")
    inner[last] = value


def _keys_at(location: Sequence[Any]) -> list[str]:
    # By types and not by the defaults, where a section may be null.
    kind: Any = Config
    for part in location:
        found = get_type_hints(kind).get(part)
        kind = next((one for one in (found, *get_args(found)) if dataclasses.is_dataclass(one)), None)
        if kind is None:
            return []
    return [field.name for field in dataclasses.fields(kind)]


def _line_of(path: pathlib.Path, location: Sequence[Any]) -> int | None:
    """Line on which a setting is in a file; None where it comes from elsewhere."""
    node = _yaml().compose(path.read_text(encoding="utf-8"))
    line = None
    for part in location:
        if not isinstance(node, MappingNode):
            break
        here = [(key, value) for key, value in node.value if key.value == str(part)]
        if not here:
            return None
        line, node = here[0][0].start_mark.line + 1, here[0][1]
    return line


def _explained(
    path: str | pathlib.Path | None, overrides: Sequence[str], error: ValidationError
) -> UserError:
    first = error.errors(include_url=False)[0]
    location = [part for part in first["loc"]]
    field = ".".join(str(part) for part in location)
    where = "config" if path is None else str(path)
    # A line that an override has replaced would send the reader to the wrong place.
    names = [override.partition("=")[0] for override in overrides]
    overridden = any(f"{field}.".startswith(f"{name}.") or name.startswith(f"{field}.") for name in names)
    if path is not None and not overridden and (line := _line_of(pathlib.Path(path), location)):
        where += f" line {line}"
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _keys_at(location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]!r}?" if near else f"Known here: {', '.join(known)}."
        return UserError(f"{where}, {field}", "no such setting", hint)
    found = first.get("input")
    shown = reprlib.repr(found)
    message = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
    limits = [
        f"Set {_LIMITS[kind]} {limit}." for kind, limit in first.get("ctx", {}).items() if kind in _LIMITS
    ]
    fix = limits[0] if limits else "Correct the value."
    return UserError(f"{where}, {field}", f"{message} (found {shown}, {type(found).__name__})", fix)


def dump_config(config: Config) -> str:
    """Every effective value as YAML; `load_config` of it gives the same config."""
    stream = io.StringIO()
    yaml = YAML()
    yaml.version = None
    yaml.indent(mapping=2, sequence=4, offset=2)
    # Folding a long line loses one of two blanks in a row.
    yaml.width = sys.maxsize
    values = _ADAPTER.dump_python(config, mode="json")
    # ruamel writes these line breaks of Unicode as they are, and reads a plain line break back.
    yaml.allow_unicode = not set("\x85\u2028\u2029\ufeff") & set(json.dumps(values, ensure_ascii=False))
    yaml.dump(values, stream)
    return stream.getvalue()
