"""Where each new rationale came from; in: endpoint, prompt and answer, out: one provenance object per row."""

import collections
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from r2d_jax.data.reading.raw_rows import Row
from r2d_jax.llm.endpoint import Endpoint
from r2d_jax.llm.questions import Case, Question, RowAnswer, request_hash
from r2d_jax.llm.standing_results import UNKNOWN
from r2d_jax.rationales.row_files import row_text
from r2d_jax.runtime.outputs import REQUEST_HASH

OK = "ok"


@dataclasses.dataclass(frozen=True)
class NewRationale:
    """What one row gets.

    Attributes:
        text: the rationale; "" where there is none.
        status: "ok", or why the answer is not used.
        more: further fields of the provenance.
    """

    text: str
    status: str
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def provenance_column(column: str) -> str:
    """Name of the column beside a rationale column."""
    return f"{column}_provenance"


@dataclasses.dataclass(frozen=True)
class Asked:
    """What all rows of a command share.

    Attributes:
        endpoint: who was asked.
        question: what was asked.
        template_hash: of system message and template.
    """

    endpoint: Endpoint
    question: Question
    template_hash: str

    def of_rows(self, rows: Sequence[Row], cases: Sequence[Case | None]) -> Iterator[tuple[str, str | None]]:
        """What tells N rows of an output apart: the cells of the input, and the hash of what is asked, if anything."""
        for row, case in zip(rows, cases, strict=True):
            yield row_text(row.cells, row.place), self.request_hash(case)

    def request_hash(self, case: Case | None) -> str | None:
        """Of what is asked about a row; None where nothing is."""
        return None if case is None else request_hash(self.question, self.endpoint, case)


def told_by(column: str) -> Callable[[Mapping[str, Any]], tuple[str, Any]]:
    """The same as `Asked.of_rows`, of the cells of an output whose rationales are in `column`."""
    beside = provenance_column(column)

    def told(cells: Mapping[str, Any]) -> tuple[str, Any]:
        found = cells.get(beside)
        given = {name: cell for name, cell in cells.items() if name not in (column, beside)}
        asked = found.get(REQUEST_HASH, UNKNOWN) if isinstance(found, Mapping) else None
        return row_text(given, "a row"), asked

    return told


def with_rationale(
    cells: Mapping[str, Any],
    column: str,
    new: NewRationale,
    asked: Asked,
    case: Case | None,
    answer: RowAnswer | None,
) -> dict[str, Any]:
    """The cells of a row with the new rationale and its provenance.

    The provenance holds hashes of the prompt, never its text: llm, endpoint_host, template_hash (system
    message and template), prompt_hash (the whole first prompt of this row), request_hash (that with address and
    settings), time (UTC, of the last answer; null where none came), status, and what the command adds.

    Args:
        cells: as they came.
        column: name of the new column.
        new: what to put there.
        asked: what all rows share.
        case: of this row; None where nothing was sent.
        answer: what came; None where nothing was sent.
    """
    found = {
        "llm": asked.endpoint.llm,
        "endpoint_host": asked.endpoint.host,
        "template_hash": asked.template_hash,
        "prompt_hash": prompt_hash(asked.question, case) if case else None,
        REQUEST_HASH: asked.request_hash(case),
        "time": (answer.answered_at or None) if answer else None,
        "status": new.status,
        **new.more,
    }
    return {**cells, column: new.text, provenance_column(column): found}


def prompt_hash(question: Question, case: Case) -> str:
    """Short sha256 of the messages of a row."""
    text = json.dumps(question.messages(case.message), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def status_counts(news: Sequence[NewRationale]) -> str:
    """How many rows have each status, for a person; the most common first."""
    counts = collections.Counter(new.status for new in news)
    return ", ".join(f"{count} {status}" for status, count in counts.most_common())
