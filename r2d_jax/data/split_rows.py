"""Rows of a run put into their splits; in: DataConfig, seed and rationale sources, out: rows by split and notes."""

import collections
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from r2d_jax.config import DataConfig
from r2d_jax.data.draws import draw_splits
from r2d_jax.data.duplicates import drop_duplicates
from r2d_jax.data.reading.raw_rows import Progress, shown, splits_within
from r2d_jax.data.schema import Example
from r2d_jax.data.sources import SourceRows, SplitExample, read_source
from r2d_jax.errors import UserError

NAMES = ("train", "validation", "test")
_SHOWN_SPLITS = 5

RowsBySplit = dict[str, list[SplitExample]]


class _Sources:
    """Reads sources by one config and keeps account of rows left out and labels changed."""

    def __init__(self, config: DataConfig, rationale_sources: Sequence[str], progress: Progress | None):
        self._config, self._rationale_sources, self._progress = config, rationale_sources, progress
        self.told: list[str] = []
        self._left_out: collections.Counter[str] = collections.Counter()
        self._mapped: collections.Counter[str] = collections.Counter()

    def read(self, path: str, split: str | None = None) -> list[SplitExample]:
        """Rows of a source; `split` names that of all of them, None: their split column does, if any."""
        config = self._config
        columns = config.columns
        if split is not None and columns.split is not None:
            columns = dataclasses.replace(columns, split=None)
        read: SourceRows = read_source(
            path,
            columns,
            rationale_sources=self._rationale_sources,
            encoding=config.encoding,
            skip_missing_rationales=config.missing_rationales == "skip",
            label_map=config.label_map,
            progress=self._progress,
        )
        for value, count in read.without_rationale.items():
            self._left_out[split or value] += count
        self._mapped += read.mapped
        return read.rows

    def notes(self) -> list[str]:
        """What to tell of rows left out and labels changed.

        Raises:
            UserError: a key of data.label_map that no row has.
        """
        unknown = [label for label in self._config.label_map if label not in self._mapped]
        if unknown:
            raise UserError(
                "data.label_map", f"no row has the label {shown(unknown)}", "Correct or remove this key."
            )
        found = list(self.told)
        if self._left_out:
            by_split = [f"{shown([name])} {count}" for name, count in self._left_out.items() if name]
            told = f" ({', '.join(by_split[:_SHOWN_SPLITS])})" if by_split else ""
            found.append(f"left out {self._left_out.total()} rows without a rationale{told}")
        for label, count in self._mapped.items():
            new = self._config.label_map[label]
            found.append(f"label {shown([label])} of {count} rows became {shown([new])}")
        return found


def rows_by_split(
    config: DataConfig, seed: int, rationale_sources: Sequence[str], progress: Progress | None
) -> tuple[dict[str, list[Example]], list[str]]:
    """Rows of the files of a run by split, each in order, and plain lines about what was left out or changed.

    Raises:
        UserError: a fault of the settings or of a source.
    """
    _check(config)
    sources = _Sources(config, rationale_sources, progress)
    rows = _given(config, sources) if config.split_shares is None else _drawn(config, sources, seed)
    notes = sources.notes()
    if not rows["train"]:
        raise UserError(
            "data",
            "; ".join(["the train split has no rows", *notes]),
            "Check data.split_values or data.train_path.",
        )
    left = {name: [row.example for row in rows[name]] for name in NAMES}
    if not rows["validation"]:
        left["train"], left["validation"] = _validation(rows["train"], config, seed)
    if config.duplicates == "drop":
        left, dropped = drop_duplicates(left)
        notes += dropped
    return left, notes


def _check(config: DataConfig) -> None:
    others = [name for name in NAMES if getattr(config, f"{name}_path") is not None]
    if config.path is not None and others:
        raise UserError(
            "data", f"both data.path and data.{others[0]}_path are set", "Set one file or one file per split."
        )
    if config.path is None and config.train_path is None:
        raise UserError(
            "data",
            "neither data.path nor data.train_path is set",
            "Name your files, or set data.source=triage for generated rows.",
        )
    if config.path is not None and len(set(config.split_values.values())) < len(config.split_values):
        raise UserError("data.split_values", "two splits have the same value", "Give each its own value.")
    if blank := [label for label, new in config.label_map.items() if not new.strip()]:
        raise UserError("data.label_map", f"maps {shown(blank)} to nothing", "Give a label for it.")
    shares = config.split_shares
    if shares is None:
        return
    if config.path is None or config.columns.split is not None:
        other = "data.columns.split" if config.path is not None else "data.train_path"
        raise UserError(
            "data.split_shares",
            f"is set beside {other}",
            "Splits are either drawn or given: set one of both.",
        )
    if not math.isclose(sum(shares.values()), 1, abs_tol=1e-6):
        raise UserError("data.split_shares", f"sum to {sum(shares.values()):g}, not 1", "Correct the shares.")
    if not shares.get("train") or not shares.get("test"):
        raise UserError("data.split_shares", "leave train or test without rows", "Give both a share above 0.")


def _given(config: DataConfig, sources: _Sources) -> RowsBySplit:
    if config.path is None:
        paths = {name: getattr(config, f"{name}_path") for name in NAMES}
        rows = {name: sources.read(path, name) if path is not None else [] for name, path in paths.items()}
    elif config.columns.split is None:
        rows = _built_in(config, sources)
    else:
        rows = _by_column(config, sources)
    _check_groups(config, rows)
    return rows


def _by_column(config: DataConfig, sources: _Sources) -> RowsBySplit:
    assert config.path is not None
    rows = sources.read(config.path)
    names = {value: name for name, value in config.split_values.items()}
    unknown = sorted({row.split for row in rows} - names.keys())
    if unknown:
        # So many values are hardly those of a split column; another column's would be case text.
        told = shown(unknown) if len(unknown) <= _SHOWN_SPLITS else f"{len(unknown)} different ones"
        raise UserError(
            f"{config.path}, field {config.columns.split!r}",
            f"values without a split: {told}",
            f"Map them in data.split_values, now {dict(config.split_values)}.",
        )
    split: RowsBySplit = {name: [] for name in NAMES}
    for row in rows:
        split[names[row.split]].append(row)
    return split


def _built_in(config: DataConfig, sources: _Sources) -> RowsBySplit:
    assert config.path is not None
    there = splits_within(config.path)
    if not there:
        raise UserError(
            "data.path",
            "one file needs data.columns.split",
            "Name the column, set data.split_shares to draw splits, or use data.train_path.",
        )
    wanted = {name: value for name, value in config.split_values.items() if value in there}
    # A split that is not there may be the default, but what was written by hand is meant.
    by_hand = [value for name, value in config.split_values.items() if value not in there and value != name]
    if by_hand or "train" not in wanted:
        lacking = f"not {shown(by_hand)}" if by_hand else "none for train"
        raise UserError(
            config.path,
            f"has the splits {shown(there)} and {lacking}",
            f"Map them in data.split_values, now {dict(config.split_values)}.",
        )
    if unused := [name for name in there if name not in wanted.values()]:
        sources.told.append(f"splits of the source that are not used: {shown(unused)}")
    rows: RowsBySplit = {name: [] for name in NAMES}
    for name, value in wanted.items():
        rows[name] = sources.read(_with_split(config.path, value), name)
    return rows


def _with_split(address: str, split: str) -> str:
    # Without a config, "hf:NAME:X" might be config X.
    return (
        f"{address}::{split}"
        if address.startswith("hf:") and ":" not in address[3:]
        else f"{address}:{split}"
    )


def _drawn(config: DataConfig, sources: _Sources, seed: int) -> RowsBySplit:
    assert config.path is not None
    assert config.split_shares is not None
    rows = sources.read(config.path)
    drawn = draw_splits(_labels(rows), _keys(rows, config), _in_order(config.split_shares), seed)
    return {name: [row for row, one in zip(rows, drawn, strict=True) if one == name] for name in NAMES}


def _in_order(shares: Mapping[Any, float]) -> dict[str, float]:
    # The order of a map in a file must not decide ties.
    return {name: shares.get(name, 0.0) for name in NAMES}


def _labels(rows: Iterable[SplitExample]) -> list[str]:
    return [row.example.label for row in rows]


def _keys(rows: Iterable[SplitExample], config: DataConfig) -> list[str]:
    return [row.group if config.columns.group else row.example.row_id for row in rows]


def _check_groups(config: DataConfig, rows: RowsBySplit) -> None:
    if config.columns.group is None:
        return
    splits_of: dict[str, set[str]] = collections.defaultdict(set)
    for name in NAMES:
        for row in rows[name]:
            splits_of[row.group].add(name)
    parted = sum(len(splits) > 1 for splits in splits_of.values())
    if parted:
        raise UserError(
            "data.columns.group",
            f"{parted} of {len(splits_of)} values of {config.columns.group!r} stand in more than one split",
            "Correct the splits, or draw them with data.split_shares.",
        )


def _validation(
    train: Sequence[SplitExample], config: DataConfig, seed: int
) -> tuple[list[Example], list[Example]]:
    fraction = config.validation_fraction
    if config.columns.group is None:
        return take_validation([row.example for row in train], fraction, seed)
    shares = {"train": 1 - fraction, "validation": fraction}
    drawn = draw_splits(_labels(train), _keys(train, config), shares, seed)
    taken = list(zip(train, drawn, strict=True))
    left, validation = (
        [row.example for row, one in taken if one == name] for name in ("train", "validation")
    )
    return left, validation


def take_validation(
    train: Sequence[Example], fraction: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Split rows by label, each label giving round(fraction x its rows), at least 1 where it has 2 or more.

    Which rows are taken depends on the seed and the order of the rows.

    Returns:
        (train, validation), each in the order of the rows.
    """
    by_label: dict[str, list[int]] = collections.defaultdict(list)
    for index, example in enumerate(train):
        by_label[example.label].append(index)
    rng = np.random.default_rng(seed)
    taken: set[int] = set()
    for label in sorted(by_label):
        rows = by_label[label]
        count = max(round(fraction * len(rows)), 1) if fraction > 0 and len(rows) > 1 else 0
        taken.update(rng.permutation(rows)[: min(count, len(rows) - 1)].tolist())
    return (
        [example for index, example in enumerate(train) if index not in taken],
        [example for index, example in enumerate(train) if index in taken],
    )
