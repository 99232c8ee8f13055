"""The one exception for a user's mistake; in: where, what, what to do; out: one line and exit code 2."""

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


def first_fault(error: Exception) -> str:
    """An error as part of a line; of what pydantic found wrong the first, field and fault, and nothing of the value."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False, include_input=False)[0]
    return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))


def how_to_install(extra: str) -> str:
    """The command for an extra of setup.cfg; by its folder, since no package index has r2d_jax."""
    return f"`pip install --constraint requirements.txt --editable '.[{extra}]'` in the clone of r2d_jax"


class Preempted(Exception):
    """The run was asked to stop (SIGTERM, Ctrl-C); its state is saved and the same command goes on.

    Its text is all that is told, such as "stopped at step 8; ...".
    """


EXIT_DAMAGING = 1
EXIT_USER_ERROR = 2
EXIT_PREEMPTED = 75
