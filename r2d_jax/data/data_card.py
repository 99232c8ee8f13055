"""The card beside prepared rows; in: what a data set is and what was counted, out: JSON and Markdown, no case text."""

import collections
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

_SHOWN_LABELS, _SHOWN_LENGTH = 60, 40


@dataclasses.dataclass(frozen=True)
class DataCard:
    """All that a card says; every field is a plain value, so that it can be written as JSON as it is.

    Attributes:
        name: of the data set.
        title: full name.
        task: what label and rationale are.
        command: that made the rows.
        made_by: program and version.
        settings: limit and seed.
        source: Hub address and commit, or null for files at hand.
        inputs: file name, bytes and sha256 of each input.
        rows_file: name, bytes and sha256 of the rows.
        rows: count by split.
        labels: count by split and label; see `label_table`.
        rationales: rows by rationale column that have one.
        dropped: rows left out, by reason.
        noted: what else was counted.
        licence: as stated by the source.
        caveats: what to know before use.
        citation: paper to cite.
        download: where the inputs come from.
        conversions: everything that was done to the text.
    """

    name: str
    title: str
    task: str
    command: str
    made_by: str
    settings: Mapping[str, int | None]
    source: str | None
    inputs: Sequence[Mapping[str, Any]]
    rows_file: Mapping[str, Any]
    rows: Mapping[str, int]
    labels: Mapping[str, Any]
    rationales: Mapping[str, int]
    dropped: Mapping[str, int]
    noted: Mapping[str, int]
    licence: str
    caveats: Sequence[str]
    citation: str
    download: str
    conversions: Sequence[str]

    def as_json(self) -> str:
        """The card for programs."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"

    def as_markdown(self) -> str:
        """The card for people."""
        parts = [
            f"# {self.title}",
            f"Made by {self.made_by}:\n\n```bash\n{self.command}\n```",
            f"Task: {self.task}.",
            "This card holds counts and labels, and no text of a row.",
            "## Rows\n\n" + self._rows_table(),
            "## Labels\n\n" + self._labels_table(),
            "## Rationales\n\n" + _table(("column", "rows that have one"), self.rationales.items()),
            "## Rows left out\n\n" + _counts(self.dropped),
            "## Also counted\n\n" + _counts(self.noted),
            "## Conversions\n\n" + _bullets(self.conversions),
            f"## Licence\n\nAs stated by the source: {self.licence}.\n\n" + _bullets(self.caveats),
            f"## Citation\n\n{self.citation}",
            "## Files\n\n" + self._files_table(),
        ]
        return "\n\n".join(parts) + "\n"

    def _rows_table(self) -> str:
        total = sum(self.rows.values())
        limit = self.settings["limit"]
        note = f"\n\nAt most {limit} rows of each split, by `--limit`." if limit is not None else ""
        return _table(("split", "rows"), [*self.rows.items(), ("all", total)]) + note

    def _labels_table(self) -> str:
        splits = list(self.rows)
        lines = [
            (label, *(counts.get(split, 0) for split in splits))
            for label, counts in self.labels["counts"].items()
        ]
        more = self.labels["distinct"] - len(lines)
        note = f"\n\nand {more} more labels, or labels too long to show here" if more else ""
        return _table(("label", *splits), lines) + note

    def _files_table(self) -> str:
        lines = [(one["file"], one["bytes"], one["sha256"]) for one in (*self.inputs, self.rows_file)]
        where = f"Source: {self.source}.\n\n" if self.source else ""
        return f"{where}{_table(('file', 'bytes', 'sha256'), lines)}\n\nInputs: {self.download}"


def label_table(counts: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    """How many labels there are, and the counts of the commonest short ones.

    Where labels are open text, most stand once and are as good as case text, so a card shows no more than 60, and
    none of over 40 characters.

    Args:
        counts: by (split, label).
    """
    totals: collections.Counter[str] = collections.Counter()
    for (_, label), count in counts.items():
        totals[label] += count
    first = sorted(totals, key=lambda label: (-totals[label], label))[:_SHOWN_LABELS]
    kept = {label for label in first if len(label) <= _SHOWN_LENGTH}
    if len(totals) > _SHOWN_LABELS:
        kept = {label for label in kept if totals[label] > 1}
    table: dict[str, dict[str, int]] = {label: {} for label in first if label in kept}
    for (split, label), count in sorted(counts.items()):
        if label in kept:
            table[label][split] = count
    return {"distinct": len(totals), "counts": table}


def _cell(value: Any) -> str:
    # A label may hold a bar or a line break, which would end its cell.
    return " ".join(str(value).replace("|", "\\|").split()) if isinstance(value, str) else f"{value:,}"


def _table(header: Sequence[str], lines: Any) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(_cell(value) for value in row) + " |" for row in rows)


def _bullets(texts: Sequence[str]) -> str:
    return "\n".join(f"- {text}" for text in texts)


def _counts(counts: Mapping[str, int]) -> str:
    return _table(("what", "count"), counts.items()) if counts else "None."
