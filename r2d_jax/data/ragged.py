"""Token ids of rows of any length without padding; in: ids batch by batch, out: rows, padded only when asked for."""

import dataclasses
import os
from array import array
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from r2d_jax.data.prompts import PAD_ID


def id_type(vocabulary_size: int) -> np.dtype:
    """The smallest type that holds every id of a vocabulary."""
    return np.dtype(np.uint16 if vocabulary_size <= 2**16 else np.int32)


@dataclasses.dataclass(frozen=True)
class Ragged:
    """N rows of token ids: 2 bytes a token (4 where the vocabulary has more than 65,536 ids) and 8 bytes a row.

    Attributes:
        ids: uint16 or int32 [tokens of all rows]; in memory or mapped from a file.
        offsets: int64 [N + 1], where each row begins.
    """

    ids: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, number: int) -> list[int]:
        """The ids of one row."""
        return self.ids[self.offsets[number] : self.offsets[number + 1]].tolist()

    @property
    def lengths(self) -> np.ndarray:
        """int64 [N]."""
        return np.diff(self.offsets)

    def padded(self, rows: np.ndarray, width: int) -> np.ndarray:
        """int32 [n, width]: rows of these numbers int64 [n], cut at the width, then padding."""
        starts = self.offsets[rows]
        lengths = np.minimum(self.offsets[rows + 1] - starts, width)
        inside = np.arange(width) < lengths[:, None]
        padded = np.full((len(rows), width), PAD_ID, np.int32)
        padded[inside] = self.ids[(starts[:, None] + np.arange(width))[inside]]
        return padded


class Sink(Protocol):
    """What ids are written to."""

    def write(self, data: bytes, /) -> object:
        """Take some bytes, all of them."""
        ...


class RaggedWriter:
    """Puts ragged rows together batch by batch; ids go to a file or stay in memory."""

    def __init__(self, dtype: np.dtype, file: Sink | None = None):
        """Begin empty; of a file, ids are written from its present position on."""
        self._dtype, self._file = dtype, file
        self._pieces: list[np.ndarray] = []
        self._lengths = array("i")

    def append(self, ids: np.ndarray, lengths: np.ndarray) -> None:
        """Add rows: ids of all, int [tokens], and their lengths int [n]."""
        piece = ids.astype(self._dtype)
        self._lengths.frombytes(lengths.astype(np.int32).tobytes())
        if self._file is None:
            self._pieces.append(piece)
        else:
            self._file.write(piece.tobytes())

    @property
    def offsets(self) -> np.ndarray:
        """int64 [N + 1] of the rows so far."""
        lengths = np.array(self._lengths, np.int64)
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])

    def ragged(self) -> Ragged:
        """The rows, where no file was given."""
        ids = np.concatenate([np.empty(0, self._dtype), *self._pieces])
        return Ragged(ids, self.offsets)


def map_file(path: str | os.PathLike[str], dtype: np.dtype, count: int) -> np.ndarray:
    """The numbers of a file without reading them: [count] of this type, read-only.

    Raises:
        OSError, ValueError: it is not there, or shorter.
    """
    # A file of no bytes cannot be mapped.
    return np.memmap(path, dtype, "r", shape=(count,)) if count else np.empty(0, dtype)


class Padded:
    """Ragged rows that look like an int32 array [N, width]; whatever part is asked for is padded then.

    `array[rows]` and `array[rows, :width]` give plain arrays, for rows an int, a slice or an array of numbers.
    """

    dtype = np.dtype(np.int32)
    ndim = 2

    def __init__(self, rows: Ragged, width: int, only: np.ndarray | None = None):
        """Take rows, each cut at this width; those of the numbers int64 [N] `only`, or all."""
        self._rows, self._only = rows, only
        self.shape = (len(rows) if only is None else len(only), width)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def _uncut(self) -> np.ndarray:
        return self._rows.lengths if self._only is None else self._rows.lengths[self._only]

    @property
    def lengths(self) -> np.ndarray:
        """int32 [N], as cut."""
        return np.minimum(self._uncut, self.shape[1]).astype(np.int32)

    @property
    def cut_rows(self) -> int:
        """How many are longer than the width."""
        return int((self._uncut > self.shape[1]).sum())

    def __getitem__(self, key: Any) -> Any:
        rows, columns = key if isinstance(key, tuple) else (key, slice(None))
        width = self.shape[1]
        if isinstance(columns, slice) and columns.step is None and (columns.start or 0) == 0:
            # The usual case: nothing is padded only to be cut off again.
            width, columns = len(range(*columns.indices(width))), slice(None)
        numbers = np.asarray(rows) if isinstance(rows, np.ndarray | Sequence) else np.arange(len(self))[rows]
        if numbers.dtype == bool:
            numbers = np.flatnonzero(numbers)
        numbers = np.where(numbers < 0, numbers + len(self), numbers)
        if self._only is not None:
            numbers = self._only[numbers]
        return self._rows.padded(numbers.reshape(-1), width).reshape(*numbers.shape, width)[..., columns]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = self[:]
        return whole if dtype is None else whole.astype(dtype)
