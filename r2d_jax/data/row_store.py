"""Rows in memory or, where they are many, in a file without a name; in: Example rows, out: sequences of them."""

import json
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, overload

import numpy as np

from r2d_jax.data.schema import Example
from r2d_jax.errors import UserError

# A row in memory takes its characters and about as much again for the objects around them; up to here
# memory is cheaper than reading rows back, which takes some 10 s for a million.
MEMORY_BYTES = 128 * 2**20
_ROW_BYTES = 1024
# Rows are written and read in pieces of about this size.
_PIECE_BYTES = 2**20
_PIECE_ROWS = 512
# Rows that lie apart are read one by one, where reading all between them would be this many times more.
_APART = 4


def _line(row: Example) -> bytes:
    texts = [row.row_id, row.question, row.label, dict(row.rationales), row.context]
    cells = [*texts, row.evidence, dict(row.subgroups), row.group]
    # Not as escapes: two halves of a character pair that stand side by side would come back as one.
    return json.dumps(cells, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _row(line: bytes) -> Example:
    cells = json.loads(line.decode("utf-8", "surrogatepass"))
    row_id, question, label, rationales, context, evidence, subgroups, group = cells
    return Example(row_id, question, label, rationales, context, tuple(evidence), subgroups, group)


class _File:
    """Rows as JSON in a temporary file that has no name and ends with the process, however it ends."""

    def __init__(self) -> None:
        self._offsets = array("q", [0])
        self._waiting = bytearray()
        try:
            # Readable by its owner alone, and unlinked from the start.
            self._file: IO[bytes] = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        except OSError as error:
            raise _no_room(error) from error

    def append(self, row: Example) -> None:
        line = _line(row)
        self._waiting += line
        self._offsets.append(self._offsets[-1] + len(line))
        if len(self._waiting) >= _PIECE_BYTES:
            self._write()

    def _write(self) -> None:
        try:
            while self._waiting:
                del self._waiting[: self._file.write(self._waiting)]
        except OSError as error:
            raise _no_room(error) from error

    def close_writing(self) -> np.ndarray:
        """Offsets int64 [N + 1] of the rows; nothing is appended from here on."""
        self._write()
        return np.frombuffer(self._offsets, np.int64)

    def read(self, start: int, end: int) -> bytes:
        # With its own position, so that several readers do not disturb each other.
        pieces = []
        while start < end:
            piece = os.pread(self._file.fileno(), end - start, start)
            if not piece:
                raise OSError("a temporary file of rows ended too soon")
            pieces.append(piece)
            start += len(piece)
        return b"".join(pieces)


def _no_room(error: OSError) -> UserError:
    return UserError(
        tempfile.gettempdir(),
        f"the rows cannot be kept there ({error.strerror})",
        "Free space, or set TMPDIR to a folder on a disk with room for them.",
    )


class StoredRows(Sequence[Example]):
    """Some of the rows of a file, in order; 16 bytes a row in memory, 8 of them shared with other selections.

    Iterating reads ahead in large pieces; a row by its index is read alone.
    """

    def __init__(self, file: _File, offsets: np.ndarray, index: np.ndarray, labels: "NameCodes"):
        """Take rows `index` int64 [n] of the file, whose N rows begin and end at offsets int64 [N + 1]."""
        self._file, self._offsets, self._index, self._labels = file, offsets, index, labels

    def __len__(self) -> int:
        return len(self._index)

    @overload
    def __getitem__(self, place: int) -> Example: ...
    @overload
    def __getitem__(self, place: slice) -> "StoredRows": ...
    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return StoredRows(self._file, self._offsets, self._index[place], self._labels)
        return self._one(int(self._index[place]))

    def _one(self, row: int) -> Example:
        return _row(self._file.read(int(self._offsets[row]), int(self._offsets[row + 1])))

    def __iter__(self) -> Iterator[Example]:
        for first in range(0, len(self), _PIECE_ROWS):
            rows = self._index[first : first + _PIECE_ROWS]
            start, end = int(self._offsets[rows.min()]), int(self._offsets[rows.max() + 1])
            needed = int((self._offsets[rows + 1] - self._offsets[rows]).sum())
            if end - start > _APART * needed:
                yield from map(self._one, rows.tolist())
                continue
            piece = self._file.read(start, end)
            for row in rows.tolist():
                yield _row(piece[self._offsets[row] - start : self._offsets[row + 1] - start])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(other) != len(self):
            return NotImplemented if not isinstance(other, Sequence) else False
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def labels(self) -> Iterator[str]:
        """The label of each row, without reading the rows."""
        return map(self._labels.names.__getitem__, self._labels.codes[self._index].tolist())


class NameCodes:
    """A column of few different values, such as labels, as numbers: 4 bytes a row.

    Attributes:
        names: the values in the order of their first row.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self._codes = array("i")
        self._code_of: dict[str, int] = {}

    def append(self, name: str) -> None:
        """Add a row."""
        code = self._code_of.get(name)
        if code is None:
            code = self._code_of[name] = len(self.names)
            self.names.append(name)
        self._codes.append(code)

    @property
    def codes(self) -> np.ndarray:
        """int32 [N], indices of `names`; rows cannot be added while it is in use."""
        return np.frombuffer(self._codes, np.int32)


class RowStore:
    """Takes rows one by one and gives them back as sequences; from MEMORY_BYTES on they are kept on disk."""

    def __init__(self) -> None:
        """Begin without rows."""
        self.labels = NameCodes()
        self._rows: list[Example] = []
        self._bytes = 0
        self._file: _File | None = None
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, row: Example) -> None:
        """Add a row.

        Raises:
            UserError: the temporary folder has no room.
        """
        self._count += 1
        self.labels.append(row.label)
        if self._file is not None:
            self._file.append(row)
            return
        self._rows.append(row)
        self._bytes += _ROW_BYTES + len(row.question) + len(row.context)
        self._bytes += sum(map(len, row.rationales.values()))
        if self._bytes > MEMORY_BYTES:
            self._file = _File()
            for kept in self._rows:
                self._file.append(kept)
            self._rows = []

    def rows(self, *indices: np.ndarray) -> list[Sequence[Example]]:
        """Selections of the rows, each by indices int64 in the order wanted; nothing can be added after this."""
        if self._file is None:
            return [tuple(self._rows[i] for i in index.tolist()) for index in indices]
        offsets = self._file.close_writing()
        return [StoredRows(self._file, offsets, index, self.labels) for index in indices]

    def all(self) -> Sequence[Example]:
        """All rows in order; nothing can be added after this."""
        return self.rows(np.arange(len(self)))[0]


def kept(rows: Iterable[Example]) -> Sequence[Example]:
    """All rows of a stream, in memory or on disk."""
    store = RowStore()
    for row in rows:
        store.append(row)
    return store.all()


def labels_of(rows: Sequence[Example]) -> Iterator[str]:
    """The label of each row; of rows on disk without reading them."""
    return rows.labels() if isinstance(rows, StoredRows) else (row.label for row in rows)
