"""The folder of one run; in: a path and a Config, out: checked paths, stored config and done marks."""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
from typing import Any, Self

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass
from rich.console import Console

from r2d_jax.config import Config, Count
from r2d_jax.config_file import dump_config
from r2d_jax.config_identity import all_settings, config_hash, differences, settings_of
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.errors import UserError, first_fault
from r2d_jax.evaluation.model_folder import read_card
from r2d_jax.runtime.distributed import (
    agree,
    check_shared,
    is_writer,
    look_again,
    require_same,
    wait_for_all,
)
from r2d_jax.runtime.files import write_fault, write_text
from r2d_jax.runtime.locks import alone_in
from r2d_jax.runtime.outputs import require_local
from r2d_jax.runtime.reporting import say
from r2d_jax.runtime.run_files import CALIBRATION, EVALUATION_METRICS, RUN_CONFIG, RUN_STATE

EARLIER_CALIBRATION = "calibration_before"
"""In the mark of stage 2: `Workdir.calibration_digest` of a calibration made before the stage ended."""

# What a kill leaves of the first mark and of the probes for it.
_LEFT_BEHIND = re.compile(rf"\.{re.escape(RUN_STATE)}\.partial$|\.write_probe_|\.shared_probe$")
# Differing settings that an error names.
_NAMED = 3


@dataclass(frozen=True)
class _Marks:
    """What run.json holds; `batch_widths` has question and rationale tokens of each batch shape, by stage."""

    config_hash: str
    data_hash: str
    settings: dict[str, Any] | None = None
    batch_widths: dict[str, list[tuple[Count, Count]]] | None = None
    stage1_done: dict[str, Any] | None = None
    stage2_done: dict[str, Any] | None = None
    stage1_from: str | None = None
    wall_secs: float = 0.0
    run_done: bool = False


_MARKS = TypeAdapter(_Marks)


class Workdir:
    """Paths and marks of a run. A mark is written only after what it stands for is on disk.

    In a `with` block nobody else runs in the folder, from `check` to the end of the block.
    """

    def __init__(self, path: pathlib.Path, rows_of: pathlib.Path | None = None):
        """Take the folder, which need not exist.

        Args:
            path: of the folder.
            rows_of: that of another run, of whose rows a run in this one must be.

        Raises:
            UserError: an address such as gs://bucket/run, which would become a local folder named "gs:".
        """
        require_local(path, "--workdir")
        self.path = path.absolute()
        self._rows_of = rows_of
        self._block: contextlib.ExitStack | None = None

    def __enter__(self) -> Self:
        self._block = contextlib.ExitStack()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._block is not None
        self._block.close()

    def stage(self, number: int) -> pathlib.Path:
        """Folder of stage 1 or 2."""
        return self.path / f"stage{number}"

    @property
    def tokenizer(self) -> pathlib.Path:
        """Tokenizer folder."""
        return self.path / "tokenizer"

    @property
    def tokens(self) -> pathlib.Path:
        """Cache of token ids."""
        return self.path / "tokens"

    @property
    def evaluation(self) -> pathlib.Path:
        """Predictions and metrics of the test split."""
        return self.path / "evaluation"

    @property
    def export(self) -> pathlib.Path:
        """Hugging Face folder."""
        return self.path / "export"

    @property
    def started(self) -> bool:
        """Whether a run lives here."""
        return (self.path / RUN_STATE).is_file()

    @property
    def finished(self) -> bool:
        """Whether the run came to its end and its evaluation is there, which `r2d eval` may have begun anew."""
        metrics = self.evaluation / EVALUATION_METRICS
        return self.started and self.state.get("run_done", False) and metrics.is_file()

    def calibration_digest(self) -> str | None:
        """Sha256 of the bytes of calibration.json, in hexadecimal digits; None where there is none."""
        path = self.path / CALIBRATION
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None

    def check(self, config: Config) -> None:
        """Refuse a folder that this run must not touch; writes nothing that stays.

        Raises:
            UserError: it holds a run of another config, other files, or cannot be written, another command runs
                in it, or a process has another config.
        """
        fault = write_fault(self.path) if is_writer() else None
        # All end together: a process that waited for one that has gone would wait long.
        if agree(fault is not None):
            raise UserError(
                str(self.path), f"cannot be written ({fault or 'by process 0'})", "Choose another --workdir."
            )
        # One process locks for all of them. Two runs at once would write into each other's files.
        alone = self._block is None or not is_writer() or self._block.enter_context(alone_in(self.path))
        if agree(not alone):
            raise UserError(
                str(self.path),
                "another command is running in it",
                "Wait for that one, or choose another --workdir; nothing was changed.",
            )
        check_shared(self.path)
        # With other rows, or steps of another kind, each process would train its own part of something else.
        require_same("settings", [json.dumps(all_settings(config), sort_keys=True).encode()])
        if not self.started:
            strangers = sorted(
                entry.name for entry in self.path.iterdir() if not _LEFT_BEHIND.match(entry.name)
            )
            if strangers:
                raise UserError(
                    str(self.path),
                    f"not empty and not a run folder (holds {', '.join(strangers[:3])})",
                    "Choose a new --workdir; nothing was changed.",
                )
        else:
            self.check_started(config)

    def check_started(self, config: Config) -> None:
        """Refuse to go on with the run in this folder by another config, or where a file is in the way.

        Raises:
            UserError: names the settings that differ, or the file.
        """
        state, others = self.state, []
        if state.get("settings") is not None:
            others = differences(config, state["settings"])
        elif state["config_hash"] != config_hash(config):
            # Versions before 0.1.0 recorded the hash alone.
            others = ["settings differ"]
        if others:
            more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
            raise UserError(
                str(self.path),
                f"holds a run of another config: {'; '.join(others[:_NAMED])}{more} (see {RUN_CONFIG} there)",
                self._way_out("Choose a new --workdir, or the config it was started with"),
            )
        for folder in (
            self.stage(1),
            self.stage(2),
            self.tokenizer,
            self.tokens,
            self.evaluation,
            self.export,
        ):
            if os.path.lexists(folder) and not folder.is_dir():
                raise UserError(
                    str(folder), "stands where the run has a folder", "Move it away; nothing was changed."
                )

    def start(self, config: Config, data_hash: str) -> None:
        """Claim the folder for this run, or check that the rows are still those it began with.

        Raises:
            UserError: the rows changed since the run began, or since the one began whose rows it must have.
        """
        if self._rows_of is not None and (theirs := Workdir(self._rows_of).state["data_hash"]) != data_hash:
            raise UserError(
                str(self.path),
                f"the rows are not those of {self._rows_of} (content hash {theirs}, now {data_hash})",
                "Restore the data, or choose a new --workdir for all runs; nothing was changed.",
            )
        if not self.started:
            wait_for_all("all saw that the run is new")
            if is_writer():
                run = {"config_hash": config_hash(config), "data_hash": data_hash}
                self._write_state(run | {"settings": settings_of(config)})
                write_text(self.path / RUN_CONFIG, dump_config(config))
            wait_for_all("run started")
            # Before it was there all asked for it.
            look_again(self.path)
        elif self.state.get("data_hash") != data_hash:
            raise UserError(
                str(self.path),
                f"its run began with other rows (content hash {self.state.get('data_hash')}, now {data_hash})",
                self._way_out("Restore the data, or choose a new --workdir"),
            )
        elif is_writer() and not self.state.get("run_done"):
            # Settings that results do not depend on may have changed; the file says what is in force.
            write_text(self.path / RUN_CONFIG, dump_config(config))

    def _way_out(self, fix: str) -> str:
        """What to do about a folder that this run must not touch; one without a checkpoint may simply go."""
        # Loads Orbax.
        from r2d_jax.runtime.checkpoint_files import LATEST, complete_steps

        trained = any(complete_steps(self.stage(number) / LATEST) for number in (1, 2))
        return fix + ("" if trained else ", or remove it: it holds no checkpoint") + "; nothing was changed."

    @property
    def state(self) -> dict[str, Any]:
        """Marks by name.

        Raises:
            UserError: there is no run in this folder, or its marks are damaged.
        """
        path = self.path / RUN_STATE
        if not path.is_file():
            raise UserError(
                str(self.path), f"no run here ({RUN_STATE} is missing)", "Give the --workdir of a run."
            )
        try:
            # As it was stored: a later version may know further marks.
            state = json.loads(path.read_text(encoding="utf-8"))
            _MARKS.validate_python(state)
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(
                str(path),
                f"is damaged ({first_fault(error)})",
                "Restore it, or choose a new --workdir; nothing was changed.",
            ) from error
        return state

    def mark(self, name: str, value: Any) -> None:
        """Store a mark, atomically; all processes call it and have it when they go on."""
        wait_for_all(f"before mark {name}")
        if is_writer():
            self._write_state(self.state | {name: value})
        wait_for_all(f"mark {name}")
        look_again(self.path)

    def _write_state(self, state: dict[str, Any]) -> None:
        write_text(self.path / RUN_STATE, json.dumps(state, indent=2) + "\n")


def _one_tokenizer(*runs: Workdir) -> bool:
    """Whether two runs have the same, each as whichever version of its library wrote it."""
    prints = [read_card(run.path).tokenizer_fingerprint for run in runs]
    return prints[0] == prints[1] or any(
        Tokenizer.load(run.tokenizer).has_fingerprint(of_other)
        for run, of_other in zip(runs, reversed(prints), strict=True)
    )


def adopt_stage1(workdir: Workdir, donor: Workdir, console: Console) -> None:
    """Take the finished stage 1 of another run of the same rows, vocabulary and model; once.

    Raises:
        UserError: it is not finished, belongs to other rows, another vocabulary or model, or cannot be copied.
    """
    if workdir.state.get("stage1_done"):
        return
    if not donor.state.get("stage1_done"):
        raise UserError(str(donor.path), "its stage 1 is not finished", "Finish it, or train stage 1 here.")
    if workdir.state["data_hash"] != donor.state["data_hash"]:
        raise UserError(str(donor.path), "was trained on other rows", "Train stage 1 here.")
    if read_card(workdir.path).shape != read_card(donor.path).shape or not _one_tokenizer(workdir, donor):
        raise UserError(str(donor.path), "has another vocabulary or model shape", "Train stage 1 here.")
    if is_writer():
        shutil.rmtree(workdir.stage(1), ignore_errors=True)
        try:
            shutil.copytree(donor.stage(1), workdir.stage(1))
        except shutil.Error as error:
            # It gathers what went wrong, file by file; the first will do.
            ((_, to, reason), *_) = error.args[0]
            raise UserError(
                str(to), f"cannot be written ({reason})", "Make room; the same command goes on."
            ) from error
    workdir.mark("stage1_from", str(donor.path))
    workdir.mark("stage1_done", donor.state["stage1_done"])
    say(console, f"stage 1: taken from {donor.path}")
