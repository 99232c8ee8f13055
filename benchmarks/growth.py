"""How the cost of an example grows with length, labels, batch and rows; in: options, out: JSON, plots and a table.

python benchmarks/growth.py --axes length,labels,batch,rows
"""

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks import machine, soon_compiled
from benchmarks.growth_fit import judged
from benchmarks.growth_plan import QUICK, Plan
from benchmarks.growth_tables import AXES, markdown
from benchmarks.options import names, positive, say
from benchmarks.sides import NOT_INHERITED, SideFailed
from benchmarks.tables import write_docs
from benchmarks.workload import Workload
from r2d_jax.errors import UserError, how_to_install

SCHEMA_VERSION = 1
PAGE = ROOT / "docs" / "growth.md"
PLOTS = PAGE.with_suffix("")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        self.exit(2, f"{self.prog}: {message}\n")


def _counts(text: str) -> tuple[int, ...]:
    return tuple(sorted({positive(part) for part in text.split(",")}))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="benchmarks/growth.py", description=__doc__.splitlines()[0])
    parser.add_argument("--axes", type=names(tuple(AXES)), default=list(AXES), help=",".join(AXES))
    parser.add_argument("--rows", type=_counts, help="sizes of the data set (default: 1000 to 1000000)")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/growth"))
    parser.add_argument(
        "--quick", action="store_true", help="seconds only: does it run; figures mean nothing"
    )
    parser.add_argument(
        "--write-docs",
        action="store_true",
        help="put all axes that lie in the output folder into docs/growth.md",
    )
    options = parser.parse_args(arguments)
    if options.quick and options.write_docs:
        parser.error("--quick measures nothing worth writing into the docs")
    return options


def _environment(plan: Plan, cache: pathlib.Path) -> dict[str, str]:
    soon = {} if plan.alone else {"XLA_FLAGS": soon_compiled.flags()}
    kept = {key: value for key, value in os.environ.items() if key not in NOT_INHERITED}
    # Compiling is not measured, so what a user's cache holds is welcome.
    fixed = {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    return {"R2D_COMPILE_CACHE": str(cache)} | kept | fixed | soon


def _process(
    workload: pathlib.Path, plan: Plan, points: Sequence[dict[str, Any]], environment: dict[str, str]
) -> list[dict[str, Any]]:
    """Measurements of points, taken in one new process; it makes the workload where there is none.

    Raises:
        SideFailed: it ended.
    """
    arguments = [str(workload), plan.shape, str(plan.notes), json.dumps(points)]
    command = [sys.executable, "-m", "benchmarks.growth_points", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    if ended.returncode:
        told = ended.stderr.strip().splitlines()[-12:]
        first = f"{points[0]['axis']} {points[0]['x']}" if points else "the workload"
        raise SideFailed("\n".join([f"the process of {first} ended with {ended.returncode}:", *told]))
    return [json.loads(line) for line in ended.stdout.splitlines()]


def measure(axes: Sequence[str], plan: Plan, scratch: pathlib.Path) -> list[dict[str, Any]]:
    """What each axis gives, as it is written to JSON.

    Args:
        axes: of AXES.
        plan: what to measure.
        scratch: a folder for the workload and compiled programs.

    Raises:
        SideFailed: a process ended.
    """
    before = {"load": machine.load(), **machine.facts()}
    points = [point for axis in axes for point in plan.points(axis)]
    found: list[dict[str, Any]] = []
    # The workload is made in a process of its own too.
    for group in [[], *([point] for point in points)] if plan.alone else [points]:
        for point in group:
            say(f"{point['axis']} {point['x']:,} {point.get('part', '')}".rstrip())
        found += _process(scratch / "workload", plan, group, _environment(plan, scratch / "compiled"))
    common = {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "quick": not plan.alone,
        "machine": before | {"load_after": machine.load()},
        "plan": dataclasses.asdict(plan),
    }
    label_tokens = Workload.load(scratch / "workload").label_tokens
    by_axis = {axis: [one for one in found if one["axis"] == axis] for axis in axes}
    return [
        {"axis": axis, **common, "facts": plan.facts(axis, label_tokens)}
        | {"parts": judged(axis, measured), "points": measured}
        for axis, measured in by_axis.items()
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write AXIS.json, AXIS.svg and result.md, print the table; the exit code."""
    options = _options(arguments)
    plan = QUICK if options.quick else Plan()
    if options.rows:
        plan = dataclasses.replace(plan, rows=options.rows)
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        draw = _drawing()
        if options.write_docs:
            _require_all([*options.axes, *(one["axis"] for one in _kept(options.output) if not one["quick"])])
        with tempfile.TemporaryDirectory() as temporary:
            _measure_all(options, plan, pathlib.Path(temporary), draw)
        results = _kept(options.output)
        table = markdown(results, "")
        (options.output / "result.md").write_text(table, encoding="utf-8")
        if options.write_docs:
            PLOTS.mkdir(exist_ok=True)
            for result in results:
                draw(result, PLOTS / f"{result['axis']}.svg")
            write_docs(PAGE, markdown(results, f"{PLOTS.name}/"))
    except (UserError, SideFailed, OSError) as error:
        print(f"benchmarks/growth.py: {error}", file=sys.stderr)
        return 2
    print(table)
    return 0


def _drawing() -> Callable[[dict[str, Any], pathlib.Path], None]:
    try:
        from benchmarks.growth_plots import draw
    except ImportError as error:
        raise UserError(
            "the plots",
            f"cannot import {error.name}",
            f"Install what they need: {how_to_install('report')}.",
        ) from error
    return draw


def _require_all(axes: Sequence[str]) -> None:
    if lacking := [axis for axis in AXES if axis not in axes]:
        raise UserError(
            "--write-docs",
            f"the output folder has no figures of {', '.join(lacking)}",
            "Measure these axes too.",
        )


def _measure_all(
    options: argparse.Namespace, plan: Plan, scratch: pathlib.Path, draw: Callable[..., None]
) -> None:
    # Each axis is kept at once: a later one may fail.
    for axes in [[axis] for axis in options.axes] if plan.alone else [options.axes]:
        for result in measure(axes, plan, scratch):
            path = options.output / f"{result['axis']}.json"
            path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
            draw(result, path.with_suffix(".svg"))


def _kept(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Results of all axes that were ever written to a folder, in order."""
    paths = [folder / f"{axis}.json" for axis in AXES]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]


if __name__ == "__main__":
    sys.exit(main())
