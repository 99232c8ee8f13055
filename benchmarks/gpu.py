"""The same comparison on one GPU in bfloat16; in: options, out: JSON and a table with MFU, tokens/s, decode share.

One side after the other, so that each has the whole memory; r2d_jax first, whose figures stay where the peer's
do not fit.

python benchmarks/gpu.py --shapes base,large
"""

import argparse
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.measure import PARTS
from benchmarks.options import names, positive
from benchmarks.run import DATA, measure
from benchmarks.sides import SideFailed
from benchmarks.tables import markdown, write_result
from benchmarks.workload import Settings

SHAPES = ("small", "base", "large")
MATMUL_SIZE = 8192
# Dense bfloat16 TFLOP/s without sparsity, as NVIDIA's data sheets have it; the first name that fits.
DATA_SHEET_TFLOPS = {
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "A10": 125.0,
}


def gpu_name() -> str | None:
    """Name of the first GPU; None without one. Asks the driver, so that nothing takes the GPU's memory."""
    if not shutil.which("nvidia-smi"):
        return None
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader", "--id=0"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    return asked.stdout.strip() or None if asked.returncode == 0 else None


def add_utilisation(result: dict[str, Any], name: str) -> None:
    """Add to each training part: MFU, from the data sheet and from the measured matmul rate, and tokens/s.

    MFU counts the matrix products that the step's program holds. With rematerialisation that includes what is
    computed twice, so compare such figures with none from elsewhere.
    """
    sheet = next((value for key, value in DATA_SHEET_TFLOPS.items() if key in name), None)
    result["gpu"] = {"name": name, "data_sheet_tflops": sheet}
    for case in result["cases"]:
        rows, batch = case["rows"], result["settings"]["batch_size"]
        # A step of stage 2 reads the question twice: once for the label, once for the rationale.
        for part, passes in (("stage1", 1), ("stage2_gold", 2), ("stage2_sampled", 2)):
            if part in case["parts"]:
                found = case["parts"][part]
                tokens = batch * (passes * rows["mean_question_tokens"] + rows["mean_rationale_tokens"])
                found["real_tokens_per_sec"] = {
                    side: tokens / found[side]["mean"] for side in ("ours", "peer") if side in found
                }
                found["ours_mfu"] = found["ours_gflops_per_sec"] / (sheet * 1e3) if sheet else None


def utilisation_table(result: dict[str, Any]) -> str:
    """MFU and tokens/s as Markdown."""
    lines = [
        f"GPU: {result['gpu']['name']}, {result['gpu']['data_sheet_tflops']} TFLOP/s by its data sheet.",
        "",
        "| case | part | MFU, r2d_jax | of the measured matmul rate | tokens/s, r2d_jax | tokens/s, peer |",
        "|---|---|---|---|---|---|",
    ]
    for case in result["cases"]:
        for name, part in case["parts"].items():
            if "ours_mfu" in part:
                mfu = f"{100 * part['ours_mfu']:.1f} %" if part["ours_mfu"] is not None else "unknown GPU"
                rate = part["real_tokens_per_sec"]
                peer = f"{rate['peer']:,.0f}" if "peer" in rate else ""
                lines.append(
                    f"| {case['shape']}, {case['data']} | {name} | {mfu} | "
                    f"{100 * part['ours_share_of_matmul_peak']:.1f} % | {rate['ours']:,.0f} | {peer} |"
                )
    return "\n".join([*lines, ""])


def _tables(result: dict[str, Any]) -> str:
    return f"{utilisation_table(result)}\n{markdown(result)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code, 2 without a GPU."""
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.py", description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", type=names(SHAPES), default=["base", "large"], help="small,base,large")
    parser.add_argument("--data", type=names(DATA), default=["pubmedqa"], help="pubmedqa,short")
    parser.add_argument("--parts", type=names(PARTS), default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--batch-size", type=positive, default=64)
    parser.add_argument("--repeats", type=positive, default=12)
    parser.add_argument("--generation-repeats", type=positive, default=3)
    parser.add_argument("--length-buckets", type=positive, default=10, help="each is compiled separately")
    parser.add_argument("--xla-flags", default="", metavar="FLAGS", help="XLA_FLAGS of r2d_jax")
    parser.add_argument("--cache", type=pathlib.Path, help="keep compiled programs here (default: nowhere)")
    parser.add_argument("--remat", choices=("none", "dots", "full"), default="none")
    parser.add_argument("--scan-layers", action="store_true", help="compiles deep models faster")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/benchmark_gpu"))
    parser.add_argument("--pubmedqa", type=pathlib.Path, help="pqal.jsonl (default: ../shared/data/pubmedqa)")
    parser.add_argument("--t5-tokenizer", type=pathlib.Path, help="default: ../shared/data/t5_tokenizer")
    options = parser.parse_args(arguments)
    name = gpu_name()
    if name is None:
        print("benchmarks/gpu.py: no NVIDIA GPU here; benchmarks/run.py measures the CPU", file=sys.stderr)
        return 2
    from r2d_jax.errors import UserError

    settings = Settings(
        batch_size=options.batch_size,
        repeats=options.repeats,
        generation_repeats=options.generation_repeats,
        length_buckets=options.length_buckets,
        xla_flags=options.xla_flags,
        dtype="bfloat16",
        device="gpu",
        remat=options.remat,
        scan_layers=options.scan_layers,
        alternating=False,
    )

    def keep(result: dict[str, Any]) -> None:
        add_utilisation(result, name)
        write_result(options.output, result, _tables(result))

    try:
        result = measure(
            options.shapes,
            options.data,
            options.parts,
            settings,
            pubmedqa=options.pubmedqa,
            t5_tokenizer=options.t5_tokenizer,
            matmul_size=MATMUL_SIZE,
            cache=options.cache and options.cache.resolve(),
            keep=keep,
        )
    except (UserError, SideFailed, OSError) as error:
        print(f"benchmarks/gpu.py: {error}", file=sys.stderr)
        return 2
    print(_tables(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
