"""The three splits of a run; in: DataConfig and a seed, out: Splits, their label set and a description."""

import collections
import hashlib
import json
from collections.abc import Sequence

from r2d_jax.config import Config, DataConfig
from r2d_jax.config_check import used_sources
from r2d_jax.data.check.labels import looks_like_text, name_of
from r2d_jax.data.reading.raw_rows import RowCallback, shown
from r2d_jax.data.row_store import labels_of
from r2d_jax.data.schema import Example, Splits
from r2d_jax.data.split_rows import NAMES, rows_by_split
from r2d_jax.errors import UserError

_SHOWN_LABELS = 60

__all__ = [
    "NAMES",
    "content_hash",
    "describe",
    "label_set",
    "load_splits",
    "splits_of_run",
]


def load_splits(
    config: DataConfig, seed: int, rationale_sources: Sequence[str], progress: RowCallback | None = None
) -> Splits:
    """Read or generate the rows of a run.

    Args:
        config: one source with a split column, splits of its own or shares to draw, or one source per
            split, or the triage generator.
        seed: of the generator, of drawn splits and of a validation split taken from train, where
            config.seed is None.
        rationale_sources: which rationales every row must have.
        progress: called with the number of rows read so far from the source being read.

    Raises:
        UserError: a fault of a setting or a source, or a split without rows.
    """
    seed = seed if config.seed is None else config.seed
    if config.source == "triage":
        return _generated(config, seed, rationale_sources)
    rows, notes = rows_by_split(config, seed, rationale_sources, progress)
    for name in NAMES:
        if not len(rows[name]):
            told = "; ".join([f"the {name} split has no rows", *notes])
            raise UserError("data", told, _EMPTY_SPLIT[name])
    return Splits(*(rows[name] for name in NAMES), notes=tuple(notes))


def splits_of_run(config: Config, progress: RowCallback | None = None) -> Splits:
    """The rows of a run, with the rationales of all its stages.

    Whoever asks for fewer sources has other splits: where rows that lack one are left out, the others are drawn
    otherwise.

    Args:
        config: of the run.
        progress: as for `load_splits`.

    Raises:
        UserError: as `load_splits`.
    """
    return load_splits(config.data, config.seed, used_sources(config), progress)


_EMPTY_SPLIT = {
    "train": "Lower data.validation_fraction or add rows.",
    "validation": "Raise data.validation_fraction or give data.validation_path.",
    "test": "Give data.test_path, set data.split_shares, or check data.split_values.",
}


def _generated(config: DataConfig, seed: int, sources: Sequence[str]) -> Splits:
    from r2d_jax.data.triage import generate

    for name in ("split_shares", "label_map"):
        if getattr(config, name):
            raise UserError(
                f"data.{name}", "is set beside data.source=triage", "Generated rows are split and labelled."
            )
    splits = generate(config.triage, seed)
    there = splits.train[0].rationales
    for name in sources:
        if name not in there:
            raise UserError(
                "rationale_source",
                f"{name!r} is not one that the generator writes ({shown(there)})",
                "Choose one of these.",
            )
    return splits


def label_set(splits: Splits) -> tuple[str, ...]:
    """All labels, sorted."""
    return tuple(sorted({label for rows in _each(splits).values() for label in labels_of(rows)}))


def content_hash(splits: Splits) -> str:
    """Short sha256 over all text of all rows in order."""
    digest = hashlib.sha256()
    for name, rows in _each(splits).items():
        for row in rows:
            cells = [name, row.row_id, row.question, row.context, row.label, *sorted(row.rationales.items())]
            digest.update(json.dumps(cells).encode())
    return digest.hexdigest()[:16]


def _each(splits: Splits) -> dict[str, Sequence[Example]]:
    return {name: getattr(splits, name) for name in NAMES}


def describe(splits: Splits, data_hash: str | None = None) -> str:
    """Row and label counts by split, content hash and notes, as plain lines; labels but no case text.

    Names of labels are hidden as in the data check, which tells what may be wrong with the rows.

    Args:
        splits: the rows.
        data_hash: their content hash, where it is known; else it is computed here.
    """
    each = _each(splits)
    counts = {name: collections.Counter(labels_of(rows)) for name, rows in each.items()}
    labels = sorted(sorted(set().union(*counts.values())), key=lambda label: -counts["train"][label])
    # A column of names or of free text is no label, and the table would print what it holds.
    hidden = looks_like_text(labels, sum(map(len, each.values())))
    names = {label: name_of(label, hidden=hidden) for label in labels[:_SHOWN_LABELS]}
    more = len(labels) - len(names)
    width = max(len("label"), *map(len, names.values()))
    lines = [f"data: content hash {data_hash or content_hash(splits)}"]
    lines.append("  " + "label".ljust(width) + "".join(name.rjust(12) for name in NAMES))
    for label, name in names.items():
        lines.append("  " + name.ljust(width) + "".join(f"{counts[split][label]:12d}" for split in NAMES))
    if more:
        lines.append(f"  and {more} more labels")
    lines.append("  " + "rows".ljust(width) + "".join(f"{len(rows):12d}" for rows in each.values()))
    lines += [f"  note: {text}" for text in splits.notes]
    return "\n".join(lines)
