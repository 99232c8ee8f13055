"""Rules about the label column; in: labels row by row, out: a table of labels and findings, names only where short."""

import dataclasses
import functools
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence

from r2d_jax.data.check.findings import MAX_PLACES, VALIDATION, Place, Tally
from r2d_jax.data.check.rules import Severity
from r2d_jax.data.reading.raw_rows import shown

RARE_ROWS, DOMINANT_SHARE = 3, 0.95
# More are not told apart: such a column holds no classes, and memory must stay bounded.
_MAX_LABELS = 10_000
_FREE_TEXT_LABELS, _NUMBERS, _ALL_DIFFERENT = 20, 10, 5
_LONG_WORDS = 6
_NUMBER = re.compile(r"[-+]?\d+([.,]\d+)?")
_INVISIBLE = re.compile("[\\s\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]+")


@dataclasses.dataclass(frozen=True)
class LabelRow:
    """One line of the label table: a name that may be shown, and its rows by split."""

    name: str
    rows: Mapping[str, int]


def _same_but_blanks(label: str) -> str:
    return unicodedata.normalize("NFC", _INVISIBLE.sub("", unicodedata.normalize("NFC", label)).casefold())


def _same_but_signs(label: str) -> str:
    decomposed = unicodedata.normalize("NFKD", label).casefold()
    return "".join(char for char in decomposed if char.isalnum())


def looks_like_text(labels: Collection[str], rows: int) -> bool:
    """Whether names of labels may be case text, so that none is shown.

    Args:
        labels: all different ones.
        rows: how many rows have one.
    """
    count = len(labels)
    words = sorted(len(label.split()) for label in labels)[count // 2] if labels else 0
    many = count > _FREE_TEXT_LABELS and (2 * count >= rows or words > _LONG_WORDS)
    return many or count == rows >= _ALL_DIFFERENT or count > _MAX_LABELS


def name_of(label: str, *, hidden: bool) -> str:
    """A label for a message: by its length where it is long or `hidden`."""
    return f"({len(label)} characters)" if hidden else shown([label])


class LabelTable:
    """Counts labels by split; its properties are read only once all rows are in, and stay as they are."""

    def __init__(self) -> None:
        self._rows: dict[str, Counter[str]] = {}
        self._first: dict[tuple[str, str], str] = {}
        self.splits: Counter[str] = Counter()
        self.beyond = 0

    def add(self, split: str, label: str, place: str) -> None:
        """Count one row."""
        self.splits[split] += 1
        if label not in self._rows:
            if len(self._rows) == _MAX_LABELS:
                self.beyond += 1
                return
            self._rows[label] = Counter()
        self._rows[label][split] += 1
        self._first.setdefault((label, split), place)

    @functools.cached_property
    def train(self) -> str:
        """The split that is trained on: "train", else one that begins so, else the first."""
        named = [split for split in self.splits if split.startswith("train")]
        return "train" if "train" in self.splits else (named or list(self.splits))[0]

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """Labels in the order of their rows, the most common first."""
        return tuple(sorted(self._rows, key=lambda label: (-self._rows[label].total(), label)))

    @functools.cached_property
    def looks_like_text(self) -> bool:
        """As `looks_like_text`, of all rows."""
        return bool(self.beyond) or looks_like_text(self._rows, self.splits.total())

    def name(self, label: str) -> str:
        """A label for a message: hidden where the column may hold case text, by its length where it is long."""
        return name_of(label, hidden=self.looks_like_text)

    def table(self) -> tuple[LabelRow, ...]:
        """The label table."""
        return tuple(LabelRow(self.name(label), dict(self._rows[label])) for label in self.labels)

    def _groups(self, key: Callable[[str], str]) -> list[list[str]]:
        groups = defaultdict(list)
        for label in self.labels:
            groups[key(label)].append(label)
        return [group for same, group in groups.items() if same and len(group) > 1]

    def rows(self, label: str, split: str) -> int:
        """Rows of a split with this label."""
        return self._rows[label][split]

    def tell(
        self,
        tally: Tally,
        code: str,
        split: str,
        labels: Sequence[str],
        severity: Severity | None = None,
        **details: object,
    ) -> None:
        """Add a finding about these labels in one split, if it has rows of them."""
        told = [label for label in labels if self._rows[label][split]]
        count = sum(self._rows[label][split] for label in told)
        if count:
            places = [Place(self._first[label, split]) for label in told[:MAX_PLACES]]
            names = [self.name(label) for label in told[:MAX_PLACES]]
            details = {"labels": len(told), "names": names, **details}
            tally.make(code, "label", split, count, self.splits[split], places, severity, **details)

    def find(self, tally: Tally) -> None:
        """Add the findings about labels."""
        train, labels = self.train, self.labels
        in_train = [label for label in labels if self._rows[label][train]]
        rows = self.splits[train]
        if self.looks_like_text:
            self.tell(tally, "label-free-text", train, labels)
        elif len(labels) > _NUMBERS and all(_NUMBER.fullmatch(label.strip()) for label in labels):
            self.tell(tally, "label-numbers", train, labels)
        if len(in_train) == 1 and rows > 1:
            self.tell(tally, "label-one", train, in_train)
        elif in_train and self._rows[in_train[0]][train] >= DOMINANT_SHARE * rows:
            self.tell(tally, "label-dominant", train, in_train[:1])
        if not self.looks_like_text:
            self.tell(
                tally,
                "label-rare",
                train,
                [label for label in in_train if self._rows[label][train] < RARE_ROWS],
            )
            for split in self.splits:
                if split not in (train, VALIDATION):
                    untested = [label for label in in_train if not self._rows[label][split]]
                    self.tell(tally, "label-untested", train, untested, lacking_split=split)
        for split in self.splits:
            if split != train:
                unseen = [label for label in labels if not self._rows[label][train]]
                self.tell(tally, "label-unseen", split, unseen)
        self._find_spellings(tally)

    def _find_spellings(self, tally: Tally) -> None:
        alike = self._groups(_same_but_blanks)
        one_of_each = {_same_but_blanks(label) for label in self.labels}
        signs = [
            group
            for group in self._groups(_same_but_signs)
            if len({_same_but_blanks(label) for label in group} & one_of_each) > 1
        ]
        for code, groups in (("label-spellings", alike), ("label-signs", signs)):
            spelt = [[self.name(label) for label in group] for group in groups[:MAX_PLACES]]
            # The most common spelling is taken for the right one.
            rarer = [label for group in groups for label in group[1:]]
            # Among free answers two spellings are common, and no class is split in two.
            severity: Severity | None = "warning" if self.looks_like_text else None
            for split in self.splits:
                self.tell(tally, code, split, rarer, severity, spellings=spelt)
