"""What a run needs on TPU chips; in: compiled programs of a topology, out: a table, and JSON."""

import dataclasses
import json
import pathlib
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from r2d_jax.config import Config
from r2d_jax.config_check import stage_configs
from r2d_jax.errors import UserError
from r2d_jax.model.parameters import T5Factory
from r2d_jax.runtime.files import write_text
from r2d_jax.runtime.mesh import make_mesh
from r2d_jax.runtime.outputs import require_file
from r2d_jax.runtime.reporting import say
from r2d_jax.training.footprint import parameter_rows, parameter_table, weight_count
from r2d_jax.training.topology import (
    LABELS,
    Chip,
    Program,
    chip_of,
    compile_programs,
    model_shape,
    run_shapes,
    topology_devices,
)

GIB = 2**30


def compile_report(
    config: Config,
    topology: str,
    console: Console,
    *,
    utilisation: float,
    parameters: bool,
    output: pathlib.Path | None,
    overwrite: bool = False,
) -> None:
    """Compile the programs of a config for a topology and print what they need per device.

    Args:
        config: of the run.
        topology: such as "v5e:4x4".
        console: where the table goes.
        utilisation: share of the chip's peak at which step times are estimated, above 0 and at most 1.
        parameters: also print the table of all weights.
        output: JSON file for the figures; None: no file.
        overwrite: replace a file that is there.

    Raises:
        UserError: unknown topology or model, a mesh that does not fit, or more memory than a chip has.
    """
    if not 0 < utilisation <= 1:
        raise UserError(
            "--utilisation", f"{utilisation} is not a valid share", "Give a number above 0, at most 1."
        )
    if output is not None:
        require_file(output, overwrite=overwrite)
    chip, devices = chip_of(topology), topology_devices(topology)
    mesh = make_mesh(config.mesh, devices)
    shape = model_shape(config)
    abstract = T5Factory(shape, config.model.compute_dtype).abstract_params
    rows = list(parameter_rows(abstract, mesh))
    count = weight_count(rows)
    shapes = run_shapes(config.data)
    stages = stage_configs(config).values()
    layout = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    say(console, f"{topology}: {len(devices)} chips, {layout}; {chip.hbm_bytes / GIB:.0f} GiB of HBM each")
    say(console, f"model: {count:,} weights, {config.model.compute_dtype}, remat {config.model.remat}")
    say(
        console,
        f"arrays: question {shapes.question}, label {shapes.label}, rationale {shapes.rationale} tokens; "
        f"batch {' and '.join(str(stage.batch_size) for stage in stages)} rows in "
        f"{' and '.join(str(stage.micro_batches or 1) for stage in stages)} micro-batches",
    )
    if config.label_decode == "constrained":
        say(
            console,
            f"labels: the rows are not read; a set of {LABELS} labels of {shapes.label} tokens stands for theirs",
        )
    if parameters:
        say(console, parameter_table(rows))
    programs = []
    for program in compile_programs(config, topology, lambda text: say(console, text)):
        programs.append(program)
        say(console, f"  done in {program.compile_secs:.0f} s")
    console.print(_table(programs, chip, utilisation))
    for program in programs:
        found = ", ".join(
            f"{kind} {number}x {_size(size)}" for kind, (number, size) in program.collectives.items()
        )
        say(console, f"collectives of the {program.name}: {found or 'none'}")
    say(
        console,
        "All figures are per chip. Work is that of matrix products; label and rationale decodes count at "
        "their longest. The time on the links is at their stated rate, and part of it is hidden behind work.",
    )
    if output is not None:
        figures = {
            "topology": topology,
            "chips": len(devices),
            "mesh": dict(mesh.shape),
            "weights": count,
            "programs": [_as_json(program) for program in programs],
        }
        write_text(output, json.dumps(figures, indent=2) + "\n")
        say(console, f"written: {output}")


def _as_json(program: Program) -> dict[str, Any]:
    return dataclasses.asdict(program) | {
        "peak_bytes": program.memory.peak,
        "link_bytes": program.link_bytes,
        "collectives": {kind: traffic._asdict() for kind, traffic in program.collectives.items()},
    }


def _size(count: int) -> str:
    return f"{count / GIB:.2f} GiB" if count >= GIB else f"{count / 2**20:.1f} MiB"


def _table(programs: list[Program], chip: Chip, utilisation: float) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("program", no_wrap=True)
    # Short, so that the table fits 80 columns.
    headings = ("state", "temp.", "peak GiB", "HBM", "TFLOP", f"ms at {utilisation:.0%}", "ms links")
    for name in headings:
        table.add_column(name, justify="right", no_wrap=True)
    for program in programs:
        memory = program.memory
        table.add_row(
            program.name,
            *(f"{count / GIB:.2f}" for count in (memory.arguments, memory.temporaries, memory.peak)),
            f"{memory.peak / chip.hbm_bytes:.0%}",
            f"{program.flops / 1e12:.3g}",
            f"{1000 * program.flops / (chip.flops * utilisation):.1f}",
            f"{1000 * program.link_bytes / chip.link_bytes:.1f}",
        )
    return table
