"""The one exception for a user's mistake; in: where, what, what to do; out: one line and exit code 2."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class UserError(Exception):
    """A mistake in the user's input, told in one line.

    Args:
        where: file, line, field, option or folder at fault.
        what: what is wrong there. Never contains case text.
        fix: what the user should do.
    """

    def __init__(self, where: str, what: str, fix: str) -> None:
        self.where, self.what, self.fix = where, what, fix
        super().__init__(f"{where}: {what}. {fix}")


def first_fault(error: ValidationError) -> str:
    """Of what pydantic found wrong in a file the first: field and fault, and nothing of the value."""
    first = error.errors(include_url=False, include_input=False)[0]
    return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))


class Preempted(Exception):
    """The run was asked to stop (SIGTERM); its state is saved and the same command goes on."""


EXIT_DAMAGING = 1
EXIT_USER_ERROR = 2
EXIT_PREEMPTED = 75
