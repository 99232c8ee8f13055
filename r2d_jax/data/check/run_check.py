"""The data check; in: rows as a stream that can be read twice, a DataConfig and a tokenizer, out: a DataCheck."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from r2d_jax.config import DataConfig
from r2d_jax.data.check.duplicates import Duplicates
from r2d_jax.data.check.findings import Finding, SeenRow, Tally
from r2d_jax.data.check.labels import LabelRow, LabelTable
from r2d_jax.data.check.left_out import LeftOut
from r2d_jax.data.check.rationales import Rationales
from r2d_jax.data.check.rules import Severity
from r2d_jax.data.check.text import see_text
from r2d_jax.data.check.vocabulary import CharacterRow, LengthRow, Vocabulary
from r2d_jax.data.reading.raw_rows import PROGRESS_ROWS, RowCallback
from r2d_jax.data.schema import Example, Splits
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.errors import UserError

Rows = Callable[[], Iterable[tuple[str, Example]]]
"""Gives the rows from the start each time it is called, each with the name of its split."""

ONE_SPLIT = "all"
"""Name of the split where rows are not split."""
_MAX_SPLITS = 1000


@dataclasses.dataclass(frozen=True)
class DataCheck:
    """What the check found; holds no case text unless it was asked for.

    Attributes:
        rows: rows by split, the one that is trained on first.
        train: name of the split that is trained on.
        fields: question, context, label and "rationale NAME", as far as rows have them.
        labels: the label table, the most common first.
        lengths: lengths in tokens; empty without a tokenizer.
        characters: characters that the vocabulary loses or changes; empty without a tokenizer.
        findings: errors first.
        left_out: rules that were not tried, and why.
        looked_at: rows whose texts were looked at; labels and rows that are alike are always told from all.
    """

    rows: Mapping[str, int]
    train: str
    fields: tuple[str, ...]
    labels: tuple[LabelRow, ...]
    lengths: tuple[LengthRow, ...]
    characters: tuple[CharacterRow, ...]
    findings: tuple[Finding, ...]
    left_out: tuple[str, ...]
    looked_at: int

    def count(self, severity: Severity) -> int:
        """How many rules have findings of which the worst is of this severity."""
        # Findings are sorted, so that the first of a rule is its worst.
        worst = {found.code: found.severity for found in reversed(self.findings)}
        return list(worst.values()).count(severity)

    @property
    def damaging(self) -> bool:
        """Whether there is an error."""
        return self.count("error") > 0


def rows_of(splits: Splits) -> Rows:
    """The rows of a run for `check_rows`."""

    def rows() -> Iterator[tuple[str, Example]]:
        for name in ("train", "validation", "test"):
            for example in getattr(splits, name):
                yield name, example

    return rows


def _placed(rows: Iterable[tuple[str, Example]], names: bool) -> Iterator[tuple[str, str, Example]]:
    numbers: dict[str, int] = {}
    for split, example in rows:
        numbers[split] = numbers.get(split, 0) + 1
        place = example.row_id if names else f"row {numbers[split]}"
        yield split, place if split == ONE_SPLIT else f"{split} {place}", example


def _texts(example: Example, sources: Iterable[str]) -> dict[str, str]:
    texts = {"question": example.question, "context": example.context, "label": example.label}
    texts |= {f"rationale {name}": example.rationales.get(name, "") for name in sources}
    return {field: text for field, text in texts.items() if text}


def check_rows(
    rows: Rows,
    config: DataConfig,
    tokenizer: Tokenizer | None = None,
    *,
    sources: Sequence[str] | None = None,
    show_ids: bool = False,
    show_text: bool = False,
    most_texts: int | None = None,
    progress: RowCallback | None = None,
) -> DataCheck:
    """Look for everything that would damage training; nothing is changed.

    The rows are read twice, for labels are looked for in texts. Memory grows by about 50 bytes a row.

    Args:
        rows: gives the stream of rows each time it is called, the same each time.
        config: column names and limits.
        tokenizer: None leaves out what depends on a vocabulary.
        sources: which rationales are looked at; None: all that rows have.
        show_ids: name rows by their id although it comes from a column; it may be that of a patient.
        show_text: keep excerpts of case text in the places of findings.
        most_texts: look at the texts of about so many rows, evenly spread; None: of all.
        progress: called with the number of rows checked so far.

    Raises:
        UserError: there are no rows, or config.input_limit_tokens leaves no room for a question.
    """
    # Without an id column an id is a place, such as "line 7".
    names = show_ids or config.columns.id is None
    labels = LabelTable()
    there: dict[str, None] = {}
    left_out = LeftOut(config)
    for split, place, example in _placed(rows(), names):
        there |= dict.fromkeys(example.rationales)
        if not left_out.sees(split, place, example):
            labels.add(split, example.label, place)
    sources = list(there) if sources is None else sources
    targets = tuple(f"rationale {name}" for name in sources)
    if not labels.splits:
        raise UserError("data", "there are no rows to check", "Give a file with rows that have a rationale.")
    if len(labels.splits) > _MAX_SPLITS:
        raise UserError(
            "data.columns.split", f"it has {len(labels.splits)} values", "Name the column of the splits."
        )
    tally = Tally(show_text)
    splits = sorted(dict.fromkeys([*labels.splits, *left_out.rows]), key=lambda split: split != labels.train)
    duplicates, rationales = Duplicates(splits), Rationales(labels, tally)
    vocabulary = Vocabulary(config, tokenizer, labels, tally) if tokenizer else None
    fields: dict[str, None] = {}
    every = 1 if most_texts is None else -(-labels.splits.total() // most_texts)
    looked_at = 0
    kept = (row for row in _placed(rows(), names) if not left_out.lacks(row[-1]))
    for number, (split, place, example) in enumerate(kept):
        row = SeenRow(split, place, _texts(example, sources), example.label)
        duplicates.see(row)
        if progress is not None and (number + 1) % PROGRESS_ROWS == 0:
            progress(number + 1)
        if number % every:
            continue
        looked_at += 1
        for field, text in row.texts.items():
            fields[field] = None
            tally.rows[field, split] += 1
            see_text(field, text, row, tally)
        rationales.see(row, targets)
        if vocabulary:
            vocabulary.see(row)
    labels.find(tally)
    duplicates.find(tally, labels.train)
    rationales.find(tally, labels)
    left_out.find(tally)
    if vocabulary:
        vocabulary.find(labels)
    return DataCheck(
        rows={split: labels.splits[split] for split in splits},
        train=labels.train,
        fields=tuple(fields),
        labels=labels.table(),
        lengths=vocabulary.lengths(splits) if vocabulary else (),
        characters=vocabulary.characters() if vocabulary else (),
        findings=tally.findings(splits),
        left_out=_left_out(labels, rationales, vocabulary, bool(targets)),
        looked_at=looked_at,
    )


def _left_out(
    labels: LabelTable, rationales: Rationales, vocabulary: Vocabulary | None, has_rationales: bool
) -> tuple[str, ...]:
    told = []
    if vocabulary is None:
        told.append("lengths, cuts and characters that a vocabulary loses: no tokenizer is given")
    if not rationales.finds_labels:
        told.append("labels named in texts: the labels are too many, or free text")
    if not has_rationales:
        told.append("rationales: no column of them is named")
    if labels.beyond:
        told.append(f"the labels of {labels.beyond} rows: there are too many different ones to count")
    return tuple(told)
