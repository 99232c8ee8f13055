"""Log lines that hold no case text; in: records of this program and its server, out: lines with types and places."""

import asyncio
import logging
import sys
import traceback
from types import TracebackType
from typing import Any, TextIO

_NAMES = ("uvicorn", "uvicorn.error", "asyncio", "r2d_jax.serve")
_Raised = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def places_of(error: BaseException) -> str:
    """An exception as its type and the places it came through, without its message and without source lines.

    Messages of libraries repeat the value that they stumbled over, and a traceback its line of code.
    """
    frames = traceback.extract_tb(error.__traceback__)
    shown = "".join(f"\n  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames)
    return f"{type(error).__name__}{shown}"


class PlainFormatter(logging.Formatter):
    """Time, level and message; of an exception only `places_of`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatException(self, ei: _Raised) -> str:
        """See `places_of`."""
        return places_of(ei[1]) if ei[1] is not None else ""

    def format(self, record: logging.LogRecord) -> str:
        """One record; text that another formatter left in it is not used."""
        record.exc_text = None
        return super().format(record)


def write_logs(stream: TextIO | None = None) -> None:
    """Send the lines of server, event loop and this room to one stream (stderr), and nowhere else."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(PlainFormatter())
    for name in _NAMES:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], False
    for name in ("uvicorn", "asyncio", "r2d_jax.serve"):
        logging.getLogger(name).addHandler(handler)
    logging.getLogger("uvicorn.error").propagate = True
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("r2d_jax.serve").setLevel(logging.INFO)


def quiet_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Let the event loop report lost exceptions by type and place: its own report holds their message."""

    def told(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        told_as = places_of(error) if isinstance(error, BaseException) else "no exception"
        logging.getLogger("r2d_jax.serve").error("in the event loop: %s", told_as)

    loop.set_exception_handler(told)
