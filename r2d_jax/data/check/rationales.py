"""Rules about what rationales and inputs name; in: rows and the label set, out: contradictions, repeats and leaks."""

import re
from array import array
from collections import Counter, defaultdict
from collections.abc import MutableSequence

import numpy as np

from r2d_jax.data.check.duplicates import INPUT, digest
from r2d_jax.data.check.findings import SeenRow, Tally
from r2d_jax.data.check.labels import LabelTable
from r2d_jax.data.mentions import LabelFinder, is_blank

# Above these, naming labels alone tells something about the gold label, and not by luck.
_LEAST_LEAKING_ROWS, _ABOVE_CHANCE, _STANDARD_ERRORS = 20, 0.2, 4.0
_REPEATED_SHARE, _REPEATED_ROWS = 0.5, 10
_MAX_LABELS = 200
_SHORT_WORDS, _COPIED_WORDS = 3, 3
# Labels that are ordinary words stand in any text, so that naming one says nothing.
_ORDINARY = frozenset(
    re.findall(
        "[a-z]+",
        "yes no maybe true false none other unknown not normal abnormal positive negative high low mild moderate "
        "severe good bad all any both one two first second",
    )
)
_CONCLUSION = re.compile(
    r"\b(?:answer|label|class|category|verdict|decision|triage level|level|urgency)"
    r"(?: of (?:the|this) \w+)?(?: (?:here|is|was|would be|should be|must be))*(?: =|:|=|)[ \"'(\[*]*"
    r"|\bmakes (?:this|it|the case|this case)(?: a| an)?[ \"'(\[*]+"
    r"|\b(?:is|was|be) (?:classified|labell?ed|categori[sz]ed|triaged) (?:as )?[ \"'(\[*]*"
)


class Rationales:
    """What rationales name, repeat and conclude, and whether inputs give labels away."""

    def __init__(self, labels: LabelTable, tally: Tally):
        """Prepare for rows of these labels; where they are no classes, no label is looked for."""
        self._tally = tally
        self.finds_labels = not labels.looks_like_text and len(labels.labels) <= _MAX_LABELS
        self._finder = LabelFinder(labels.labels if self.finds_labels else ())
        self._named: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
        self._first: dict[tuple[str, str], str] = {}
        self._gold_named: Counter[str] = Counter()
        self._rows: Counter[str] = Counter()
        self._rationales: dict[tuple[str, str], MutableSequence[int]] = defaultdict(lambda: array("Q"))
        self._concluding: Counter[tuple[str, str]] = Counter()

    def see(self, row: SeenRow, sources: tuple[str, ...]) -> None:
        """Count one row; sources are the fields of rationales that rows have."""
        question, context = (
            self._finder.prepared(row.texts.get(name, "")) for name in ("question", "context")
        )
        gold = self._finder.key(row.label)
        self._rows[row.split] += 1
        self._see_input(f"{question} {context}", gold, row)
        for field in sources:
            text = row.texts.get(field, "")
            self._tally.rows[field, row.split] += not text
            if is_blank(text):
                self._tally.add("rationale-missing", field, row)
                continue
            prepared = self._finder.prepared(text)
            self._rationales[field, row.split].append(digest(prepared))
            words = prepared.split()
            bare = self._finder.key(prepared.strip(" .!,;:'\"()[]"))
            if bare == gold:
                self._tally.add("rationale-is-label", field, row)
            elif prepared in (question, context, f"{question} {context}"):
                self._tally.add("rationale-is-question", field, row)
            elif len(words) < _SHORT_WORDS:
                self._tally.add("rationale-short", field, row, text)
            elif len(words) > _COPIED_WORDS and (prepared in question or prepared in context):
                self._tally.add("rationale-in-input", field, row)
            self._see_named(field, prepared, gold, row)

    def _see_named(self, field: str, prepared: str, gold: str, row: SeenRow) -> None:
        found = self._finder.found(prepared)
        if not found:
            return
        named = {key for _, key in found}
        if _tells(gold) and gold not in named and any(map(_tells, named)):
            self._tally.add("rationale-names-other", field, row)
        concluded = self._concluded(prepared, found)
        if concluded is not None:
            self._concluding[field, row.split] += 1
            if concluded != gold:
                self._tally.add("rationale-concludes-other", field, row, prepared)

    def _concluded(self, prepared: str, found: list[tuple[int, str]]) -> str | None:
        """The label that the last conclusion of a rationale names at once: "is not urgent" names none."""
        at = dict(found)
        ends = [match.end() for match in _CONCLUSION.finditer(prepared)]
        named = [at[end] for end in ends if end in at]
        return named[-1] if named else None

    def _see_input(self, text: str, gold: str, row: SeenRow) -> None:
        named = {key for _, key in self._finder.found(text)}
        self._gold_named[row.split] += gold in named
        if len(named) == 1:
            key = next(iter(named))
            self._named[row.split][key, gold] += 1
            if key == gold:
                self._first.setdefault((row.split, key), row.place)

    def find(self, tally: Tally, labels: LabelTable) -> None:
        """Add the findings that need figures of all rows."""
        for field, split in list(tally.rows):
            # What is only scored needs none.
            if split != labels.train:
                tally.detail("rationale-missing", field, split, "warning")
        for (field, split), concluding in self._concluding.items():
            rows = tally.rows[field, split]
            # A share of those that conclude with any label, not of all rows.
            tally.rows[field, split] = concluding
            tally.detail("rationale-concludes-other", field, split)
            tally.rows[field, split] = rows
        for (field, split), digests in self._rationales.items():
            most = int(np.unique(np.asarray(digests), return_counts=True)[1].max())
            if most >= _REPEATED_ROWS and most >= _REPEATED_SHARE * len(digests):
                tally.make("rationale-repeated", field, split, most, len(digests))
        names = {self._finder.key(label): labels.name(label) for label in reversed(labels.labels)}
        for split, named in self._named.items():
            self._find_leak(tally, split, named, self._rows[split], names)

    def _find_leak(
        self, tally: Tally, split: str, named: Counter[tuple[str, str]], rows: int, names: dict[str, str]
    ) -> None:
        only_one = named.total()
        right = sum(count for (key, gold), count in named.items() if key == gold)
        golds: Counter[str] = Counter()
        for (_, gold), count in named.items():
            golds[gold] += count
        chance = max(golds.values(), default=0) / max(only_one, 1)
        precision = right / max(only_one, 1)
        error = (max(chance * (1 - chance), 0.25 / max(only_one, 1)) / max(only_one, 1)) ** 0.5
        far = precision >= chance + max(_ABOVE_CHANCE, _STANDARD_ERRORS * error)
        if only_one >= _LEAST_LEAKING_ROWS and far:
            by_label = {
                names[key]: {"named_alone": sum(c for (k, _), c in named.items() if k == key), "right": count}
                for (key, gold), count in sorted(named.items(), key=lambda item: -item[1])
                if key == gold
            }
            tally.make(
                "label-in-input",
                INPUT,
                split,
                only_one,
                rows,
                right_share=round(precision, 4),
                chance_share=round(chance, 4),
                gold_named_rows=self._gold_named[split],
                by_label=by_label,
            )


def _tells(key: str) -> bool:
    """Whether naming this label says something: it is no ordinary word, number or letter."""
    return len(key) > 2 and any(char.isalpha() for char in key) and key not in _ORDINARY
