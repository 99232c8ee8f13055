"""What a run tells its user; in: scalars by step, out: progress bar or lines, metrics.jsonl, TensorBoard."""

import json
import math
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from r2d_jax.runtime.distributed import is_writer
from r2d_jax.runtime.files import named_faults, write_text
from r2d_jax.runtime.run_files import STEP_LOG


def say(console: Console, text: str) -> None:
    """One plain line: never read as markup, never broken, so that paths can be copied."""
    console.print(text, highlight=False, soft_wrap=True, markup=False)


class Reporter:
    """Reports one stage. Only numbers and names pass through here, never case text."""

    def __init__(
        self,
        folder: pathlib.Path,
        stage: str,
        *,
        console: Console,
        total_steps: int,
        start_step: int,
        tensorboard: bool,
    ):
        """Open the files of a stage; rows of steps after start_step are from a lost run and are removed."""
        self.console, self.stage = console, stage
        self._total, self._start_time, self._start_step = total_steps, time.monotonic(), start_step
        self._file: TextIO | None = None
        self._writer = None
        if is_writer():
            folder.mkdir(parents=True, exist_ok=True)
            self._file = _reopened(folder / STEP_LOG, start_step)
            self._writer = _tensorboard(folder) if tensorboard else None
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=16),
                MofNCompleteColumn(),
                TextColumn("{task.fields[numbers]}"),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._bar.add_task(stage, total=total_steps, completed=start_step, numbers="")
            self._bar.start()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write values to metrics.jsonl, null for one that is not finite, and TensorBoard.

        Raises:
            UserError: metrics.jsonl cannot be written to.
        """
        if self._file is not None:
            # JSON has neither NaN nor infinity.
            told = {name: value if math.isfinite(value) else None for name, value in values.items()}
            with named_faults(pathlib.Path(self._file.name)):
                self._file.write(json.dumps({"step": step, **told}) + "\n")
                self._file.flush()
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def progress(self, step: int, values: Mapping[str, float]) -> None:
        """Show a training step: on a terminal in the bar, elsewhere as a line."""
        numbers = " ".join(
            f"{short} {_number(values[name])}" for name, short in _SHOWN.items() if name in values
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=step, numbers=numbers)
        else:
            self.say(f"step {step}/{self._total}  {numbers}  left {_clock(self.seconds_left(step))}")

    def seconds_left(self, step: int) -> float:
        """Estimate from the mean speed since the start, evaluations included."""
        done = max(step - self._start_step, 1)
        return (time.monotonic() - self._start_time) / done * (self._total - step)

    def say(self, text: str) -> None:
        """One line about the stage."""
        say(self.console, f"{self.stage}: {text}")

    def close(self) -> None:
        """Flush and close."""
        if self._bar is not None:
            self._bar.stop()
        if self._file is not None:
            self._file.close()
        if self._writer is not None:
            self._writer.close()


_SHOWN = {
    "train/loss": "loss",
    "train/label_weight": "α",
    "train/sampling_probability": "π",
    "train/sampled_fraction": "sampled",
    "train/tau": "τ",
    "train/cycle_loss": "cycle",
    "perf/examples_per_sec": "examples/s",
}


def _number(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _reopened(path: pathlib.Path, start_step: int) -> TextIO:
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines()
        # A line cut off by a kill is of a step that will be done again.
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= start_step]
        if len(kept) < len(lines):
            write_text(path, "".join(f"{line}\n" for line in kept))
    return path.open("a", encoding="utf-8")


def _tensorboard(folder: pathlib.Path) -> Any:
    # tensorboardX takes torch where it finds it: seconds of the start and 200 MiB, for nothing that is used here.
    # No other thread may import meanwhile: batches are made ahead only once the stage has its reporter.
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hidden:
            sys.modules.pop("torch", None)
    return SummaryWriter(logdir=str(folder / "tensorboard"))
