"""What a run occupies; in: abstract weights, a mesh and programs, out: a parameter table and bytes per device."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from r2d_jax.data.buckets import Bucket
from r2d_jax.data.features import Shapes
from r2d_jax.model.parameters import Params, flatten
from r2d_jax.runtime.mesh import batch_sharding, device_sharding, with_shardings
from r2d_jax.training.objectives import LABEL_WEIGHT
from r2d_jax.training.state import TrainState
from r2d_jax.training.steps import STOP

MIB = 2**20


@dataclasses.dataclass(frozen=True)
class ParameterRow:
    """One weight of the model.

    Attributes:
        name: path in the dict of weights.
        shape: whole.
        dtype: stored.
        layout: mesh axis of each dimension, "-" where it is whole on every device.
        device_bytes: of the part that one device holds.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    layout: str
    device_bytes: int


def parameter_rows(abstract_params: Params, mesh: Mesh) -> Iterator[ParameterRow]:
    """Every weight in a fixed order."""
    for name, leaf in flatten(with_shardings(abstract_params, mesh)).items():
        axes = [*leaf.sharding.spec, *[None] * (len(leaf.shape) - len(leaf.sharding.spec))]
        yield ParameterRow(
            name,
            leaf.shape,
            leaf.dtype.name,
            " ".join(str(axis or "-") for axis in axes),
            math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize,
        )


def weight_count(rows: list[ParameterRow]) -> int:
    """Numbers in all weights together."""
    return sum(math.prod(row.shape) for row in rows)


def parameter_table(rows: list[ParameterRow]) -> str:
    """The rows as aligned plain text, with a sum below."""
    cells = [("weight", "shape", "dtype", "layout", "bytes per device")]
    cells += [
        (
            row.name,
            "x".join(map(str, row.shape)) or "-",
            row.dtype,
            row.layout or "-",
            f"{row.device_bytes:,}",
        )
        for row in rows
    ]
    cells.append(
        (f"all {len(rows)}", f"{weight_count(rows):,}", "", "", f"{sum(row.device_bytes for row in rows):,}")
    )
    widths = [max(len(row[column]) for row in cells) for column in range(5)]
    return "".join(
        "  ".join(
            text.rjust(width) if column == 4 else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        + "\n"
        for row in cells
    )


def abstract_batch(
    batch_size: int, shapes: Shapes, bucket: Bucket, mesh: Mesh, *, weighted_labels: bool = False
) -> dict[str, Any]:
    """Shapes of a training batch trimmed to a bucket, with their shardings; float32 are the weights of rows."""
    widths = {
        "question_ids": bucket.question,
        "label_ids": shapes.label,
        "rationale_ids": bucket.rationale,
        "question_length": None,
        "label_length": None,
        "rationale_length": None,
        "row_weight": None,
    }
    if weighted_labels:
        widths[LABEL_WEIGHT] = None
    rows = {
        name: jax.ShapeDtypeStruct(
            (batch_size,) if width is None else (batch_size, width),
            np.float32 if name.endswith("weight") else np.int32,
            sharding=batch_sharding(mesh),
        )
        for name, width in widths.items()
    }
    return rows | {STOP: jax.ShapeDtypeStruct((mesh.size,), np.int32, sharding=device_sharding(mesh))}


@dataclasses.dataclass(frozen=True)
class ProgramMemory:
    """Bytes per device of a compiled program, as the compiler plans them.

    Attributes:
        arguments: state and batch.
        temporaries: activations and whatever else lives only within the program.
        outputs: results that are not written over an argument.
        code: the program itself.
    """

    arguments: int
    temporaries: int
    outputs: int
    code: int

    @property
    def peak(self) -> int:
        """All together, the most that the program needs."""
        return self.arguments + self.temporaries + self.outputs + self.code


def program_memory(compiled: Any) -> ProgramMemory | None:
    """The plan of a compiled program; None where the backend does not tell."""
    found = compiled.memory_analysis()
    if found is None:
        return None
    return ProgramMemory(
        int(found.argument_size_in_bytes),
        int(found.temp_size_in_bytes),
        int(found.output_size_in_bytes - found.alias_size_in_bytes),
        int(found.generated_code_size_in_bytes),
    )


def describe_step_memory(step_fn: Callable[..., Any], state: TrainState, batch: dict[str, Any]) -> str | None:
    """One line on the memory that a training step needs per device; compiles it, which the run needs anyway."""
    memory = program_memory(step_fn.lower(state, batch).compile())  # type: ignore[attr-defined]
    if memory is None:
        return None
    return (
        f"memory per device: {memory.peak / MIB:.1f} MiB at the most (state and batch "
        f"{memory.arguments / MIB:.1f}, activations {memory.temporaries / MIB:.1f})"
    )
