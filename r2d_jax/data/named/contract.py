"""What a converter is and what it hands over; in: original files by key, out: NamedRow and counts beside them."""

import collections
import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from r2d_jax.data.mentions import is_blank
from r2d_jax.data.reading.raw_rows import Number, kind_of, raw_rows, shown
from r2d_jax.errors import UserError

RATIONALES = ("rationale", "rationale_2", "rationale_3")
_SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


@dataclasses.dataclass(frozen=True)
class NamedRow:
    """One converted row.

    Attributes:
        place: file and line of the original, for messages.
        row_id: id as published, or made by a rule that the card states.
        split: value of the split column.
        question: text the model is asked.
        context: text that may be shortened; "" where there is none.
        label: gold label.
        rationales: text by column; the first column must not be empty, others may be.
    """

    place: str
    row_id: str
    split: str
    question: str
    context: str
    label: str
    rationales: Mapping[str, str]


class ConversionCounts:
    """Counts of a conversion: rows written by split, rows dropped by reason, and what else was met."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.rows: collections.Counter[str] = collections.Counter()
        self.dropped: collections.Counter[str] = collections.Counter()
        self.noted: collections.Counter[str] = collections.Counter()

    def drop(self, reason: str) -> None:
        """One row more that is left out; the reason goes into the card, so it holds no case text."""
        self.dropped[reason] += 1

    def note(self, what: str, times: int = 1) -> None:
        """Something that the reader of the card should know, such as a respelled label."""
        if times:
            self.noted[what] += times

    def full(self, split: str) -> bool:
        """Whether this split has all the rows that --limit lets it have."""
        return self.limit is not None and self.rows[split] >= self.limit


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """One original file, or several of one kind.

    Attributes:
        key: name by which the converter asks for it.
        names: file names or patterns as published, best first.
        suffix: ending that its reader needs; a zipped or unmarked file is given it.
        many: whether several files may match one pattern.
        optional: whether the conversion goes on without it.
    """

    key: str
    names: tuple[str, ...]
    suffix: str
    many: bool = False
    optional: bool = False


@dataclasses.dataclass(frozen=True)
class Job:
    """What a converter gets: files by key (a missing optional one has none), the seed and the counts."""

    files: Mapping[str, Sequence[pathlib.Path]]
    seed: int
    tally: ConversionCounts

    def file(self, key: str) -> pathlib.Path:
        """The only file of this key."""
        return self.files[key][0]

    def rows(self, key: str, split: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Place and cells of each row of the only file of this key, until this split is full."""
        path = self.file(key)
        for place, cells, *_ in raw_rows(path):
            if self.tally.full(split):
                return
            yield f"{path} {place}", cells


@dataclasses.dataclass(frozen=True)
class NamedDataset:
    """A published data set: what it is, where it comes from, and how it is read.

    Attributes:
        name: as in `r2d data prepare NAME`.
        title: full name.
        task: what label and rationale are.
        published_rows: rows as its authors or others report them; not checked here unless it says so.
        download: where to get which files.
        licence: as stated by the source.
        caveats: what to know before use.
        citation: paper to cite.
        conversions: everything that is done to the text, in words.
        files: the original files.
        splits: values of the split column.
        labels: the label set, or None where labels are open text.
        rationales: rationale columns; the first must be filled in every row.
        ids_are_made: ids come from row numbers, so they need no check for repeats.
        convert: yields rows in a fixed order; may stop early at splits that are full.
    """

    name: str
    title: str
    task: str
    published_rows: str
    download: str
    licence: str
    caveats: tuple[str, ...]
    citation: str
    conversions: tuple[str, ...]
    files: tuple[SourceFile, ...]
    splits: tuple[str, ...]
    labels: tuple[str, ...] | None
    convert: Callable[[Job], Iterator[NamedRow]]
    rationales: tuple[str, ...] = ("rationale",)
    ids_are_made: bool = False


def text_of(cells: Mapping[str, Any], name: str, where: str, *, number: bool = False) -> str:
    """A cell as the text it is; "" where it is null.

    Args:
        cells: one row or JSON object.
        name: of the cell.
        where: file and place, for the message.
        number: whether a JSON number may stand here, taken in its written form.

    Raises:
        UserError: the cell is absent, or is neither text nor null.
    """
    if name not in cells:
        raise UserError(
            where, f"no field {name!r}; fields found: {shown(cells)}", "Give the file as it is published."
        )
    value = cells[name]
    if value is None:
        return ""
    if not isinstance(value, str) or (isinstance(value, Number) and not number):
        raise UserError(
            f"{where}, field {name!r}", f"is {kind_of(value)}, not text", "Give the file as it is published."
        )
    return str(value)


def joined(template: str, *parts: str) -> str:
    """A template's {} filled with parts; "" where a part is blank, so that the row counts as lacking its question."""
    return template.format(*parts) if not any(map(is_blank, parts)) else ""


def draw(seed: int, text: str) -> float:
    """A number in [0, 1) that depends on seed and text alone, so neither on order nor on other rows."""
    digest = hashlib.sha256(f"{seed}:{text}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8]) / 2**64


def drawn_split(seed: int, question: str) -> str:
    """One of train (80 %), validation (10 %) and test (10 %); the same question is never in two."""
    number = draw(seed, " ".join(question.split()).casefold())
    if number < _SHARES["train"]:
        return "train"
    return "validation" if number < _SHARES["train"] + _SHARES["validation"] else "test"
