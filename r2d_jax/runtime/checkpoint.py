"""Orbax checkpoints of one stage; in: weights, optimiser state and progress, out: the same, restored or by step."""

import contextlib
import dataclasses
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from r2d_jax.errors import UserError
from r2d_jax.runtime.checkpoint_files import (
    BEST,
    LATEST,
    PARAMS,
    SUMS,
    Damaged,
    best_step,
    complete_steps,
    load_items,
    metadata_of,
    numbered_steps,
    sums_of,
)
from r2d_jax.runtime.distributed import agree

_SYSTEM_FAULT = re.compile(r"([\w -]+) \[os_error_code='\d+'\]|\[Errno \d+\] ([\w -]+)|PERMISSION_DENIED")
# Names of items in checkpoints: another one would make those of all users unreadable.
OPTIMIZER, OBJECTIVE_STATE = "opt_state", "carried"
_HASH = "config_hash"


@dataclasses.dataclass(frozen=True)
class _LatestWhole(ocp.training.preservation_policies.PreservationPolicy):
    """Keeps the steps written last. A folder that Orbax only takes for one does not count, and is left where it is.

    Attributes:
        folder: of the steps.
        count: how many are kept.
        foreign: numbers of folders that were no whole step when the store was opened.
    """

    folder: pathlib.Path
    count: int
    foreign: frozenset[int]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        # One of them may have been written again; the step that is being written is not whole yet.
        foreign = self.foreign.difference(complete_steps(self.folder))
        kept = [one.step for one in checkpoints if one.step not in foreign][-self.count :]
        return [one.step in foreign or one.step in kept for one in checkpoints]


def _open(folder: pathlib.Path, keep: int) -> ocp.training.Checkpointer:
    foreign = frozenset(numbered_steps(folder)).difference(complete_steps(folder))
    return ocp.training.Checkpointer(
        folder.absolute(),
        preservation_policy=_LatestWhole(folder.absolute(), keep, foreign),
        cleanup_tmp_directories=True,
    )


@contextlib.contextmanager
def _writing(folder: pathlib.Path) -> Iterator[None]:
    """Turn a full or unwritable disk into a one-line UserError; re-raise anything else."""
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
            "Make room or correct the path; earlier checkpoints are intact, and the same command goes on from there.",
        ) from error


class StageCheckpoints:
    """Two stores of one stage: `latest` to go on from (weights, optimiser, progress), `best` (weights).

    Checkpoint N holds the state after N updates. Weights, optimiser and progress are separate items,
    so weights are read without the optimiser; the state of an objective is one more, there only where it has one.
    """

    def __init__(self, folder: pathlib.Path, config_hash: str):
        """Open or make the stores.

        Args:
            folder: of the stage.
            config_hash: of the run; part of every checkpoint.
        """
        self.folder = folder
        self.config_hash = config_hash
        folder.mkdir(parents=True, exist_ok=True)
        self._latest = _open(folder / LATEST, keep=2)
        self._best = _open(folder / BEST, keep=1)
        self._last_saved = self.latest_step()
        self._last_sums: tuple[int | None, dict[str, str]] = (None, {})

    def save_latest(
        self, step: int, params: Any, opt_state: Any, progress: dict[str, Any], objective_state: Any = ()
    ) -> None:
        """Start writing the state after `step` updates; returns before it is on disk.

        A step that is there already stays as it is, also where its progress is newer now: Orbax would delete it before
        it writes it anew, and after a kill between the two, or on a full disk, all steps since the checkpoint before
        it would be lost. What a run forgets then is one evaluation, which it does again.
        """
        if step == self._last_saved:
            return
        self._last_saved = step
        with _writing(self.folder):
            self._latest.wait()
            items = {PARAMS: params, OPTIMIZER: opt_state} | _item(objective_state)
            self._latest.save_checkpointables_async(
                step, items, force=True, overwrite=True, custom_metadata=self._metadata(step, items, progress)
            )

    def save_best(self, step: int, params: Any, progress: dict[str, Any]) -> None:
        """Write the weights of the best evaluation so far; the previous best goes when this one is whole.

        Waits for `save_latest` of the same step, which had the same weights, so that no best is newer than what a run
        goes on from.
        """
        # Orbax names its barriers by what is done, not by store: two saves at once fail between processes.
        with _writing(self.folder):
            self._latest.wait()
            items = {PARAMS: params}
            self._best.save_checkpointables(
                step, items, force=True, overwrite=True, custom_metadata=self._metadata(step, items, progress)
            )

    def _metadata(self, step: int, items: dict[str, Any], progress: dict[str, Any]) -> dict[str, Any]:
        of_step, known = self._last_sums
        known = known if of_step == step else {}
        sums = known | sums_of({name: tree for name, tree in items.items() if name not in known})
        self._last_sums = step, sums
        return progress | {_HASH: self.config_hash, SUMS: {name: sums[name] for name in items}}

    def latest_step(self) -> int | None:
        """Newest complete step, or None."""
        steps = complete_steps(self.folder / LATEST)
        return steps[-1] if steps else None

    def best_step(self) -> int | None:
        """Step of the best checkpoint, or None."""
        return best_step(self.folder)

    def half_written(self) -> list[pathlib.Path]:
        """Folders beyond the newest complete step whose writing did not come to its end."""
        home = self.folder / LATEST
        newest = self.latest_step() or 0
        return [home / str(step) for step in numbered_steps(home) if step > newest]

    def restore_latest(
        self,
        report: Callable[[str], None],
        abstract_params: Any,
        abstract_opt_state: Any,
        abstract_objective_state: Any = (),
    ) -> tuple[int, Any, Any, dict[str, Any], Any]:
        """The newest whole checkpoint, in the layout of the abstract trees.

        Args:
            report: takes a line for each newer checkpoint that is passed over, and why.
            abstract_params: shapes, dtypes and shardings of the weights.
            abstract_opt_state: of the optimiser state.
            abstract_objective_state: of the state of the objective.

        Returns:
            step, params, opt_state, progress and objective_state.

        Raises:
            UserError: it was written by a run of another config, its weights have other names or shapes, or none of
                the checkpoints is whole.
        """
        wanted = {PARAMS: abstract_params, OPTIMIZER: abstract_opt_state} | _item(abstract_objective_state)
        home, whole = self.folder / LATEST, complete_steps(self.folder / LATEST)
        for step in reversed(whole):
            folder = home / str(step)
            restored, reason = None, "another process cannot read it"
            try:
                restored = self._restore(folder, wanted)
            except Damaged as error:
                reason = str(error)
            # All go back to the same step.
            if not agree(restored is None) and restored is not None:
                loaded, progress = restored
                self._last_saved = step
                objective_state = loaded.get(OBJECTIVE_STATE, abstract_objective_state)
                return step, loaded[PARAMS], loaded[OPTIMIZER], progress, objective_state
            report(f"warning: {folder} is passed over: {reason}")
        raise UserError(
            str(home),
            "no checkpoint in it can be read",
            "Restore it from a copy, or move the stage's folder away to train the stage again.",
        )

    def _restore(self, folder: pathlib.Path, wanted: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        metadata = metadata_of(folder)
        progress = dict(metadata.custom_metadata or {})
        written_by = progress.pop(_HASH, None)
        if written_by is None:
            raise Damaged("its description is damaged")
        if written_by != self.config_hash:
            raise UserError(
                str(folder),
                f"was written by a run of another config (hash {written_by}, here {self.config_hash})",
                "Use that config, or a new --workdir; nothing was changed.",
            )
        loaded = load_items(folder, metadata, wanted)
        progress.pop(SUMS, None)
        return loaded, progress

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


def _item(objective_state: Any) -> dict[str, Any]:
    return {OBJECTIVE_STATE: objective_state} if jax.tree.leaves(objective_state) else {}
