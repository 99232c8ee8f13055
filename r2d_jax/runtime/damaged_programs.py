"""Compiled programs cut off as JAX wrote them; in: its warning and the compile cache, out: one line, no such files.

JAX writes an entry of the cache in place and never again: one that a full disk or a kill cut off would be read in vain,
and compiled, at every start.
"""

import contextlib
import pathlib
import zlib

_CHUNK_BYTES = 1 << 20
_ZSTANDARD = bytes.fromhex("28b52ffd")


def explained(warning: str) -> str:
    """What to tell the user of a warning; one of an unreadable program first frees the cache of those cut off.

    Args:
        warning: text of any warning.

    Returns:
        The same text, or where programs were removed their number.
    """
    if not warning.startswith("Error reading persistent compilation cache entry"):
        return warning
    # Not above: other warnings come from commands that do without it.
    import jax

    folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    removed = remove_cut_off(pathlib.Path(folder)) if folder else 0
    if not removed:
        # Another process was writing it just now, or it is damaged in another way.
        return warning
    return (
        f"{removed} of the programs in {folder} broke off, as a full disk or a kill leaves them; they were removed and "
        "are compiled again"
    )


def remove_cut_off(folder: pathlib.Path) -> int:
    """Remove the entries of a compile cache that end too early; how many there were.

    Args:
        folder: on a file system; an address has none, since buckets show a file once it is whole.
    """
    removed = 0
    for entry in folder.glob("*-cache"):
        # Another process may do the same.
        with contextlib.suppress(OSError):
            if not _is_whole(entry):
                entry.unlink()
                removed += 1
    return removed


def _is_whole(entry: pathlib.Path) -> bool:
    """Whether an entry can be unpacked to its end; true of those packed by zstandard, which is not looked into."""
    unpacker = zlib.decompressobj()
    with entry.open("rb") as file:
        if file.peek(len(_ZSTANDARD)).startswith(_ZSTANDARD):
            return True
        try:
            while chunk := file.read(_CHUNK_BYTES):
                unpacker.decompress(chunk)
        except zlib.error:
            return False
    return unpacker.eof
