"""The token ids of a run, made by one process and mapped by all; in: rows, encoder, a folder, out: ids by split."""

import pathlib
import time
from collections.abc import Callable, Mapping, Sequence

from r2d_jax.data.features import FeatureEncoder
from r2d_jax.data.pace import paced
from r2d_jax.data.schema import Example
from r2d_jax.data.token_cache import Tokens, cache_key, read_cache, write_cache
from r2d_jax.errors import UserError
from r2d_jax.runtime.distributed import agree, is_writer, wait_for_all


def tokenise(
    folder: pathlib.Path,
    encoder: FeatureEncoder,
    splits: Mapping[str, Sequence[Example]],
    sources: Sequence[str],
    *,
    data_hash: str,
    report: Callable[[str], None],
) -> tuple[Tokens, str]:
    """The ids of all rows, from the cache where it has those of these very rows and this tokenizer.

    Args:
        folder: of the cache, in the workdir: ids are case text in another form.
        encoder: tokenises.
        splits: rows by name.
        sources: of rationales.
        data_hash: content hash of the rows.
        report: takes lines about progress.

    Returns:
        Ids mapped from files, and a line that says where they came from.

    Raises:
        UserError: on every process, where the cache cannot be written or read.
    """
    key = cache_key(data_hash, encoder.tokenizer.fingerprint, sources)
    counts = {name: len(rows) for name, rows in splits.items()}
    start, made = time.monotonic(), ""
    fault: OSError | None = None
    if is_writer() and read_cache(folder, key, counts, sources) is None:
        try:
            write_cache(folder, key, encoder, splits, sources, paced(report, "tokenising"))
        except OSError as error:
            fault = error
        made = f", made in {time.monotonic() - start:.1f} s"
    # All end together: a process that waited for one that has gone would wait long.
    if agree(fault is not None):
        raise UserError(
            str(folder),
            f"cannot be written ({fault.strerror if fault else 'by process 0'})",
            "Free space there; the same command goes on.",
        )
    wait_for_all("tokens made")
    tokens = read_cache(folder, key, counts, sources, verify=False)
    if agree(tokens is None) or tokens is None:
        raise UserError(str(folder), "cannot be read back", "Check the disk; the same command goes on.")
    size = sum(one.ids.nbytes + one.offsets.nbytes for fields in tokens.values() for one in fields.values())
    found = f"cache miss{made}" if made else "cache hit"
    return tokens, f"tokens: {found}: {sum(counts.values()):,} rows, {size / 1e6:.1f} MB in {folder / key}"
