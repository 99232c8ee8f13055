"""Rows on their way into rows.jsonl; in: NamedRow by NamedRow, out: one JSON line each, and counts for the card."""

import collections
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import BinaryIO

from r2d_jax.data.mentions import is_blank
from r2d_jax.data.named.contract import ConversionCounts, NamedDataset, NamedRow
from r2d_jax.errors import UserError

_REPORT_EVERY_ROWS = 100_000


class RowsFile:
    """What is written, and what a card says of it.

    Attributes:
        labels: rows by (split, label).
        rationales: rows by rationale column that have one.
        digest: sha256 of all lines so far.
        bytes: of all lines so far.
    """

    def __init__(self, dataset: NamedDataset, tally: ConversionCounts, report: Callable[[str], None]) -> None:
        self.dataset, self.tally, self.report = dataset, tally, report
        self.labels: collections.Counter[tuple[str, str]] = collections.Counter()
        self.rationales = dict.fromkeys(dataset.rationales, 0)
        self.digest, self.bytes = hashlib.sha256(), 0
        self._ids: set[bytes] = set()

    def write(self, rows: Iterator[NamedRow], file: BinaryIO) -> None:
        """Write the rows that can be used, up to the limit of the tally; count the rest by reason.

        Raises:
            UserError: a label outside the label set, or text that no UTF-8 file can hold; names file and line.
        """
        for row in rows:
            if self.tally.full(row.split):
                if all(self.tally.full(split) for split in self.dataset.splits):
                    return
                continue
            if self._usable(row):
                self._write(dataclasses.replace(row, row_id=self._own_id(row.row_id)), file)

    def _usable(self, row: NamedRow) -> bool:
        rationale = row.rationales[self.dataset.rationales[0]]
        for what, text in {"question": row.question, "label": row.label, "rationale": rationale}.items():
            if is_blank(text):
                self.tally.drop(f"no {what}")
                return False
        labels = self.dataset.labels
        if labels is not None and row.label not in labels:
            raise UserError(
                row.place, f"its label is none of {', '.join(labels)}", "Give the file as published."
            )
        if labels is not None and _first_word(rationale) in set(labels) - {row.label}:
            self.tally.note("rationales that begin with another label")
        return True

    def _own_id(self, row_id: str) -> str:
        if self.dataset.ids_are_made:
            return row_id
        # Eight bytes of a hash instead of the id: half a million ids would otherwise be most of the memory.
        made, number = row_id, 1
        while (key := hashlib.sha256(made.encode(errors="surrogatepass")).digest()[:8]) in self._ids:
            number += 1
            made = f"{row_id}#{number}"
        self._ids.add(key)
        self.tally.note("ids that stood before, now with #2, #3, ... at their end", number > 1)
        return made

    def _write(self, row: NamedRow, file: BinaryIO) -> None:
        cells = {
            "id": row.row_id,
            "split": row.split,
            "question": row.question,
            "context": row.context,
            "label": row.label,
            **row.rationales,
        }
        try:
            line = (json.dumps(cells, ensure_ascii=False) + "\n").encode()
        except UnicodeEncodeError as error:
            raise UserError(
                row.place,
                "holds half of a character pair (a lone surrogate such as \\ud83d)",
                "Write the whole pair.",
            ) from error
        file.write(line)
        self.digest.update(line)
        self.bytes += len(line)
        self.tally.rows[row.split] += 1
        self.labels[row.split, row.label] += 1
        for name in self.dataset.rationales:
            self.rationales[name] += not is_blank(row.rationales[name])
        damaged = sum(text.count("\ufffd") for text in cells.values())
        self.tally.note("replacement characters (U+FFFD), damaged before they came here", damaged)
        total = self.tally.rows.total()
        if total % _REPORT_EVERY_ROWS == 0:
            self.report(f"{total:,} rows written")


def _first_word(text: str) -> str:
    words = text.split(maxsplit=1)
    return words[0].strip(".,:;!\"'()").casefold() if words else ""
