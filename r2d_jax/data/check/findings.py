"""What the data check finds; in: sightings row by row, out: Findings with counts and first places, no case text."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from r2d_jax.data.check.rules import CODES, RULES, SEVERITIES, Severity

MAX_PLACES = 5
VALIDATION = "validation"
"""The split that chooses among checkpoints: neither learned from nor scored."""
_AROUND = 20


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a finding stands.

    Attributes:
        row: "train line 7", or "train row 7" where the id column must not be shown.
        text: an excerpt around it, only where it was asked for; else "".
    """

    row: str
    text: str = ""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One rule that some rows of one field and split break.

    Attributes:
        code: of `rules.RULES`.
        severity: error, warning or note.
        field: question, context, label, "input" (question and context) or "rationale NAME".
        split: name of the split.
        count: rows.
        rows: rows of the split that could show it.
        places: the first of them, at most 5.
        details: figures and short label names, ready for JSON.
    """

    code: str
    severity: Severity
    field: str
    split: str
    count: int
    rows: int
    places: tuple[Place, ...] = ()
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def message(self) -> str:
        """What was found, in words."""
        return RULES[self.code].message

    @property
    def fix(self) -> str:
        """What to do; "" where there is nothing to do."""
        return RULES[self.code].fix


@dataclasses.dataclass(frozen=True)
class SeenRow:
    """A row on its way through the rules: split, place, and texts by field, empty ones left out."""

    split: str
    place: str
    texts: Mapping[str, str]
    label: str


class Tally:
    """Counts rows by code, field and split, and remembers the first places; its size does not grow with the rows.

    Args:
        show_text: whether places keep an excerpt.
    """

    def __init__(self, show_text: bool = False):
        self._show_text = show_text
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._places: dict[tuple[str, str, str], list[Place]] = {}
        self._made: list[Finding] = []
        self.rows: Counter[tuple[str, str]] = Counter()

    def place(self, row: SeenRow, text: str, start: int = 0, end: int = 0) -> Place:
        """The place of a row, with an excerpt of the text where excerpts are asked for."""
        shown = text[max(start - _AROUND, 0) : end + _AROUND] if self._show_text else ""
        return Place(row.place, shown)

    def add(self, code: str, field: str, row: SeenRow, text: str = "", start: int = 0, end: int = 0) -> None:
        """Count a row; call it at most once per code, field and row."""
        key = code, field, row.split
        self._counts[key] += 1
        places = self._places.setdefault(key, [])
        if len(places) < MAX_PLACES:
            places.append(self.place(row, text, start, end))

    def count(self, code: str, field: str, split: str) -> int:
        """Rows counted so far."""
        return self._counts[code, field, split]

    def detail(
        self, code: str, field: str, split: str, severity: Severity | None = None, **details: Any
    ) -> None:
        """Turn what is counted under a key into a finding with details."""
        key = code, field, split
        if count := self._counts.pop(key, 0):
            places = self._places.pop(key, ())
            self.make(code, field, split, count, self.rows[field, split], places, severity, **details)

    def make(
        self,
        code: str,
        field: str,
        split: str,
        count: int,
        rows: int,
        places: Sequence[Place] = (),
        severity: Severity | None = None,
        **details: Any,
    ) -> None:
        """Add a finding as it is; its severity follows from the rule unless given."""
        severity = severity or RULES[code].severity_of(count, rows)
        self._made.append(Finding(code, severity, field, split, count, rows, tuple(places), details))

    def findings(self, splits: Sequence[str]) -> tuple[Finding, ...]:
        """All findings: errors first, then in the order of the rules, fields and splits."""
        for key in list(self._counts):
            self.detail(*key)
        return tuple(
            sorted(
                self._made,
                key=lambda found: (
                    SEVERITIES.index(found.severity),
                    CODES.index(found.code),
                    found.field,
                    splits.index(found.split),
                ),
            )
        )
