"""Paid answers on disk; in: the hash of a request and what came of it, out: the same again after any stop."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

from pydantic import TypeAdapter, ValidationError

from r2d_jax.errors import UserError
from r2d_jax.runtime.files import named_faults
from r2d_jax.runtime.locks import take_lock


@dataclasses.dataclass(frozen=True)
class LlmAnswer:
    """What came of one request.

    Attributes:
        value: the fields to keep, of an answer in the right form; None where it had another form.
        fault: what is wrong with it, None where nothing is.
        prompt_tokens: of the request.
        answer_tokens: of the answer.
        tokens_estimated: True where the endpoint gave no counts.
        answered_at: time (UTC, ISO 8601, seconds); "" in files of older versions.
    """

    value: dict[str, Any] | None
    fault: str | None
    prompt_tokens: int = 0
    answer_tokens: int = 0
    tokens_estimated: bool = False
    answered_at: str = ""


def request_key(base_url: str, request: Mapping[str, Any], messages: Sequence[Any], number: int) -> str:
    """Sha256 over all that an answer depends on, in hexadecimal; the prompt cannot be read from it.

    Args:
        base_url: of the endpoint.
        request: model and parameters.
        messages: the full prompt.
        number: 0 for the first time that this row is asked, 1 for the next.
    """
    cells = [base_url, request, list(messages), number]
    return hashlib.sha256(json.dumps(cells, sort_keys=True).encode()).hexdigest()


class AnswerCache:
    """An append-only JSONL file of answers; each is on disk before the next request is sent.

    It holds the hash of a request, never its text. A last line that a kill cut off is dropped.
    """

    def __init__(self, path: pathlib.Path, *, read_only: bool = False):
        """Read the file, and lock it for this process unless read_only.

        Args:
            path: the file; made with its folder where there is none, unless read_only.
            read_only: nothing is made, locked or changed.

        Raises:
            UserError: another process writes to it.
        """
        self._file: BinaryIO | None = None
        self.damaged_lines = 0
        if not read_only:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab")
            # Two processes would pay for the same rows twice.
            if not take_lock(self._file):
                self._file.close()
                raise UserError(
                    str(path),
                    "another command is writing to it",
                    "Wait for that one, or choose another --output.",
                )
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if self._file is not None and len(whole) < len(content):
            self._file.truncate(len(whole))
        self._answers = dict(filter(None, map(self._parsed, whole.splitlines())))

    def _parsed(self, line: bytes) -> tuple[str, LlmAnswer] | None:
        try:
            row = _LINE.validate_json(line)
            return row.key, row.answer
        except ValidationError:
            self.damaged_lines += 1
            return None

    def get(self, key: str) -> LlmAnswer | None:
        """The answer to this request, None where there is none yet."""
        return self._answers.get(key)

    def put(self, key: str, answer: LlmAnswer) -> None:
        """Keep an answer; it is on disk when this returns.

        Raises:
            UserError: the file cannot be written to.
        """
        if self._file is None:
            raise ValueError("opened for reading only")
        line = json.dumps({"key": key, "answer": dataclasses.asdict(answer)})
        with named_faults(pathlib.Path(self._file.name)):
            self._file.write(line.encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        self._answers[key] = answer

    def close(self) -> None:
        """Give the file free for other processes."""
        if self._file is not None:
            self._file.close()


@dataclasses.dataclass(frozen=True)
class _Line:
    key: str
    answer: LlmAnswer


_LINE = TypeAdapter(_Line)
