"""A result as Markdown; in: the dict that a run writes as JSON, out: tables, alone or between the docs' markers."""

import json
import pathlib
from typing import Any

START, END = "<!-- results: begin -->", "<!-- results: end -->"

NAMES = {
    "stage1": "stage-1 step",
    "stage2_gold": "stage-2 step, gold labels",
    "stage2_sampled": "stage-2 step, sampled labels",
    "label_generation": "labels, to the longest label",
    "long_label_generation": "labels, to {long} tokens",
    "rationale_generation": "rationales, {rationale} tokens",
    "ended_rationale_generation": "rationales as long as the gold ones",
}
# Least peer / ours that is aimed at, and for tiny and small alike from "all".
AIMS = {
    ("small", "stage1"): 1.2,
    ("small", "stage2_gold"): 1.2,
    ("small", "stage2_sampled"): 1.5,
    ("small", "rationale_generation"): 4.0,
    ("small", "label_generation"): 2.0,
    ("tiny", "stage1"): 2.0,
    ("tiny", "stage2_sampled"): 2.5,
}


def markdown(result: dict[str, Any]) -> str:
    """The whole result."""
    machine, settings = result["machine"], result["settings"]
    versions = machine["versions"]
    peaks = result["matmul_peak_gflops"]
    lines = [
        f"{result['created'][:10]}, {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, load "
        f"{machine['load']} before and {machine['load_after']} after; Python {machine['python']}, jax "
        f"{versions['jax']}, torch {versions['torch']}, transformers {versions['transformers']}, commit "
        f"{machine['commit']}. Largest matrix product rate, {settings['dtype']}: jax {peaks['ours']:.0f}, torch "
        f"{peaks['peer']:.0f} GFLOP/s.",
        "",
    ]
    if result.get("quick"):
        lines += ["**Quick: these figures mean nothing.**", ""]
    for case in result["cases"]:
        lines += [*_case(case, settings), ""]
    return "\n".join(lines)


def _spread(found: dict[str, Any]) -> str:
    return f"{_number(found['median'])} ({_number(found['low'])} to {_number(found['high'])})"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _gib(count: float) -> str:
    return f"{count / 2**30:.2f}"


def _case(case: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    rows, parts = case["rows"], case["parts"]
    lines = [
        f"### {case['shape']}, {case['data']}",
        "",
        f"{rows['source']}: {rows['rows']} rows, {rows['mean_question_tokens']:.0f} tokens of question and "
        f"{rows['mean_rationale_tokens']:.0f} of rationale on average, labels up to "
        f"{rows['longest_label_tokens']} tokens; {rows['weights'] / 1e6:.3g} million weights.",
        "",
        "| what | unit | r2d_jax | peer | peer / r2d_jax | of processor time | aim |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, title in NAMES.items():
        if name in parts:
            part = parts[name]
            title = title.format(long=settings["long_label_tokens"], rationale=settings["rationale_tokens"])
            least = AIMS.get((case["shape"], name))
            of_cpu = _number(part["cpu"]["ratio"]["median"]) if "ratio" in part else ""
            told = " | ".join(
                _spread(part[name]) if name in part else "" for name in ("ours", "peer", "ratio")
            )
            lines.append(f"| {title} | s | {told} | {of_cpu} | {f'≥ {least}' if least else ''} |")
    if share := parts.get("label_decode_share"):
        told = " | ".join(
            f"{100 * share[name]['median']:.1f}" if name in share else "" for name in ("ours", "peer")
        )
        aim = "≤ 5 %" if case["shape"] == "small" else ""
        lines.append(f"| label decode, of the sampled step | % | {told} | | | {aim} |")
    if shared := parts.get("shared_decode_share"):
        lines.append(
            f"| label decode that shares the encoder pass | % | {100 * shared['median']:.1f} | | | | |"
        )
    if start := parts.get("start"):
        lines.append(
            f"| start to first step, empty compile cache | s | {start['ours_cold_secs']:.1f} | | | | |"
        )
        lines.append(
            f"| start to first step | s | {_spread(start['ours'])} | {_spread(start['peer'])} | "
            f"{_spread(start['ratio'])} | | |"
        )
    memory = {"stage2_sampled": start["memory"]} if start else {}
    for name, found in (memory | parts.get("memory", {})).items():
        title = NAMES[name].format(rationale=settings["rationale_tokens"])
        aim = "≥ 2" if (case["shape"], name) == ("small", "stage2_sampled") else ""
        lines.append(
            f"| peak memory, {title} | GiB | {_gib(found['ours']['peak_bytes'])} | "
            f"{_gib(found['peer']['peak_bytes'])} | {found['ratio']:.2f} | | {aim} |"
        )
    if pipeline := parts.get("pipeline"):
        for name, title in (("batch_rows_per_sec", "batches"), ("tokenised_rows_per_sec", "tokenising")):
            rates = [found[name] for found in pipeline.values()]
            told = [f"{rate:,.0f}" for rate in rates] + [f"{rates[0] / rate:.2f}" for rate in rates[1:]]
            lines.append(f"| {title} alone | rows/s | {' | '.join((*told, '', '')[:3])} | | |")
    work = [(name, parts[name]) for name in NAMES if "ours_gflops_per_sec" in parts.get(name, {})]
    if work:
        told = "; ".join(
            f"{NAMES[name]} {part['ours_gflops_per_sec']:.0f} GFLOP/s, "
            f"{100 * part['ours_share_of_matmul_peak']:.0f} %"
            for name, part in work
        )
        padding = ", ".join(
            f"{title} {100 * case['sides'][name]['padding_fraction']:.0f} %"
            for name, title in (("ours", "r2d_jax"), ("peer", "peer"))
            if name in case["sides"]
        )
        lines += [
            "",
            f"Matrix products of r2d_jax, and share of the largest rate: {told}. Padding: {padding}.",
        ]
    if ended := parts.get("ended_rationale_generation"):
        longest = ended["longest_tokens"]
        lines += [
            "",
            f"As long as the gold ones: {ended['mean_tokens']:.0f} tokens on average, the longest of each batch "
            f"{min(longest)} to {max(longest)}.",
        ]
    return lines


def write_result(folder: pathlib.Path, result: dict[str, Any], table: str) -> None:
    """Write result.json and result.md.

    Raises:
        OSError: the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    (folder / "result.md").write_text(table, encoding="utf-8")


def write_docs(path: pathlib.Path, table: str) -> None:
    """Put the table between the markers of a Markdown file.

    Raises:
        OSError: the file cannot be read or written.
    """
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{START}\n{table.strip()}\n{END}{after}", encoding="utf-8")
