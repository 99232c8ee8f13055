"""Rows of a run put into their splits; in: DataConfig, seed and rationale sources, out: rows by split and notes."""

import collections
import dataclasses
import functools
import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from r2d_jax.config import ColumnsConfig, DataConfig
from r2d_jax.data.draws import draw_by_digest, key_digest
from r2d_jax.data.duplicates import drop_duplicates
from r2d_jax.data.mentions import is_blank
from r2d_jax.data.packed_columns import Digests, digest_of, numbered
from r2d_jax.data.reading.raw_rows import RowCallback, shown, splits_within
from r2d_jax.data.reading.templates import parse_template
from r2d_jax.data.row_store import NameCodes, RowStore
from r2d_jax.data.schema import Example
from r2d_jax.data.sources import read_source
from r2d_jax.errors import UserError

NAMES = ("train", "validation", "test")
_NO_ROWS = np.arange(0)
# More values, or longer ones, are hardly those of a split column.
_SHOWN_SPLITS, _SPLIT_WORDS = 5, 2

RowsBySplit = dict[str, np.ndarray]
"""Row numbers int64 [n] of each split, in order."""


class _Sources:
    """Reads sources by one config, and keeps what splits need of each row: 4 to 48 bytes beside the row itself."""

    def __init__(
        self, config: DataConfig, seed: int, rationale_sources: Sequence[str], progress: RowCallback | None
    ):
        self._config, self._rationale_sources, self._progress = config, rationale_sources, progress
        self._seed = seed
        self.told: list[str] = []
        self._without_rationale: collections.Counter[str] = collections.Counter()
        self._mapped: collections.Counter[str] = collections.Counter()
        self.store = RowStore()
        self._keys, self._inputs = Digests(), Digests()

    def read(self, path: str, split: str | None = None) -> tuple[np.ndarray, NameCodes]:
        """Numbers of the rows of a source, and the value of each in the split column.

        Args:
            path: of the source.
            split: of all of its rows; None: their split column says it, if there is one.
        """
        config = self._config
        columns = config.columns
        if split is not None and columns.split is not None:
            columns = dataclasses.replace(columns, split=None)
        read = read_source(
            path,
            columns,
            rationale_sources=self._rationale_sources,
            encoding=config.encoding,
            missing_rationales=config.missing_rationales,
            label_map=config.label_map,
            progress=self._progress,
        )
        first, values = len(self.store), NameCodes()
        for row in read:
            self.store.append(row.example)
            values.append(row.split)
            if config.columns.group or config.split_shares is not None:
                key = row.example.group if config.columns.group else row.example.row_id
                self._keys.append(key_digest(self._seed, key))
            if config.duplicates == "drop":
                self._inputs.append(digest_of(row.example.question, row.example.context))
        for value, count in read.without_rationale.items():
            self._without_rationale[split or value] += count
        self._mapped += read.mapped
        return np.arange(first, len(self.store)), values

    @property
    def labels(self) -> np.ndarray:
        """int32 [N]: the label of each row, as a number."""
        return self.store.labels.codes

    @functools.cached_property
    def keys(self) -> np.ndarray:
        """uint64 [N, 2]: digest of each row's group, or of its id."""
        return self._keys.array()

    @property
    def inputs(self) -> np.ndarray:
        """int64 [N]: the question and context of each row, as a number."""
        return numbered(self._inputs.array())

    def notes(self) -> list[str]:
        """What to tell of rows left out and labels changed.

        Raises:
            UserError: a key of data.label_map that no row has.
        """
        require_known_labels(self._config.label_map, self._mapped)
        found = list(self.told)
        if self._without_rationale:
            by_split = [f"{shown([name])} {count}" for name, count in self._without_rationale.items() if name]
            told = f" ({', '.join(by_split[:_SHOWN_SPLITS])})" if by_split else ""
            count = self._without_rationale.total()
            if self._config.missing_rationales == "skip":
                found.append(f"left out {count} rows without a rationale{told}")
            else:
                # Where stages learn several, a row may lack one of them.
                teach = "their label alone" if len(self._rationale_sources) == 1 else "what they have"
                found.append(f"{count} rows without a rationale teach {teach}{told}")
        for label, count in self._mapped.items():
            new = self._config.label_map[label]
            found.append(f"label {shown([label])} of {count} rows became {shown([new])}")
        return found


def require_known_labels(label_map: Mapping[str, str], mapped: Collection[str]) -> None:
    """Refuse a label map that does not fit the rows.

    Args:
        label_map: data.label_map.
        mapped: labels as written that rows have and it changed.

    Raises:
        UserError: a key of data.label_map that no row has.
    """
    if unknown := [label for label in label_map if label not in mapped]:
        raise UserError(
            "data.label_map", f"no row has the label {shown(unknown)}", "Correct or remove this key."
        )


def rows_by_split(
    config: DataConfig, seed: int, rationale_sources: Sequence[str], progress: RowCallback | None
) -> tuple[dict[str, Sequence[Example]], list[str]]:
    """Rows of the files of a run by split, each in order, and plain lines about what was left out or changed.

    Raises:
        UserError: a fault of the settings or of a source.
    """
    _check(config)
    sources = _Sources(config, seed, rationale_sources, progress)
    rows = _given(config, sources) if config.split_shares is None else _drawn(config, sources)
    notes = sources.notes()
    if not len(rows["train"]):
        raise UserError(
            "data",
            "; ".join(["the train split has no rows", *notes]),
            "Check data.split_values or data.train_path.",
        )
    if not len(rows["validation"]):
        rows["train"], rows["validation"] = _validation(rows["train"], config, sources, seed)
    if config.duplicates == "drop":
        rows, dropped = drop_duplicates(rows, sources.inputs, sources.labels)
        notes += dropped
    selected = sources.store.rows(*(rows[name] for name in NAMES))
    return dict(zip(NAMES, selected, strict=True)), notes


def _check(config: DataConfig) -> None:
    if blank := [label for label, new in config.label_map.items() if is_blank(new)]:
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
        rows = {
            name: sources.read(path, name)[0] if path is not None else _NO_ROWS
            for name, path in paths.items()
        }
    elif config.columns.split is None:
        rows = _built_in(config, sources)
    else:
        rows = _by_column(config, sources)
    _check_groups(config, rows, sources)
    return rows


def _by_column(config: DataConfig, sources: _Sources) -> RowsBySplit:
    assert config.path is not None
    rows, values = sources.read(config.path)
    names = {value: name for name, value in config.split_values.items()}
    unknown = sorted(set(values.names) - names.keys())
    if unknown:
        told, fix = shown(unknown), "Map them"
        if may_be_case_text(values, unknown, config.columns):
            told, fix = (
                f"{len(unknown)}, not shown for they may be text",
                "Check data.columns.split, or map them",
            )
        raise UserError(
            f"{config.path}, field {config.columns.split!r}",
            f"values without a split: {told}",
            f"{fix} in data.split_values, now {dict(config.split_values)}.",
        )
    splits = np.array([NAMES.index(names[value]) for value in values.names])[values.codes]
    return {name: rows[splits == number] for number, name in enumerate(NAMES)}


def may_be_case_text(values: NameCodes, unknown: Collection[str], columns: ColumnsConfig) -> bool:
    """Whether a split column looks like another one, so that no message may tell its values.

    Args:
        values: of the column, one a row.
        unknown: those of its values that name no split.
        columns: whose split is this column.
    """
    texts = [columns.question, columns.context or "", *columns.rationales.values()]
    of_texts = {name for text in texts if text for name in parse_template(text, "data.columns").columns}
    return bool(unknown) and (
        len(unknown) > _SHOWN_SPLITS
        or len(values.names) == len(values.codes)
        or any(len(value.split()) > _SPLIT_WORDS for value in unknown)
        or columns.split in of_texts
    )


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
    rows = dict.fromkeys(NAMES, _NO_ROWS)
    for name, value in wanted.items():
        rows[name], _ = sources.read(_with_split(config.path, value), name)
    return rows


def _with_split(address: str, split: str) -> str:
    # Without a config, "hf:NAME:X" might be config X.
    return (
        f"{address}::{split}"
        if address.startswith("hf:") and ":" not in address[3:]
        else f"{address}:{split}"
    )


def _drawn(config: DataConfig, sources: _Sources) -> RowsBySplit:
    assert config.path is not None
    assert config.split_shares is not None
    rows, _ = sources.read(config.path)
    # The order of a map in a file must not decide ties.
    shares = [config.split_shares.get(name, 0.0) for name in NAMES]  # type: ignore[call-overload]
    drawn = draw_by_digest(sources.labels, sources.keys, shares)
    return {name: rows[drawn == number] for number, name in enumerate(NAMES)}


def _check_groups(config: DataConfig, rows: RowsBySplit, sources: _Sources) -> None:
    if config.columns.group is None:
        return
    groups = numbered(sources.keys)
    in_splits = np.zeros(groups.max(initial=-1) + 1, np.int64)
    for name in NAMES:
        in_splits[np.unique(groups[rows[name]])] += 1
    parted = int((in_splits > 1).sum())
    if parted:
        raise UserError(
            "data.columns.group",
            f"{parted} of {len(in_splits)} values of {config.columns.group!r} appear in more than one split",
            "Correct the splits, or draw them with data.split_shares.",
        )


def _validation(
    train: np.ndarray, config: DataConfig, sources: _Sources, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    fraction = config.validation_fraction
    if config.columns.group is None:
        taken = _stratified(sources.labels[train], sources.store.labels.names, fraction, seed)
    else:
        taken = draw_by_digest(sources.labels[train], sources.keys[train], [1 - fraction, fraction]) == 1
    return train[~taken], train[taken]


def _stratified(labels: np.ndarray, names: Sequence[str], fraction: float, seed: int) -> np.ndarray:
    """Which of rows with these labels int32 [N], indices of names, are taken: bool [N].

    Each label gives round(fraction x its rows), at least 1 where it has 2 or more. Which rows are taken depends on
    the seed and the order of the rows.
    """
    by_label = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[by_label], np.arange(len(names) + 1))
    rng = np.random.default_rng(seed)
    taken = np.zeros(len(labels), bool)
    for code in sorted(range(len(names)), key=names.__getitem__):
        rows = by_label[starts[code] : starts[code + 1]]
        if not len(rows):
            continue
        count = max(round(fraction * len(rows)), 1) if fraction > 0 and len(rows) > 1 else 0
        taken[rng.permutation(rows)[: min(count, len(rows) - 1)]] = True
    return taken
