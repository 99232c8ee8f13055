"""Orbax checkpoints of one stage; in: weights, optimiser state and progress, out: the same, restored or by step."""

import contextlib
import hashlib
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from r2d_jax.errors import UserError
from r2d_jax.runtime.distributed import fetch

LATEST, BEST = "latest", "best"
_SYSTEM_FAULT = re.compile(r"([\w -]+) \[os_error_code='\d+'\]|\[Errno \d+\] ([\w -]+)|PERMISSION_DENIED")
WEIGHTS, OPTIMIZER, CARRIED = "params", "opt_state", "carried"
_HASH = "config_hash"


def _open(folder: pathlib.Path, keep: int) -> ocp.training.Checkpointer:
    return ocp.training.Checkpointer(
        folder.absolute(),
        preservation_policy=ocp.training.preservation_policies.LatestN(keep),
        cleanup_tmp_directories=True,
    )


def complete_steps(folder: pathlib.Path) -> list[int]:
    """Steps of `folder` that were written whole, oldest first; half-written and foreign folders are left out."""
    if not folder.is_dir():
        return []
    steps = sorted(int(entry.name) for entry in folder.iterdir() if entry.is_dir() and entry.name.isdigit())
    return [step for step in steps if _is_complete(folder / str(step))]


def _is_complete(folder: pathlib.Path) -> bool:
    # Orbax takes any folder named by a number for a checkpoint, an empty one too. These two files are
    # part of its format; the first is written last.
    return (folder / "_CHECKPOINT_METADATA").is_file() and (folder / WEIGHTS / "_METADATA").is_file()


@contextlib.contextmanager
def _writing(folder: pathlib.Path) -> Iterator[None]:
    """A place that takes no more data is the user's to mend, and one line; anything else is a fault of ours."""
    try:
        yield
    except Exception as error:
        # Orbax and TensorStore wrap what the system said into errors of many kinds.
        told = _SYSTEM_FAULT.search(str(error))
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        elif told:
            reason = (told[1] or told[2] or told[0]).strip()
        else:
            raise
        raise UserError(
            str(folder),
            f"a checkpoint could not be written ({reason})",
            "Make room or mend the place; earlier checkpoints are intact, and the same command goes on from there.",
        ) from error


class StageCheckpoints:
    """Two stores of one stage: `latest` to go on from (weights, optimiser, progress), `best` (weights).

    Checkpoint N holds the state after N updates. Weights, optimiser and progress are separate items,
    so weights are read without the optimiser; what an objective carries from step to step is one more, there only
    where it carries something.
    """

    def __init__(self, folder: pathlib.Path, config_hash: str):
        """Open or make the stores.

        Args:
            folder: of the stage.
            config_hash: of the run; stands in every checkpoint.
        """
        self.folder = folder
        self.config_hash = config_hash
        folder.mkdir(parents=True, exist_ok=True)
        self._latest = _open(folder / LATEST, keep=2)
        self._best = _open(folder / BEST, keep=1)
        self._last_saved = self.latest_step()

    def save_latest(
        self, step: int, params: Any, opt_state: Any, progress: dict[str, Any], carried: Any = ()
    ) -> None:
        """Start writing the state after `step` updates; returns before it is on disk."""
        if step == self._last_saved:
            return
        self._last_saved = step
        with _writing(self.folder):
            self._latest.wait()
            self._latest.save_checkpointables_async(
                step,
                {WEIGHTS: params, OPTIMIZER: opt_state} | _item(carried),
                force=True,
                overwrite=True,
                custom_metadata=progress | {_HASH: self.config_hash},
            )

    def save_best(self, step: int, params: Any, progress: dict[str, Any]) -> None:
        """Write the weights of the best evaluation so far; the previous best goes when this one is whole.

        Waits for `save_latest` of the same step, so that no best is newer than what a run goes on from.
        """
        # Orbax names its barriers by what is done, not by store: two saves at once fail between processes.
        with _writing(self.folder):
            self._latest.wait()
            self._best.save_checkpointables(
                step,
                {WEIGHTS: params},
                force=True,
                overwrite=True,
                custom_metadata=progress | {_HASH: self.config_hash},
            )

    def latest_step(self) -> int | None:
        """Newest complete step, or None."""
        steps = complete_steps(self.folder / LATEST)
        return steps[-1] if steps else None

    def best_step(self) -> int | None:
        """Step of the best checkpoint, or None."""
        return best_step(self.folder)

    def restore_latest(
        self, abstract_params: Any, abstract_opt_state: Any, abstract_carried: Any = ()
    ) -> tuple[int, Any, Any, dict[str, Any], Any]:
        """The newest complete (step, params, opt_state, progress, carried), in the layout of the abstract trees.

        Raises:
            UserError: it was written by a run of another config, or its weights have other names or shapes.
        """
        step = self.latest_step()
        assert step is not None
        folder = (self.folder / LATEST / str(step)).absolute()
        metadata = ocp.checkpointables_metadata(folder)
        progress = dict(metadata.custom_metadata)
        written_by = progress.pop(_HASH, None)
        if written_by != self.config_hash:
            raise UserError(
                str(folder),
                f"was written by a run of another config (hash {written_by}, here {self.config_hash})",
                "Use that config, or a new --workdir; nothing was changed.",
            )
        _compare(folder, _shapes(metadata.metadata[WEIGHTS]), _shapes(abstract_params))
        wanted = {WEIGHTS: abstract_params, OPTIMIZER: abstract_opt_state} | _item(abstract_carried)
        loaded = ocp.load_checkpointables(folder, wanted)
        return step, loaded[WEIGHTS], loaded[OPTIMIZER], progress, loaded.get(CARRIED, abstract_carried)

    def wait(self) -> None:
        """Block until everything is on disk; a background save that failed raises here.

        Raises:
            UserError: the place takes no more data.
        """
        with _writing(self.folder):
            self._latest.wait()
            self._best.wait()

    def close(self) -> None:
        """Wait and release; raises as `wait` does."""
        with _writing(self.folder):
            self._latest.close()
            self._best.close()


def _item(carried: Any) -> dict[str, Any]:
    return {CARRIED: carried} if jax.tree.leaves(carried) else {}


def best_step(folder: pathlib.Path) -> int | None:
    """Step of the best checkpoint of the stage in `folder`, or None."""
    steps = complete_steps(folder / BEST)
    return steps[-1] if steps else None


def restore_weights(folder: pathlib.Path, abstract_params: Any) -> Any:
    """Weights only, from one step folder, in the layout of `abstract_params`; reads no optimiser state.

    Raises:
        UserError: the checkpoint's weights have other names or shapes; each is named.
    """
    found = ocp.checkpointables_metadata(folder.absolute()).metadata[WEIGHTS]
    _compare(folder, _shapes(found), _shapes(abstract_params))
    return ocp.load_checkpointables(folder.absolute(), {WEIGHTS: abstract_params})[WEIGHTS]


def save_weights(folder: pathlib.Path, params: Any) -> None:
    """Write weights alone into `folder`, as `restore_weights` reads them."""
    ocp.save_checkpointables(folder.absolute(), {WEIGHTS: params}, overwrite=True)


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


def checksum(params: Any) -> str:
    """Short checksum of the weights that does not depend on how they are sharded; for logs."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(fetch(leaf).tobytes())
    return digest.hexdigest()[:16]
