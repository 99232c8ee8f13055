"""Rules about rows that are alike; in: rows one by one, out: duplicates, contradictions and rows in two splits."""

import hashlib
from array import array
from collections.abc import Sequence

import numpy as np

from r2d_jax.data.check.findings import MAX_PLACES, VALIDATION, Place, SeenRow, Tally
from r2d_jax.data.mentions import fold_white_space
from r2d_jax.data.packed_columns import PackedTexts

INPUT = "input"


def digest(*texts: str) -> int:
    """8 bytes of a hash of some texts: two different ones among a million agree once in 37 million times."""
    hashed = hashlib.blake2b(digest_size=8)
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        hashed.update(len(data).to_bytes(8, "little") + data)
    return int.from_bytes(hashed.digest(), "little")


class Duplicates:
    """Keeps 25 bytes and the name of the place of each row; everything is compared at the end."""

    def __init__(self, splits: Sequence[str]):
        """Prepare for rows of these splits."""
        self._splits = list(splits)
        self._exact, self._folded, self._labels = array("Q"), array("Q"), array("Q")
        self._split = array("H")
        self._names = PackedTexts()

    def see(self, row: SeenRow) -> None:
        """Remember one row."""
        texts = row.texts.get("question", ""), row.texts.get("context", "")
        self._exact.append(digest(*texts))
        self._folded.append(digest(*(fold_white_space(text).casefold() for text in texts)))
        self._labels.append(digest(row.label))
        self._split.append(self._splits.index(row.split))
        self._names.append(row.place)

    def find(self, tally: Tally, train: str) -> None:
        """Add the findings about rows that are alike."""
        exact, folded = np.asarray(self._exact), np.asarray(self._folded)
        split, labels = np.asarray(self._split), np.asarray(self._labels)
        with_split = split.astype(np.uint64)
        again = _repeats(np.stack([with_split, exact]))
        again_folded = _repeats(np.stack([with_split, folded])) & ~again
        contradicted = _contradicted(folded, labels)
        none = np.zeros(len(split), bool)
        in_train = np.isin(folded, folded[split == self._splits.index(train)])
        chosen_by = (
            self._splits.index(VALIDATION) if VALIDATION in self._splits and train != VALIDATION else -1
        )
        in_validation = np.isin(folded, folded[split == chosen_by])
        for number, name in enumerate(self._splits):
            here = split == number
            rows = int(here.sum())
            for code, found in (
                ("labels-contradict", contradicted),
                ("split-overlap", none if name == train else in_train),
                ("validation-overlap", none if name in (train, VALIDATION) else in_validation),
                ("duplicates", again),
                ("duplicates-folded", again_folded),
            ):
                places = np.flatnonzero(found & here)
                if len(places):
                    first = [Place(self._names[int(index)]) for index in places[:MAX_PLACES]]
                    tally.make(code, INPUT, name, len(places), rows, first)


def _repeats(keys: np.ndarray) -> np.ndarray:
    """Whether each column of keys [k, N] stands further left too: bool [N]."""
    order = np.lexsort(keys)
    same = (keys[:, order][:, 1:] == keys[:, order][:, :-1]).all(0)
    repeats = np.zeros(keys.shape[1], bool)
    # lexsort is stable, so of equal columns the first stays the first.
    repeats[order[1:]] = same
    return repeats


def _contradicted(inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether a row's input [N] stands beside another label [N] too: bool [N]."""
    order = np.lexsort((labels, inputs))
    same_input = inputs[order][1:] == inputs[order][:-1]
    other_label = labels[order][1:] != labels[order][:-1]
    return np.isin(inputs, inputs[order][1:][same_input & other_label])
