"""Results of an LLM that stand already; in: their file and what is asked now, out: nothing, or a refusal."""

import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from r2d_jax.data.reading.raw_rows import raw_rows
from r2d_jax.errors import UserError
from r2d_jax.runtime.outputs import REQUEST_HASH

_FIX = "Choose another --output, or add --overwrite; nothing was changed."


def asked_row(cells: Mapping[str, Any]) -> tuple[Any, Any]:
    """What tells a row of judgements or predictions apart: its id, and the hash of what was asked for it."""
    return cells.get("id"), cells.get(REQUEST_HASH)


def require_same_questions(
    results: pathlib.Path,
    answers: pathlib.Path,
    asked: Iterable[object],
    *,
    overwrite: bool,
    told_by: Callable[[Mapping[str, Any]], object] = asked_row,
) -> None:
    """Refuse to replace results of other rows, texts or settings, or of another LLM, or of another command.

    Those of the same questions may be written again, for more or fewer rows from the first: their answers are kept.

    Args:
        results: JSONL that the command is to write; need not exist.
        answers: its cache of paid answers.
        asked: what tells each row apart, as of `told_by`.
        overwrite: whatever is there may be replaced.
        told_by: the same of the cells of a row of the results.

    Raises:
        UserError: they may not be replaced, or cannot be read.
    """
    if overwrite or not results.exists():
        return
    if not answers.exists():
        raise UserError(str(results), "is there and not of this command", _FIX)
    for row, wanted in zip(raw_rows(results), asked, strict=False):
        if told_by(row.cells) != wanted:
            raise UserError(
                str(results), "holds the results of other rows, texts or settings, or of another LLM", _FIX
            )
