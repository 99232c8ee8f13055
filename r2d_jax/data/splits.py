"""The three splits of a run; in: DataConfig and a seed, out: Splits, their label set and a description."""

import collections
import hashlib
import json
import unicodedata
from collections.abc import Sequence

import numpy as np

from r2d_jax.config import DataConfig
from r2d_jax.data.raw_rows import shown
from r2d_jax.data.schema import Example, Splits
from r2d_jax.data.sources import read_examples, read_split_examples
from r2d_jax.data.text_map import MARKERS
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.errors import UserError

NAMES = ("train", "validation", "test")
_SHOWN_LABELS, _SHOWN_SPLITS = 60, 5


def load_splits(config: DataConfig, seed: int, rationale_sources: Sequence[str]) -> Splits:
    """Read or generate the rows of a run.

    Args:
        config: one file with a split column, or files by split, or the triage generator.
        seed: of the generator and of a validation split taken from train, where config.seed is None.
        rationale_sources: which rationales every row must have.

    Raises:
        UserError: a fault of a file, or a split without rows.
    """
    seed = seed if config.seed is None else config.seed
    if config.source == "triage":
        from r2d_jax.data.triage import generate

        splits = generate(config.triage, seed)
        _require_sources(splits, rationale_sources)
        return splits
    _require_paths(config)
    rows = (
        _from_one_file(config, rationale_sources)
        if config.path is not None
        else _from_files(config, rationale_sources)
    )
    if not rows["train"]:
        raise UserError("data", "the train split has no rows", "Check data.split_values or data.train_path.")
    if not rows["validation"]:
        rows["train"], rows["validation"] = take_validation(rows["train"], config.validation_fraction, seed)
    for name in NAMES:
        if not rows[name]:
            raise UserError("data", f"the {name} split has no rows", _EMPTY_SPLIT[name])
    return Splits(*(tuple(rows[name]) for name in NAMES))


_EMPTY_SPLIT = {
    "train": "Lower data.validation_fraction or add rows.",
    "validation": "Raise data.validation_fraction or give data.validation_path.",
    "test": "Give data.test_path or check data.split_values.",
}


def _require_sources(splits: Splits, sources: Sequence[str]) -> None:
    there = splits.train[0].rationales
    for name in sources:
        if name not in there:
            raise UserError(
                "rationale_source",
                f"{name!r} is not one that the generator writes ({shown(there)})",
                "Choose one of these.",
            )


def _require_paths(config: DataConfig) -> None:
    others = [name for name in ("train", "validation", "test") if getattr(config, f"{name}_path") is not None]
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


def _from_one_file(config: DataConfig, sources: Sequence[str]) -> dict[str, list[Example]]:
    assert config.path is not None
    if config.columns.split is None:
        raise UserError(
            "data.path", "one file needs data.columns.split", "Name the column, or use data.train_path."
        )
    rows = read_split_examples(
        config.path, config.columns, rationale_sources=sources, encoding=config.encoding
    )
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
    split: dict[str, list[Example]] = {name: [] for name in NAMES}
    for row in rows:
        split[names[row.split]].append(row.example)
    return split


def _from_files(config: DataConfig, sources: Sequence[str]) -> dict[str, list[Example]]:
    paths = {"train": config.train_path, "validation": config.validation_path, "test": config.test_path}
    columns = config.columns
    return {
        name: read_examples(path, columns, rationale_sources=sources, encoding=config.encoding)
        if path is not None
        else []
        for name, path in paths.items()
    }


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
    questions = {(example.question, example.context) for example in splits.train}
    for name in ("validation", "test"):
        both = sum((example.question, example.context) in questions for example in getattr(splits, name))
        if both:
            found.append(f"{both} rows of {name} have the same question and context as a row of train")
    return found


def describe(splits: Splits, tokenizer: Tokenizer | None = None) -> str:
    """Row and label counts by split, content hash and warnings, as plain lines; holds labels but no case text.

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
