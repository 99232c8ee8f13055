"""Alternating measurement of one case; in: a workload and settings, out: seconds, ratios, memory, compile counts."""

import contextlib
import dataclasses
import pathlib
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.sides import Side, SideFailed, side
from benchmarks.worker import SIDES
from benchmarks.workload import Settings

TRAINING = ("stage1", "stage2_gold", "stage2_sampled")
GENERATION = {
    "label_generation": "label",
    "long_label_generation": "long_label",
    "rationale_generation": "rationale",
    "ended_rationale_generation": "ended_rationale",
}
OTHERS = ("start", "memory", "pipeline")
PARTS = (*TRAINING, *GENERATION, *OTHERS)
MEMORY_OF = ("stage1", "stage2_sampled", "rationale_generation")
SAME_LOSS = 1e-4
PIPELINE_BATCHES = 2000
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
    """Both sides' seconds, repeat by repeat, and peer / ours: above 1 ours is faster."""
    ratios = [theirs / own for own, theirs in zip(secs["ours"], secs["peer"], strict=True)]
    return {name: summary(values) for name, values in secs.items()} | {
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
        result["parts"] = {}
        training = [part for part in TRAINING if part in self.parts]
        generation = [part for part in GENERATION if part in self.parts]
        if training or generation or "pipeline" in self.parts:
            with contextlib.ExitStack() as stack:
                sides = {name: stack.enter_context(self._side(name)) for name in SIDES}
                result["sides"] = {name: one.call("facts") for name, one in sides.items()}
                result["same"] = self._same(sides, generation)
                self._training(sides, training, result)
                self.keep()
                self._generation(sides, generation, result)
                if "pipeline" in self.parts:
                    self.say("pipeline")
                    found = {
                        name: one.call("pipeline", batches=PIPELINE_BATCHES) for name, one in sides.items()
                    }
                    result["parts"]["pipeline"] = found
                result["compiled"] = sides["ours"].call("compiled")["programs"]
                result["expected_programs"] = _expected(result)
                self.keep()
        if "start" in self.parts:
            result["parts"]["start"] = self._start()
            self.keep()
        if "memory" in self.parts:
            result["parts"]["memory"] = self._memory()
            self.keep()

    def _side(self, name: str) -> contextlib.AbstractContextManager[Side]:
        return side(name, self.folder, self.settings, self.cache)

    def _same(self, sides: dict[str, Side], generation: list[str]) -> dict[str, Any]:
        """Losses and texts of both sides before any step, while their weights are the same."""
        losses = {name: one.call("check") for name, one in sides.items()}
        apart = max(
            abs(value - losses["peer"][name]) / max(1.0, abs(value)) for name, value in losses["ours"].items()
        )
        limit = SAME_LOSS if self.settings.dtype == "float32" else 0.05
        if losses["ours"].keys() != losses["peer"].keys() or not apart <= limit:
            raise SideFailed(f"the sides do not compute the same losses: {losses}")
        written = {part: self._written(sides, GENERATION[part]) for part in generation}
        return {"losses": losses, "largest_difference": apart, "written": written}

    def _written(self, sides: dict[str, Side], kind: str) -> dict[str, Any]:
        self.say(f"{kind}: the first rows")
        ids = [one.call("generate", kind=kind, index=0, same=True)["ids"] for one in sides.values()]
        return {
            "tokens": {name: len(rows[0]) for name, rows in zip(sides, ids, strict=True)},
            "different_tokens": len({token for row in ids[0] for token in row}),
            "equal_token_fraction": _equal_tokens(*ids),
        }

    def _training(self, sides: dict[str, Side], parts: list[str], result: dict[str, Any]) -> None:
        widths = {}
        # One program serves both kinds of stage-2 step.
        for part in {part[:6]: part for part in parts}.values():
            self.say(f"{part}: first steps")
            widths[part[:6]] = {name: one.call("warm", part=part)["widths"] for name, one in sides.items()}[
                "ours"
            ]
        before = sides["ours"].call("compiled")["programs"]
        answers: dict[str, dict[str, dict[int, Any]]] = {part: {name: {} for name in SIDES} for part in parts}
        order = list(range(self.settings.repeats))
        random.Random(self.settings.seed).shuffle(order)
        for count, index in enumerate(order):
            # Steps of one batch follow each other, so that their differences are not those of the hour.
            for part in parts:
                told = []
                for name, one in sides.items():
                    answer = answers[part][name][index] = one.call("step", part=part, index=index)
                    told.append(f"{name} {answer['secs']:.3g} s")
                self.say(f"{part} {count + 1}/{len(order)}: {', '.join(told)}")
        after = sides["ours"].call("compiled")["programs"]
        result["step_widths"] = widths
        result["compiled_while_timing"] = sum(after.values()) - sum(before.values())
        for part in parts:
            rows = {name: [by[index] for index in sorted(by)] for name, by in answers[part].items()}
            found = _compared_answers(rows)
            flops = sides["ours"].call("flops", part=part)["flops"]
            rate = sum(flops) / sum(found["ours"]["values"]) / 1e9
            result["parts"][part] = found | {
                "ours_matmul_flops": flops,
                "ours_gflops_per_sec": rate,
                "ours_share_of_matmul_peak": rate / self.peak_gflops,
            }
        if {"stage2_gold", "stage2_sampled"} <= set(parts):
            result["parts"]["shared_decode_share"] = self._shared(sides["ours"], result)
            result["parts"]["label_decode_share"] = {
                name: summary(
                    _shares(*(result["parts"][f"stage2_{kind}"][name] for kind in ("gold", "sampled")))
                )
                for name in SIDES
            }

    def _shared(self, ours: Side, result: dict[str, Any]) -> dict[str, Any]:
        """What the decode takes where it has no encoder pass of its own: (shared - gold) / shared, ours alone."""
        result["step_widths"]["stage2_shared"] = ours.call("warm", part="stage2_shared")["widths"]
        pairs = []
        for index in range(self.settings.repeats):
            gold, shared = (
                ours.call("step", part=f"stage2_{kind}", index=index)["secs"] for kind in ("gold", "shared")
            )
            pairs.append((shared - gold) / shared)
        return summary(pairs)

    def _generation(self, sides: dict[str, Side], parts: list[str], result: dict[str, Any]) -> None:
        for part in parts:
            counted: dict[str, list[Any]] = {name: [] for name in SIDES}
            kind = GENERATION[part]
            widths = {name: one.call("warm_generation", kind=kind)["widths"] for name, one in sides.items()}
            result.setdefault("generation_widths", {})[part] = widths["ours"]
            for index in range(self.settings.generation_repeats):
                answers = {name: one.call("generate", kind=kind, index=index) for name, one in sides.items()}
                for name, answer in answers.items():
                    counted[name].append(answer)
                told = ", ".join(f"{name} {answer['secs']:.3g} s" for name, answer in answers.items())
                self.say(f"{part} {index + 1}/{self.settings.generation_repeats}: {told}")
            found = _compared_answers(counted)
            rows = self.settings.generation_batch_size
            result["parts"][part] = found | {
                "examples_per_sec": {name: rows / found[name]["median"] for name in SIDES},
                "mean_tokens": statistics.fmean(answer["mean_tokens"] for answer in counted["ours"]),
                "longest_tokens": [answer["longest_tokens"] for answer in counted["ours"]],
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


def _shares(gold: dict[str, Any], sampled: dict[str, Any]) -> list[float]:
    pairs = zip(gold["values"], sampled["values"], strict=True)
    return [(longer - shorter) / longer for shorter, longer in pairs]


def _with_ratio(memory: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return memory | {"ratio": memory["peer"]["peak_bytes"] / memory["ours"]["peak_bytes"]}


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
        "train_step": sum(result["step_widths"].values()),
        "_labels": sum(widths.get(part, 0) for part in ("label_generation", "long_label_generation")),
        "_rationales": widths.get("rationale_generation", 0),
        "ended_rationales": widths.get("ended_rationale_generation", 0),
    }
