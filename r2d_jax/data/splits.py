"""The three splits of a run; in: DataConfig and a seed, out: Splits, their label set and a description."""

import collections
import hashlib
import json
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np

from r2d_jax.config import DataConfig
from r2d_jax.data.schema import Example, Splits
from r2d_jax.data.sources import read_examples, read_split_examples
from r2d_jax.errors import UserError

NAMES = ("train", "validation", "test")


def load_splits(config: DataConfig, seed: int, rationale_sources: Sequence[str]) -> Splits:
    """Read or generate the rows of a run.

    Args:
        config: one file with a split column, or files by split, or the triage generator.
        seed: of the generator and of a validation split taken from train.
        rationale_sources: which rationales every row must have.

    Raises:
        UserError: a fault of a file, or a split without rows.
    """
    if config.source == "triage":
        from r2d_jax.data.triage import generate

        return generate(config.triage, seed)
    rows = (
        _from_one_file(config, rationale_sources) if config.path else _from_files(config, rationale_sources)
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
        raise UserError(
            f"{config.path}, field {config.columns.split!r}",
            f"values without a split: {', '.join(map(repr, unknown[:5]))}",
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
        if path
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
            found.append(
                f"labels that differ only in case, spacing, signs or accents: {', '.join(map(repr, same))}"
            )
    learned = {example.label for example in splits.train}
    for name in ("validation", "test"):
        unseen = sorted({example.label for example in getattr(splits, name)} - learned)
        if unseen:
            found.append(f"labels of {name} that train never has: {', '.join(map(repr, unseen))}")
    questions = {(example.question, example.context) for example in splits.train}
    for name in ("validation", "test"):
        both = sum((example.question, example.context) in questions for example in getattr(splits, name))
        if both:
            found.append(f"{both} rows of {name} have the same question and context as a row of train")
    return found


def describe(splits: Splits, unknown_characters: Callable[[str], set[str]] | None = None) -> str:
    """Row and label counts by split, content hash and warnings, as plain lines; holds labels but no case text.

    Args:
        splits: the rows.
        unknown_characters: characters of a text that the vocabulary loses; None leaves them out.
    """
    each = _each(splits)
    labels = label_set(splits)
    width = max(len("label"), *map(len, labels))
    lines = [f"data: content hash {content_hash(splits)}"]
    lines.append("  " + "label".ljust(width) + "".join(name.rjust(12) for name in NAMES))
    for label in labels:
        counts = [sum(example.label == label for example in rows) for rows in each.values()]
        lines.append("  " + label.ljust(width) + "".join(str(count).rjust(12) for count in counts))
    lines.append("  " + "rows".ljust(width) + "".join(str(len(rows)).rjust(12) for rows in each.values()))
    lines += [f"  warning: {text}" for text in split_warnings(splits)]
    if unknown_characters is not None:
        lines += [f"  warning: {text}" for text in _lost_characters(splits, unknown_characters)]
    return "\n".join(lines)


def _lost_characters(splits: Splits, unknown_characters: Callable[[str], set[str]]) -> list[str]:
    fields: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for rows in _each(splits).values():
        for row in rows:
            texts = {"question": row.question, "context": row.context}
            for name, text in (
                texts | {f"rationale {key}": value for key, value in row.rationales.items()}
            ).items():
                fields[name].update(char for char in text if ord(char) > 126)
    found = []
    for name, counts in sorted(fields.items()):
        lost = {char: counts[char] for char in unknown_characters("".join(counts))}
        if lost:
            shown = ", ".join(f"U+{ord(char):04X} {count}x" for char, count in sorted(lost.items())[:8])
            found.append(
                f"{name}: {sum(lost.values())} characters that the vocabulary cannot carry ({shown})"
            )
    return found
