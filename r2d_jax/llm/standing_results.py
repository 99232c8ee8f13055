"""Results of an LLM that stand already; in: their file and what is asked now, out: nothing, or a refusal."""

import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from r2d_jax.data.reading.raw_rows import raw_rows
from r2d_jax.errors import UserError
from r2d_jax.runtime.outputs import REQUEST_HASH

_FIX = "Choose another --output, or add --overwrite; nothing was changed."
UNKNOWN = "unknown"
"""In place of the hash of what was asked, where a row of results says nothing of it."""


def asked_row(cells: Mapping[str, Any]) -> tuple[Any, Any]:
    """What tells a row of judgements or predictions apart: its id, and the hash of what was asked for it."""
    return cells.get("id"), cells.get(REQUEST_HASH, UNKNOWN)


def require_same_questions(
    results: pathlib.Path,
    answers: pathlib.Path,
    asked: Iterable[tuple[str, str | None]],
    *,
    overwrite: bool,
    told_by: Callable[[Mapping[str, Any]], tuple[Any, Any]] = asked_row,
) -> None:
    """Refuse to replace results of other rows, texts or settings, or of another LLM, or of another command.

    Those of the same questions may be written again, and with more rows behind them: their answers are kept.

    Args:
        results: JSONL that the command is to write; need not exist, and an empty file is as good as none.
        answers: its cache of paid answers.
        asked: what tells each row apart, as of `told_by`.
        overwrite: whatever is there may be replaced.
        told_by: of the cells of a row of the results: what it is of, and the hash of what was asked, or UNKNOWN.

    Raises:
        UserError: they may not be replaced, or cannot be read.
    """
    if overwrite or not results.exists() or not results.stat().st_size:
        return
    if not answers.exists():
        raise UserError(str(results), "is there and not of this command", _FIX)
    wanted = iter(asked)
    for row in raw_rows(results):
        now, found = next(wanted, None), told_by(row.cells)
        if now is None:
            raise UserError(str(results), "holds the results of more rows than are given now", _FIX)
        if found == (now[0], UNKNOWN):
            raise UserError(
                str(results),
                "does not say what was asked, as results of older versions and of r2d eval do not",
                "Add --overwrite (answers are kept and not paid for again), or choose another --output; "
                "nothing was changed.",
            )
        if found != now:
            raise UserError(
                str(results), "holds the results of other rows, texts or settings, or of another LLM", _FIX
            )
