"""Columns of many rows in few bytes; in: texts row by row, out: digests that find equal ones, and packed texts."""

import hashlib
from array import array

import numpy as np

# Two different texts among a thousand million agree once in 10**20 times: rows may be dropped by this.
BYTES = 16


class Digests:
    """A growing column of digests."""

    def __init__(self) -> None:
        """Begin empty."""
        self._bytes = bytearray()

    def __len__(self) -> int:
        return len(self._bytes) // BYTES

    def append(self, digest: bytes) -> None:
        """Add one of 16 bytes."""
        self._bytes += digest

    def array(self) -> np.ndarray:
        """uint64 [N, 2]; sorted like the bytes themselves, the first column first."""
        return np.frombuffer(bytes(self._bytes), ">u8").astype(np.uint64).reshape(-1, 2)


def digest_of(*texts: str) -> bytes:
    """16 bytes of a hash of some texts, which knows where each ends."""
    hashed = hashlib.blake2b(digest_size=BYTES)
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        hashed.update(len(data).to_bytes(8, "little") + data)
    return hashed.digest()


def numbered(digests: np.ndarray) -> np.ndarray:
    """int64 [N]: a number for each digest of uint64 [N, 2], the same for the same digest."""
    order = np.lexsort((digests[:, 1], digests[:, 0]))
    new = np.ones(len(order), bool)
    new[1:] = (digests[order][1:] != digests[order][:-1]).any(axis=1)
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.cumsum(new) - 1
    return numbers


class PackedTexts:
    """Many short texts in little more than their bytes; in place of a list, which takes 60 bytes more of each."""

    def __init__(self) -> None:
        """Begin empty."""
        self._bytes = bytearray()
        self._ends = array("Q", [0])

    def append(self, text: str) -> None:
        """Add one."""
        self._bytes += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._bytes))

    def __getitem__(self, index: int) -> str:
        start, end = self._ends[index], self._ends[index + 1]
        return self._bytes[start:end].decode("utf-8", "surrogatepass")


class Ids:
    """Row ids that must differ, and where each stands: 24 bytes a row and the name of its place."""

    def __init__(self) -> None:
        """Begin empty."""
        self._ids, self._places = Digests(), PackedTexts()

    def append(self, row_id: str, place: str) -> None:
        """Add a row."""
        self._ids.append(digest_of(row_id))
        self._places.append(place)

    def repeated(self) -> tuple[str, str] | None:
        """The places of the first row whose id stood before, and of the row that has it; None where all differ."""
        numbers = numbered(self._ids.array())
        first = np.full(len(numbers), len(numbers))
        np.minimum.at(first, numbers, np.arange(len(numbers)))
        again = np.flatnonzero(first[numbers] != np.arange(len(numbers)))
        if not len(again):
            return None
        row = int(again[0])
        return self._places[row], self._places[int(first[numbers[row]])]
