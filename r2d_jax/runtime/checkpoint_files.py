"""Files of checkpoints; in: folders and what is wanted of them, out: whole steps, arrays that are what was written."""

import contextlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from r2d_jax.errors import UserError
from r2d_jax.runtime.checksums import checksum, not_finite
from r2d_jax.runtime.distributed import require_same

LATEST, BEST = "latest", "best"
PARAMS = "params"
SUMS = "checksums"


class Damaged(Exception):
    """A checkpoint that was written whole is not what was written any more; its text says what is wrong."""


def complete_steps(folder: pathlib.Path) -> list[int]:
    """Steps of `folder` that were written whole, oldest first; half-written and foreign folders are left out."""
    return [step for step in numbered_steps(folder) if _is_complete(folder / str(step))]


def numbered_steps(folder: pathlib.Path) -> list[int]:
    """All that bear the number of a step, whole or not, lowest first."""
    if not folder.is_dir():
        return []
    return sorted(int(entry.name) for entry in folder.iterdir() if entry.is_dir() and entry.name.isdigit())


def _is_complete(folder: pathlib.Path) -> bool:
    # Orbax takes any folder named by a number for a checkpoint, an empty one too. These two files are
    # part of its format; the first is written last.
    return (folder / "_CHECKPOINT_METADATA").is_file() and (folder / PARAMS / "_METADATA").is_file()


def best_step(folder: pathlib.Path) -> int | None:
    """Step of the best checkpoint of the stage in `folder`, or None."""
    steps = complete_steps(folder / BEST)
    return steps[-1] if steps else None


def restore_params(folder: pathlib.Path, abstract_params: Any) -> Any:
    """Weights only, from one step folder, in the layout of `abstract_params`; reads no optimiser state.

    Raises:
        UserError: the checkpoint is damaged, its weights have other names or shapes, each of which is named, one
            of them holds NaN or infinity, or a process would read others.
    """
    try:
        metadata = metadata_of(folder)
        # A path may be another folder on each machine.
        require_same("weights", [json.dumps(_stored_sums(metadata), sort_keys=True).encode()])
        params = load_items(folder, metadata, {PARAMS: abstract_params})[PARAMS]
    except Damaged as error:
        raise UserError(str(folder), str(error), "Restore it from a copy, or train again.") from error
    if unsound := not_finite(params):
        more = f" and {len(unsound) - 1} more" if len(unsound) > 1 else ""
        raise UserError(
            str(folder),
            f"NaN or infinity in {unsound[0]}{more}",
            "Take another checkpoint, or weights of a training that went well.",
        )
    return params


def save_params(folder: pathlib.Path, params: Any) -> None:
    """Write weights alone into `folder`, as `restore_params` reads them."""
    items = {PARAMS: params}
    ocp.save_checkpointables(folder.absolute(), items, overwrite=True, custom_metadata={SUMS: sums_of(items)})


def sums_of(items: dict[str, Any]) -> dict[str, str]:
    """What stands beside arrays so that `load_items` can tell whether they are still those; by name of the item."""
    return {name: checksum(tree) for name, tree in items.items()}


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # Orbax wraps whatever the file formats below it say, and a lack of memory too, which is no damage.
        told: BaseException | None = error
        while told is not None:
            if isinstance(told, MemoryError) or "RESOURCE_EXHAUSTED" in str(told):
                raise
            told = told.__cause__ or told.__context__
        raise Damaged(f"it cannot be read ({type(error).__name__})") from error


def metadata_of(folder: pathlib.Path) -> Any:
    """Orbax's description of one step folder.

    Raises:
        Damaged: it cannot be read, or names no weights.
    """
    with _reading():
        metadata = ocp.checkpointables_metadata(folder.absolute())
    # Orbax says nothing where it cannot read a part.
    if not _shapes(metadata.metadata.get(PARAMS) or {}):
        raise Damaged("its list of weights is damaged")
    return metadata


def load_items(folder: pathlib.Path, metadata: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    """The items that are wanted, in the layout of their abstract trees; all processes must call it.

    Args:
        folder: of one step.
        metadata: from `metadata_of`.
        wanted: abstract trees by name of the item, weights among them.

    Raises:
        UserError: the weights have other names or shapes; each is named.
        Damaged: it cannot be read, or holds other values than were written.
    """
    _compare(folder, _shapes(metadata.metadata[PARAMS]), _shapes(wanted[PARAMS]))
    with _reading():
        loaded = ocp.load_checkpointables(folder.absolute(), wanted)
    sums = _stored_sums(metadata)
    for name, tree in loaded.items():
        # Older checkpoints have none.
        if name in sums and checksum(tree) != sums[name]:
            raise Damaged(f"its {name} are not what was written (another checksum)")
    return loaded


def _stored_sums(metadata: Any) -> dict[str, str]:
    return (metadata.custom_metadata or {}).get(SUMS, {})


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _compare(
    folder: pathlib.Path, found: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]
) -> None:
    faults = [f"missing {name} {wanted[name]}" for name in sorted(wanted.keys() - found.keys())]
    faults += [f"unexpected {name} {found[name]}" for name in sorted(found.keys() - wanted.keys())]
    faults += [
        f"{name} is {found[name]}, not {wanted[name]}"
        for name in sorted(wanted.keys() & found.keys())
        if found[name] != wanted[name]
    ]
    if faults:
        raise UserError(
            str(folder),
            "the checkpoint does not fit the model: " + "; ".join(faults),
            "Use the config that it was trained with.",
        )
