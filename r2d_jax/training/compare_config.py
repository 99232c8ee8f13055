"""What a comparison trains; in: a YAML file, out: one Config per method, rationale source and seed."""

import collections
import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from r2d_jax.config import Config
from r2d_jax.config_file import config_with, read_settings
from r2d_jax.errors import UserError, first_fault

_strict = ConfigDict(strict=True, extra="forbid")


@dataclass(frozen=True, config=_strict)
class Arm:
    """One method of a comparison."""

    set: dict[str, Any] = Field(default_factory=dict)
    """Settings in which it differs, nested as in a config file."""
    rationale_sources: list[str] | None = None
    """Rationale sources to train it with, one after the other; null: those of the comparison."""


@dataclass(frozen=True, config=_strict)
class CompareConfig:
    """Methods x rationale sources x seeds."""

    base: str
    """Config file that all runs start from, beside this file."""
    arms: dict[str, Arm]
    """Method name -> how it differs."""
    reference: str
    """Method that the others are tested against."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Settings of all runs."""
    seeds: list[int] = Field(default_factory=lambda: [0, 1, 2])
    """Training seeds; the rows are those of the first, unless data.seed says otherwise."""
    rationale_sources: list[str] = Field(default_factory=list)
    """Rationale sources of every method that names none itself; empty: the one of the base config."""


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """One run of a comparison.

    Attributes:
        method: name in the table: the arm, and the rationale source where an arm has several.
        seed: training seed.
        config: of the run.
    """

    method: str
    seed: int
    config: Config

    @property
    def folder(self) -> pathlib.Path:
        """Place within the comparison's folder."""
        return pathlib.Path(self.method) / f"seed{self.seed}"


def load_comparison(
    path: pathlib.Path, only: Sequence[str] = (), overrides: Sequence[str] = ()
) -> tuple[CompareConfig, list[PlannedRun]]:
    """Read a comparison and every config in it.

    Args:
        path: YAML file.
        only: methods to keep, by name in the table; empty: all.
        overrides: "data.path=rows.jsonl"; of the base config, so what an arm sets goes before.

    Raises:
        UserError: names the file and what is wrong, before anything is trained.
    """
    values = read_settings(path)
    try:
        # Through JSON, in which strict validation takes nested settings.
        comparison = TypeAdapter(CompareConfig).validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise UserError(str(path), first_fault(error), "See configs/compare_triage.yaml.") from error
    _check(path, comparison)
    if any(change.partition("=")[0].strip() == "seed" for change in overrides):
        raise UserError("seed=", "is one seed for a comparison", f"List the seeds in {path}: seeds: [0, 1].")
    base = read_settings(path.parent / comparison.base, overrides)
    runs = [
        PlannedRun(method, seed, _config(path, comparison, base, method, arm, source, seed))
        for seed in comparison.seeds
        for name, arm in comparison.arms.items()
        for method, source in _methods(comparison, name, arm)
    ]
    # The compiler takes it for the whole process, so the order of the runs would decide which have it.
    if len({run.config.deterministic for run in runs}) > 1:
        raise UserError(
            str(path), "sets deterministic in some runs only", "Set it for all: set: {deterministic: true}."
        )
    known = list(dict.fromkeys(run.method for run in runs))
    # Arm a with source b-c and arm a-b with source c: one would be taken for the other, finished before.
    (folder, times), *_ = collections.Counter(run.folder for run in runs).most_common(1)
    if times > 1:
        raise UserError(
            f"{path}, arms", f"two methods have the folder {folder.parent}", "Give one arm another name."
        )
    for name in (comparison.reference, *only):
        if name not in known:
            raise UserError(str(path), f"has no method {name!r}", f"Choose one of {', '.join(known)}.")
    return comparison, [run for run in runs if not only or run.method in only]


def _check(path: pathlib.Path, comparison: CompareConfig) -> None:
    if not comparison.arms or not comparison.seeds:
        raise UserError(str(path), "compares nothing", "Name one arm and one seed at least.")
    if len(set(comparison.seeds)) < len(comparison.seeds):
        raise UserError(f"{path}, seeds", "holds a seed twice", "Give each seed once.")
    for name in comparison.arms:
        # Names become folders.
        if not name or name.startswith(".") or not all(c.isalnum() or c in "-_.+" for c in name):
            raise UserError(
                f"{path}, arms.{name}", "is not a name for a folder", "Use letters, digits, - and _."
            )


def _methods(comparison: CompareConfig, name: str, arm: Arm) -> list[tuple[str, str | None]]:
    sources = comparison.rationale_sources if arm.rationale_sources is None else arm.rationale_sources
    if len(sources) < 2:
        return [(name, sources[0] if sources else None)]
    return [(f"{name}-{source}", source) for source in sources]


def _config(
    path: pathlib.Path,
    comparison: CompareConfig,
    base: Mapping[str, Any],
    method: str,
    arm: Arm,
    source: str | None,
    seed: int,
) -> Config:
    changes: dict[str, Any] = {"seed": seed}
    data = base.get("data")
    if data is None or (isinstance(data, dict) and data.get("seed") is None):
        # Else each seed would draw rows of its own.
        changes["data"] = {"seed": comparison.seeds[0]}
    if source is not None:
        changes |= {stage: {"rationale_source": source} for stage in ("stage1", "stage2")}
    where = f"{path}, method {method}"
    config = config_with(base, (changes, comparison.set, arm.set), where)
    if config.seed != seed:
        # Every seed would be the same run, and their spread 0.
        raise UserError(where, "sets seed", "List the seeds instead: seeds: [0, 1].")
    return config
