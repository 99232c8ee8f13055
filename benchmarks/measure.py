"""Measurement of one case; in: a workload and settings, out: seconds, ratios, memory, compile counts."""

import contextlib
import dataclasses
import pathlib
import statistics
import tempfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.sides import Side, SideFailed, side
from benchmarks.turns import GENERATION, OURS_ALONE, TRAINING, Questions
from benchmarks.worker import SIDES
from benchmarks.workload import Settings

OTHERS = ("start", "memory", "pipeline")
PARTS = (*TRAINING, *GENERATION, *OTHERS)
MEMORY_OF = ("stage1", "stage2_sampled", "rationale_generation")
SAME_LOSS = 1e-4
Say = Callable[[str], None]


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median, mean, smallest, largest and all."""
    return {
        "median": statistics.median(values),
        "mean": statistics.fmean(values),
        "low": min(values),
        "high": max(values),
        "values": list(values),
    }


def compared(secs: dict[str, list[float]]) -> dict[str, Any]:
    """Seconds of the sides, repeat by repeat, and of both peer / ours: above 1 ours is faster."""
    found = {name: summary(values) for name, values in secs.items()}
    if len(found) < len(SIDES):
        return found
    ratios = [theirs / own for own, theirs in zip(secs["ours"], secs["peer"], strict=True)]
    return found | {
        "ratio": summary(ratios),
        "ratio_of_means": statistics.fmean(secs["peer"]) / statistics.fmean(secs["ours"]),
    }


@dataclasses.dataclass
class Case:
    """One shape with one data set, as it is being measured."""

    folder: pathlib.Path
    settings: Settings
    parts: Sequence[str]
    cache: pathlib.Path
    peak_gflops: float
    say: Say
    keep: Callable[[], None]

    def run(self, result: dict[str, Any]) -> None:
        """Measure the parts that were asked for into `result`, which is kept after each kind of them.

        Raises:
            SideFailed: a side ended, or the two sides do not compute the same losses.
        """
        result["parts"], result["sides"], result["same"] = {}, {}, {}
        questions = Questions(self.settings, self.parts, self.say)
        answers: dict[str, dict[str, Any]] = {name: {} for name in SIDES}
        for names in [SIDES] if self.settings.alternating else [(name,) for name in SIDES]:
            for section in questions.sections():
                asked = [name for name in names if name == "ours" or section not in OURS_ALONE]
                with contextlib.ExitStack() as stack:
                    turns = [
                        questions.ask(section, name, stack.enter_context(self._side(name)), answers[name])
                        for name in asked
                    ]
                    for ended, *_ in zip(*turns, strict=True):
                        if ended:
                            self._conclude(ended, answers, result)
                            self.keep()
        for part, measured in (("start", self._start), ("memory", self._memory)):
            if part in self.parts:
                result["parts"][part] = measured()
                self.keep()

    def _side(self, name: str) -> contextlib.AbstractContextManager[Side]:
        return side(name, self.folder, self.settings, self.cache)

    def _conclude(self, section: str, answers: dict[str, dict[str, Any]], result: dict[str, Any]) -> None:
        """What a section's answers come to, of the sides that have answered it so far."""
        found = {name: answer[section] for name, answer in answers.items() if section in answer}
        result["sides"] = {name: answer["facts"] for name, answer in answers.items() if answer}
        if section == "losses":
            result["same"] |= self._same(found)
        elif section == "written" and len(found) == len(SIDES):
            result["same"]["written"] = {
                part: _written(*(found[name][part] for name in SIDES)) for part in found["ours"]
            }
        elif section in ("stage1", "stage2"):
            self._training(section, found, result)
        elif section == "shared":
            result["shared_widths"] = found["ours"]["widths"]
            # What the decode takes where it has no encoder pass of its own; ours alone.
            result["parts"]["shared_decode_share"] = summary(_shares(found["ours"]["pairs"]))
        elif section == "generation":
            self._generation(found, result)
        elif section == "pipeline":
            result["parts"]["pipeline"] = found
        elif section == "compiled":
            result["compiled"] = found["ours"]
            result["expected_programs"] = _expected(result)

    def _same(self, losses: dict[str, dict[str, float]]) -> dict[str, Any]:
        """Losses of both sides before any step, while their weights are the same."""
        if len(losses) < len(SIDES):
            return {"losses": losses}
        apart = max(
            abs(value - losses["peer"][name]) / max(1.0, abs(value)) for name, value in losses["ours"].items()
        )
        limit = SAME_LOSS if self.settings.dtype == "float32" else 0.05
        if losses["ours"].keys() != losses["peer"].keys() or not apart <= limit:
            raise SideFailed(f"the sides do not compute the same losses: {losses}")
        return {"losses": losses, "largest_difference": apart}

    def _training(self, stage: str, found: dict[str, Any], result: dict[str, Any]) -> None:
        ours = found["ours"]
        result.setdefault("step_widths", {})[stage] = ours["widths"]
        result.setdefault("compiled_while_timing", {})[stage] = ours["compiled_while_timing"]
        for part, flops in ours["flops"].items():
            steps = {name: answer["steps"][part] for name, answer in found.items()}
            times = _compared_answers({name: [by[i] for i in sorted(by)] for name, by in steps.items()})
            rate = sum(flops) / sum(times["ours"]["values"]) / 1e9
            result["parts"][part] = times | {
                "ours_matmul_flops": flops,
                "ours_gflops_per_sec": rate,
                "ours_share_of_matmul_peak": rate / self.peak_gflops,
            }
        if {"stage2_gold", "stage2_sampled"} <= ours["flops"].keys():
            gold, sampled = (result["parts"][f"stage2_{kind}"] for kind in ("gold", "sampled"))
            pairs = {name: zip(gold[name]["values"], sampled[name]["values"], strict=True) for name in found}
            result["parts"]["label_decode_share"] = {
                name: summary(_shares(of_side)) for name, of_side in pairs.items()
            }

    def _generation(self, found: dict[str, Any], result: dict[str, Any]) -> None:
        result["generation_widths"] = found["ours"]["widths"]
        for part, ours in found["ours"]["batches"].items():
            times = _compared_answers({name: answer["batches"][part] for name, answer in found.items()})
            rows = self.settings.generation_batch_size
            result["parts"][part] = times | {
                "examples_per_sec": {name: rows / times[name]["median"] for name in found},
                "mean_tokens": statistics.fmean(answer["mean_tokens"] for answer in ours),
                "longest_tokens": [answer["longest_tokens"] for answer in ours],
            }

    def _fresh(self, name: str, part: str, cache: pathlib.Path) -> dict[str, Any]:
        """A new process: seconds from its start to the end of the first call, and memory after the second."""
        method, arguments = "step", {"part": part, "index": self.settings.repeats - 1}
        if part in GENERATION:
            method, arguments = "generate", {"kind": GENERATION[part], "index": 0}
        with side(name, self.folder, self.settings, cache) as one:
            one.call(method, **arguments)
            first = one.answered_at - one.started_at
            one.call(method, **arguments)
            memory = one.call("memory")
        self.say(f"new process, {part}: {name} {first:.3g} s, {memory['peak_bytes'] / 2**30:.3g} GiB")
        return {"secs": first, "memory": memory}

    def _start(self) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as cache:
            empty = pathlib.Path(cache)
            cold = self._fresh("ours", "stage2_sampled", empty)["secs"]
            secs: dict[str, list[float]] = {name: [] for name in SIDES}
            memory: dict[str, dict[str, Any]] = {}
            for _ in range(self.settings.generation_repeats):
                for name in SIDES:
                    found = self._fresh(name, "stage2_sampled", empty)
                    secs[name].append(found["secs"])
                    memory[name] = found["memory"]
        return compared(secs) | {"ours_cold_secs": cold, "memory": _with_ratio(memory)}

    def _memory(self) -> dict[str, Any]:
        return {
            part: _with_ratio({name: self._fresh(name, part, self.cache)["memory"] for name in SIDES})
            for part in MEMORY_OF
            if part in self.parts
        }


def _compared_answers(answers: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    wall, cpu = (
        {name: [answer[unit] for answer in rows] for name, rows in answers.items()}
        for unit in ("secs", "cpu_secs")
    )
    return compared(wall) | {"cpu": compared(cpu)}


def _shares(pairs: Iterable[Sequence[float]]) -> list[float]:
    """(sampled - gold) / sampled of pairs of seconds (gold, sampled)."""
    return [(longer - shorter) / longer for shorter, longer in pairs]


def _with_ratio(memory: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return memory | {"ratio": memory["peer"]["peak_bytes"] / memory["ours"]["peak_bytes"]}


def _written(ours: list[list[int]], peer: list[list[int]]) -> dict[str, Any]:
    return {
        "tokens": {"ours": len(ours[0]), "peer": len(peer[0])},
        "different_tokens": len({token for row in ours for token in row}),
        "equal_token_fraction": _equal_tokens(ours, peer),
    }


def _equal_tokens(ours: list[list[int]], peer: list[list[int]]) -> float:
    # Both sides fill up with pad, ours to the limit.
    pairs = [
        (a, b)
        for left, right in zip(ours, peer, strict=True)
        for a, b in zip(left, right, strict=False)
        if a or b
    ]
    return statistics.fmean(a == b for a, b in pairs)


def _expected(result: dict[str, Any]) -> dict[str, int]:
    """How often each program must have been compiled: once, or once for each width of a batch."""
    widths = result.get("generation_widths", {})
    return {
        "loss_sums": 2,
        "train_step": sum(result.get("step_widths", {}).values()) + result.get("shared_widths", 0),
        "_labels": sum(widths.get(part, 0) for part in ("label_generation", "long_label_generation")),
        "_rationales": widths.get("rationale_generation", 0),
        "ended_rationales": widths.get("ended_rationale_generation", 0),
    }
