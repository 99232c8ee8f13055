"""Token ids of a run on disk, tokenised once; in: rows, tokenizer and a folder, out: ids mapped from files, or none."""

import hashlib
import json
import os
import pathlib
import shutil
import zlib
from collections.abc import Mapping, Sequence
from typing import IO

import numpy as np

from r2d_jax.data.features import FeatureEncoder, field_names
from r2d_jax.data.ragged import Ragged, RaggedWriter, map_file
from r2d_jax.data.reading.raw_rows import RowCallback
from r2d_jax.data.schema import Example

# Raised when the same rows and tokenizer would give other ids or other files.
FORMAT = 1
_INDEX = "index.json"
_PARTIAL = ".partial"
_PIECE_BYTES = 2**20

Tokens = dict[str, dict[str, Ragged]]
"""Ragged ids by split and field; see `field_names`."""


def cache_key(data_hash: str, tokenizer_fingerprint: str, sources: Sequence[str]) -> str:
    """Name of what is kept for these rows; a change of any text, of the vocabulary or its text map changes it.

    Args:
        data_hash: content hash of the rows, as read through their columns and data.label_map.
        tokenizer_fingerprint: covers vocabulary, normaliser and text map.
        sources: rationale sources, in order.
    """
    covered = json.dumps([FORMAT, data_hash, tokenizer_fingerprint, list(sources)])
    return hashlib.sha256(covered.encode()).hexdigest()[:16]


class _Summed:
    """A file to write that knows its sum."""

    def __init__(self, file: IO[bytes]):
        self._file, self.crc, self.bytes = file, 0, 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self.crc = zlib.crc32(data, self.crc)
        self.bytes += len(data)


def write_cache(
    folder: pathlib.Path,
    key: str,
    encoder: FeatureEncoder,
    splits: Mapping[str, Sequence[Example]],
    sources: Sequence[str],
    progress: RowCallback | None = None,
) -> None:
    """Tokenise all rows into a folder of this name, which appears whole; then remove what other keys left.

    Args:
        folder: of the cache, made where it is missing.
        key: from `cache_key`.
        encoder: tokenises.
        splits: rows by name.
        sources: of rationales.
        progress: called with the number of rows so far.

    Raises:
        OSError: it cannot be written.
    """
    partial = folder / _PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    index: dict[str, dict[str, int]] = {}
    done = 0
    for split, rows in splits.items():
        before = done

        def told(count: int, before: int = before) -> None:
            if progress is not None:
                progress(before + count)

        _write_split(partial, split, encoder, rows, sources, told, index)
        done += len(rows)
    text = json.dumps({"format": FORMAT, "type": encoder.id_type.name, "files": index}, indent=1)
    # Nothing is forced to the disk: what a power cut takes away is seen by its sum.
    (partial / _INDEX).write_text(text, encoding="utf-8")
    shutil.rmtree(folder / key, ignore_errors=True)
    os.replace(partial, folder / key)
    for other in folder.iterdir():
        if other.name != key:
            shutil.rmtree(other, ignore_errors=True)


def _write_split(
    folder: pathlib.Path,
    split: str,
    encoder: FeatureEncoder,
    rows: Sequence[Example],
    sources: Sequence[str],
    progress: RowCallback,
    index: dict[str, dict[str, int]],
) -> None:
    fields = field_names(sources)
    paths = {field: _path(folder, split, fields, field) for field in fields}
    files = {field: path.open("wb") for field, path in paths.items()}
    try:
        summed = {field: _Summed(file) for field, file in files.items()}
        writers = {field: RaggedWriter(encoder.id_type, one) for field, one in summed.items()}
        encoder.encode_into(writers, rows, sources, progress)
    finally:
        for file in files.values():
            file.close()
    for field, path in paths.items():
        offsets = writers[field].offsets
        path.with_suffix(".offsets").write_bytes(offsets.tobytes())
        index[path.name] = {"bytes": summed[field].bytes, "crc32": summed[field].crc}
        index[path.with_suffix(".offsets").name] = {
            "bytes": offsets.nbytes,
            "crc32": zlib.crc32(offsets.tobytes()),
        }


def _path(folder: pathlib.Path, split: str, fields: Sequence[str], field: str) -> pathlib.Path:
    # By number, for a source may have any name.
    return folder / f"{split}.{fields.index(field)}.ids"


def read_cache(
    folder: pathlib.Path, key: str, splits: Mapping[str, int], sources: Sequence[str], *, verify: bool = True
) -> Tokens | None:
    """The ids kept under a key, mapped and not read; None where there are none or they are damaged.

    Args:
        folder: of the cache.
        key: from `cache_key`.
        splits: rows by name of split.
        sources: of rationales.
        verify: read every byte once, to see whether it is what was written.
    """
    home, fields = folder / key, field_names(sources)
    try:
        index = json.loads((home / _INDEX).read_text(encoding="utf-8"))
        dtype = np.dtype(index["type"])
        if verify and not all(_intact(home / name, told) for name, told in index["files"].items()):
            return None
        tokens: Tokens = {}
        for split, rows in splits.items():
            tokens[split] = {}
            for field in fields:
                path = _path(home, split, fields, field)
                offsets = map_file(path.with_suffix(".offsets"), np.dtype(np.int64), rows + 1)
                count = index["files"][path.name]["bytes"] // dtype.itemsize
                if offsets[-1] != count:
                    return None
                tokens[split][field] = Ragged(map_file(path, dtype, count), offsets)
        return tokens
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _intact(path: pathlib.Path, told: Mapping[str, int]) -> bool:
    if path.stat().st_size != told["bytes"]:
        return False
    crc = 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            crc = zlib.crc32(piece, crc)
    return crc == told["crc32"]
