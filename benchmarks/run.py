"""Measure r2d_jax beside a torch + transformers peer, alternating; in: options, out: JSON and a Markdown table.

python benchmarks/run.py --shapes tiny --data pubmedqa
"""

import argparse
import dataclasses
import datetime
import itertools
import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks import machine, soon_compiled, tables
from benchmarks.measure import PARTS, Case
from benchmarks.options import names, positive, say
from benchmarks.sides import SideFailed, side
from benchmarks.worker import SIDES
from benchmarks.workload import Settings

SCHEMA_VERSION = 1
SHAPES, DATA = ("micro", "tiny", "small"), ("pubmedqa", "short")
MATMUL_SIZE = 2048


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/run.py", description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", type=names(SHAPES), default=["tiny", "small"], help="tiny,small")
    parser.add_argument("--data", type=names(DATA), default=list(DATA), help="pubmedqa,short")
    parser.add_argument("--parts", type=names(PARTS), default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--repeats", type=positive, default=8, help="timed repeats of each training step")
    parser.add_argument(
        "--generation-repeats", type=positive, default=3, help="of each generation and each start"
    )
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/benchmark"))
    parser.add_argument("--pubmedqa", type=pathlib.Path, help="pqal.jsonl (default: ../shared/data/pubmedqa)")
    parser.add_argument("--t5-tokenizer", type=pathlib.Path, help="default: ../shared/data/t5_tokenizer")
    parser.add_argument("--cache", type=pathlib.Path, help="keep compiled programs here (default: nowhere)")
    parser.add_argument(
        "--quick", action="store_true", help="seconds only: does it run; figures mean nothing"
    )
    parser.add_argument("--write-docs", action="store_true", help="put the table into docs/performance.md")
    parser.add_argument(
        "--docs-from",
        type=pathlib.Path,
        nargs="+",
        metavar="RESULT.JSON",
        help="measure nothing: put the tables of these earlier runs into docs/performance.md",
    )
    options = parser.parse_args(arguments)
    if options.quick and options.write_docs:
        parser.error("--quick measures nothing worth writing into the docs")
    return options


def matmul_peaks(
    workload: pathlib.Path, settings: Settings, cache: pathlib.Path, size: int
) -> dict[str, float]:
    """Best GFLOP/s of a large product on each side."""
    found = {}
    # One at a time: beside the other, a side might not fit into the memory of a GPU.
    for name in SIDES:
        with side(name, workload, settings, cache) as one:
            found[name] = one.call("matmul_gflops", size=size, repeats=15)["gflops"]
    return found


def measure(
    shapes: Sequence[str],
    data: Sequence[str],
    parts: Sequence[str],
    settings: Settings,
    *,
    rows: int | None = None,
    pubmedqa: pathlib.Path | None = None,
    t5_tokenizer: pathlib.Path | None = None,
    matmul_size: int = MATMUL_SIZE,
    cache: pathlib.Path | None = None,
    keep: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Everything that one run finds, as it is written to JSON; `keep` gets what there is after each kind of part.

    Raises:
        SideFailed: a side ended, or the two do not compute the same.
        UserError: a file that was named is not there or not of this kind.
    """
    # Only the sides compute; the weights are drawn on CPU, so that every machine starts from the same.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from benchmarks.prepare import make

    result: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "settings": dataclasses.asdict(settings),
        "machine": {"load": machine.load(), **machine.facts()},
        "cases": [],
    }

    def keep_all() -> None:
        result["machine"]["load_after"] = machine.load()
        keep(result)

    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        cache = cache or folder / "compiled"
        for shape, kind in itertools.product(shapes, data):
            say(f"== {shape}, {kind}")
            workload = folder / f"{shape}-{kind}"
            workload.mkdir()
            make(workload, shape, kind, rows=rows, pubmedqa=pubmedqa, t5_tokenizer=t5_tokenizer)
            if "matmul_peak_gflops" not in result:
                result["matmul_peak_gflops"] = matmul_peaks(workload, settings, cache, matmul_size)
            facts = json.loads((workload / "facts.json").read_text(encoding="utf-8"))
            result["cases"].append({"shape": shape, "data": kind, "rows": facts})
            peak = result["matmul_peak_gflops"]["ours"]
            case = Case(workload, settings, parts, cache, peak, lambda text: say(f"   {text}"), keep_all)
            case.run(result["cases"][-1])
    return result


def _docs_from(paths: Sequence[pathlib.Path]) -> int:
    results = []
    for path in paths:
        try:
            results.append(json.loads(path.read_text(encoding="utf-8")))
            if results[-1]["schema_version"] != SCHEMA_VERSION or results[-1]["quick"]:
                raise ValueError("of another version, or quick")
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(f"benchmarks/run.py: {path}: no result of a run ({error})", file=sys.stderr)
            return 2
    tables.write_docs(ROOT / "docs" / "performance.md", "\n".join(map(tables.markdown, results)))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write result.json and result.md after each kind of part, print the table; the exit code."""
    options = _options(arguments)
    if options.docs_from:
        return _docs_from(options.docs_from)
    from r2d_jax.errors import UserError

    settings = Settings(repeats=options.repeats, generation_repeats=options.generation_repeats)
    limits: dict[str, Any] = {}
    if options.quick:
        options.shapes, options.data = ["micro"], ["short"]
        settings = Settings(
            batch_size=4,
            generation_batch_size=4,
            repeats=1,
            generation_repeats=1,
            rationale_tokens=48,
            long_label_tokens=6,
            # Small work over several threads waits for them where other processes want the cores.
            peer_threads=1,
            xla_flags=soon_compiled.flags(),
        )
        limits = {"rows": 64, "matmul_size": 128}

    def keep(result: dict[str, Any]) -> None:
        found = result | {"quick": options.quick}
        tables.write_result(options.output, found, tables.markdown(found))

    try:
        result = measure(
            options.shapes,
            options.data,
            options.parts,
            settings,
            pubmedqa=options.pubmedqa,
            t5_tokenizer=options.t5_tokenizer,
            cache=options.cache and options.cache.resolve(),
            keep=keep,
            **limits,
        )
        table = tables.markdown(result | {"quick": options.quick})
        if options.write_docs:
            tables.write_docs(ROOT / "docs" / "performance.md", table)
    except (UserError, SideFailed, OSError) as error:
        print(f"benchmarks/run.py: {error}", file=sys.stderr)
        return 2
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
