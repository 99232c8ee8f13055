"""The three splits of a run; in: DataConfig and a seed, out: Splits, their label set and a description."""

import collections
import hashlib
import json
import unicodedata
from collections.abc import Sequence

from r2d_jax.config import DataConfig
from r2d_jax.data.duplicates import leaks
from r2d_jax.data.reading.raw_rows import Progress, shown
from r2d_jax.data.schema import Example, Splits
from r2d_jax.data.split_rows import NAMES, rows_by_split, take_validation
from r2d_jax.data.text_map import MARKERS
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.errors import UserError

_SHOWN_LABELS = 60

__all__ = [
    "NAMES",
    "content_hash",
    "describe",
    "label_set",
    "load_splits",
    "split_warnings",
    "take_validation",
    "text_warnings",
]


def load_splits(
    config: DataConfig, seed: int, rationale_sources: Sequence[str], progress: Progress | None = None
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
        if not rows[name]:
            told = "; ".join([f"the {name} split has no rows", *notes])
            raise UserError("data", told, _EMPTY_SPLIT[name])
    return Splits(*(tuple(rows[name]) for name in NAMES), notes=tuple(notes))


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
    return tuple(sorted({example.label for rows in _each(splits).values() for example in rows}))


def content_hash(splits: Splits) -> str:
    """Short sha256 over all text of all rows in order."""
    digest = hashlib.sha256()
    for name, rows in _each(splits).items():
        for row in rows:
            cells = [name, row.row_id, row.question, row.context, row.label, *sorted(row.rationales.items())]
            digest.update(json.dumps(cells).encode())
    return digest.hexdigest()[:16]


def _each(splits: Splits) -> dict[str, tuple[Example, ...]]:
    return {name: getattr(splits, name) for name in NAMES}


def _bare(label: str) -> str:
    decomposed = unicodedata.normalize("NFKD", label).casefold()
    return "".join(char for char in decomposed if char.isalnum())


def split_warnings(splits: Splits) -> list[str]:
    """What looks wrong about labels and rows: near-duplicate labels, unseen labels, rows that stand in two splits."""
    found = []
    spellings = collections.defaultdict(list)
    for label in label_set(splits):
        spellings[_bare(label)].append(label)
    for same in spellings.values():
        if len(same) > 1:
            found.append(f"labels that differ only in case, spacing, signs or accents: {shown(same)}")
    learned = {example.label for example in splits.train}
    for name in ("validation", "test"):
        unseen = sorted({example.label for example in getattr(splits, name)} - learned)
        if unseen:
            found.append(f"labels of {name} that train never has: {shown(unseen)}")
    found += leaks(_each(splits))
    return found


def describe(splits: Splits, tokenizer: Tokenizer | None = None) -> str:
    """Row and label counts by split, content hash, notes and warnings, as plain lines; labels but no case text.

    Args:
        splits: the rows.
        tokenizer: to count, by field, the characters that it loses; None leaves them out.
    """
    each = _each(splits)
    counts = {name: collections.Counter(row.label for row in rows) for name, rows in each.items()}
    labels = sorted(label_set(splits), key=lambda label: -counts["train"][label])
    # Over this many, the column is hardly one of labels, and the table would print what it holds.
    names = {label: shown([label]) for label in labels[:_SHOWN_LABELS]}
    more = len(labels) - len(names)
    width = max(len("label"), *map(len, names.values()))
    lines = [f"data: content hash {content_hash(splits)}"]
    lines.append("  " + "label".ljust(width) + "".join(name.rjust(12) for name in NAMES))
    for label, name in names.items():
        lines.append("  " + name.ljust(width) + "".join(f"{counts[split][label]:12d}" for split in NAMES))
    if more:
        lines.append(f"  and {more} more labels")
    lines.append("  " + "rows".ljust(width) + "".join(f"{len(rows):12d}" for rows in each.values()))
    lines += [f"  note: {text}" for text in splits.notes]
    lines += [f"  warning: {text}" for text in split_warnings(splits)]
    if tokenizer is not None:
        lines += [f"  warning: {text}" for text in text_warnings(splits, tokenizer)]
    return "\n".join(lines)


def text_warnings(splits: Splits, tokenizer: Tokenizer) -> list[str]:
    """By field: characters that the vocabulary loses, and markers that a text spells itself."""
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    first: dict[tuple[str, str], str] = {}
    bracketed: dict[str, list[str]] = collections.defaultdict(list)
    for split, rows in _each(splits).items():
        for row in rows:
            texts = {"question": row.question, "context": row.context, "label": row.label}
            for field, text in (
                texts | {f"rationale {key}": value for key, value in row.rationales.items()}
            ).items():
                composed = unicodedata.normalize("NFC", text)
                counts[field].update(composed)
                for char in set(composed):
                    first.setdefault((field, char), f"{split} {row.row_id}")
                if "[" in text and tokenizer.marker_collisions(text):
                    bracketed[field].append(f"{split} {row.row_id}")
    found = []
    for field in sorted(counts):
        lost = {char: counts[field][char] for char in tokenizer.unknown_characters("".join(counts[field]))}
        if lost:
            most = sorted(lost.items(), key=lambda item: (-item[1], item[0]))[:8]
            told = ", ".join(
                f"U+{ord(char):04X} {count}x, first in {first[field, char]}" for char, count in most
            )
            found.append(f"{field}: {sum(lost.values())} characters that the vocabulary loses ({told})")
        if bracketed[field]:
            found.append(
                f"{field}: {len(bracketed[field])} rows spell a marker of the text map, such as {MARKERS['<']}, "
                f"which decoding turns into its character; first in {bracketed[field][0]}"
            )
    return found
