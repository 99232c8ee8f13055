"""Growth as Markdown; in: the result of each axis, out: tables of time and memory per example with their verdicts."""

from collections.abc import Sequence
from typing import Any

from benchmarks.growth_fit import per_example

AXES = {"length": "Input length", "labels": "Labels", "batch": "Batch size", "rows": "Rows"}
UNITS = {
    "length": "input tokens S",
    "labels": "labels",
    "batch": "rows of a batch",
    "rows": "rows of the data set",
}
PARTS = {
    "stage1": "stage-1 step",
    "stage2_sampled": "stage-2 step, sampled labels",
    "label_decode": "label decode",
    "features": "features",
    "label_metrics": "label metrics",
    "intervals": "intervals of macro-F1",
    "label_naming": "labels named in rationales",
    "all_scores": "all scores together",
    "predictions_file": "predictions.jsonl",
    "metrics_file": "metrics.json",
    "console": "console table",
    "report": "HTML report",
    "reading": "reading, drawing splits",
    "content_hash": "label set, content hash",
    "tokenising": "tokenising to the cache",
    "buckets": "choosing buckets",
    "first_batch": "first batch",
    "before_batches": "the way to the first batch",
    "batches": "shuffled batches",
}
_SECS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_BYTES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))


def seconds(value: float) -> str:
    """Such as "3.2 ms"."""
    return _in_units(value, _SECS)


def memory(value: float | None) -> str:
    """Such as "3.2 MiB"; a dash where it is not known."""
    return "–" if value is None else _in_units(value, _BYTES)


def _in_units(value: float, units: Sequence[tuple[float, str]]) -> str:
    size, name = next((one for one in units if value >= one[0]), units[-1])
    number = value / size
    return f"{number:.0f} {name}" if number >= 99.5 else f"{number:.2g} {name}"


def markdown(results: Sequence[dict[str, Any]], plots: str) -> str:
    """All axes.

    Args:
        results: of each axis, as they are written to JSON.
        plots: where the plots lie, seen from the page; "" or ending in "/".
    """
    lines = []
    for result in results:
        lines += [*_axis(result, plots), ""]
    return "\n".join(lines)


def _axis(result: dict[str, Any], plots: str) -> list[str]:
    axis, machine = result["axis"], result["machine"]
    versions = machine["versions"]
    sizes = sorted({point["x"] for point in result["points"]})
    head = " | ".join(f"{size:,}" for size in sizes)
    rule = "|---" * (len(sizes) + 4) + "|"
    lines = [
        f"### {AXES[axis]}",
        "",
        f"![Time and memory per example by {AXES[axis].lower()}]({plots}{axis}.svg)",
        "",
        f"{result['facts']}. {result['created'][:10]}, {machine['cpu']}, {machine['cores']} cores, load "
        f"{machine['load']} before and {machine['load_after']} after; jax {versions['jax']}, commit "
        f"{machine['commit']}.",
        "",
    ]
    if result["quick"]:
        lines += ["**Quick: these figures mean nothing.**", ""]
    lines += [f"| time per example, by {UNITS[axis]} | {head} | exponent | at most | holds |", rule]
    for part, judged in result["parts"].items():
        found = {point["x"]: per_example(point) for point in result["points"] if point["part"] == part}
        cells = [seconds(found[size]["secs"]) if size in found else "" for size in sizes]
        lines.append(f"| {PARTS[part]} | {' | '.join(cells)} | {_verdict(judged['time'])} |")
    lines += ["", f"| memory per example | {head} | exponent | at most | holds |", rule]
    for part, judged in result["parts"].items():
        found = {point["x"]: per_example(point) for point in result["points"] if point["part"] == part}
        for name, verdict in (("bytes", "memory"), ("planned_bytes", "planned_memory")):
            if any(one[name] is not None for one in found.values()):
                cells = [memory(found[size][name]) if size in found else "" for size in sizes]
                title = PARTS[part] + (", as planned" if name == "planned_bytes" else "")
                lines.append(f"| {title} | {' | '.join(cells)} | {_verdict(judged[verdict])} |")
    whole = [max(p["process_bytes"] for p in result["points"] if p["x"] == size) for size in sizes]
    lines.append(f"| the whole process, not per example | {' | '.join(map(memory, whole))} | | | |")
    if axis == "length":
        lines += ["", *_told_fits(result["parts"])]
    return lines


def _verdict(verdict: dict[str, Any] | None) -> str:
    if verdict is None or verdict["exponent"] is None:
        return "| |"
    if verdict["holds"] is None:
        return f"{verdict['exponent']:.2f} | |"
    return f"{verdict['exponent']:.2f} | {verdict['limit']:g} | {'yes' if verdict['holds'] else '**no**'}"


def _told_fits(parts: dict[str, Any]) -> list[str]:
    lines = []
    for part, judged in parts.items():
        told = [f"- {PARTS[part]}:"]
        if fit := judged.get("fit"):
            shares = list(fit["quadratic_share"].items())
            told.append(
                f"{seconds(fit['a'])} + {seconds(fit['b'])} · S + {seconds(fit['c'])} · S²; the last term is "
                f"{_percent(shares[0][1])} of the time at {shares[0][0]} tokens and {_percent(shares[-1][1])} at "
                f"{shares[-1][0]}, and no point is off the fit by more than {_percent(fit['worst_relative_error'])}."
            )
        operations = judged["operations"]
        counted = list(operations["attention_share"].items())
        told.append(
            f"Of the operations of its matrix products attention has {_percent(counted[0][1])} at {counted[0][0]} "
            f"tokens and {_percent(counted[-1][1])} at {counted[-1][0]}; all others are on a straight line of S "
            f"within {100 * operations['off_line']:.2g} %."
        )
        lines.append(" ".join(told))
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
