"""What the growth benchmark measures; in: nothing, out: the points of each axis, for the full run and the quick one."""

import dataclasses
from typing import Any

LABEL_DECODE = "label_decode"
STEPS = ("stage1", "stage2_sampled")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        shape: of prepare.SHAPES.
        notes: synthetic notes that the vocabulary and the rows come from.
        length: input tokens of the encoder.
        length_batch: rows of a batch there.
        length_parts: what is measured there.
        length_rationale: tokens of each rationale there.
        labels: numbers of labels.
        labels_rows: rows scored.
        batch: rows of a batch.
        batch_parts: what is measured there.
        batch_tokens: input tokens there.
        batch_rationale: tokens of each rationale there.
        rows: rows of the data set.
        batches: shuffled batches that are timed.
        least: repeats of every call.
        most: repeats of a short one.
        budget_secs: after so long a call is not repeated.
        alone: a process for each point, programs compiled as for a user; False: whatever is soonest over.
    """

    shape: str = "tiny"
    notes: int = 1000
    length: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)
    length_batch: int = 8
    length_parts: tuple[str, ...] = (*STEPS, LABEL_DECODE)
    length_rationale: int = 64
    labels: tuple[int, ...] = (2, 10, 100, 1000)
    labels_rows: int = 1000
    batch: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    batch_parts: tuple[str, ...] = STEPS
    batch_tokens: int = 64
    batch_rationale: int = 32
    rows: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    batches: int = 320
    least: int = 3
    most: int = 9
    budget_secs: float = 10.0
    alone: bool = True

    def points(self, axis: str) -> list[dict[str, Any]]:
        """The points of an axis, each as its process is given it."""
        pace = {
            "axis": axis,
            "shape": self.shape,
            "least": self.least,
            "most": self.most,
            "budget_secs": self.budget_secs,
        }
        if axis == "labels":
            return [pace | {"x": count, "rows": self.labels_rows} for count in self.labels]
        if axis == "rows":
            return [pace | {"x": count, "rows": count, "batches": self.batches} for count in self.rows]
        by_length = axis == "length"
        return [
            pace
            | {
                "part": part,
                "x": size,
                "rows": self.length_batch if by_length else size,
                "input_tokens": size if by_length else self.batch_tokens,
                "rationale_tokens": self.length_rationale if by_length else self.batch_rationale,
            }
            for part in (self.length_parts if by_length else self.batch_parts)
            for size in (self.length if by_length else self.batch)
        ]

    def facts(self, axis: str, label_tokens: int) -> str:
        """What is fixed on an axis, in words."""
        return {
            "length": f"{self.shape}, {self.length_batch} rows, {self.length_rationale} tokens of rationale, labels "
            f"of {label_tokens}",
            "labels": f"{self.labels_rows:,} rows, labels of two words",
            "batch": f"{self.shape}, {self.batch_tokens} input tokens, {self.batch_rationale} of rationale, labels "
            f"of {label_tokens}",
            "rows": f"Notes of one sentence; {self.batches} batches of 64",
        }[axis]


QUICK = Plan(
    shape="micro",
    notes=200,
    length=(64, 96, 128),
    length_batch=2,
    length_parts=(LABEL_DECODE,),
    length_rationale=8,
    labels=(2, 8),
    labels_rows=24,
    batch=(2,),
    batch_parts=("stage1",),
    batch_rationale=8,
    rows=(500, 1000),
    batches=4,
    least=1,
    most=1,
    alone=False,
)
