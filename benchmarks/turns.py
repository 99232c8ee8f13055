"""What one side is asked, turn by turn; in: the side and what is measured, out: its answers, section by section."""

import dataclasses
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks.sides import Side
from benchmarks.workload import Settings

TRAINING = ("stage1", "stage2_gold", "stage2_sampled")
GENERATION = {
    "label_generation": "label",
    "long_label_generation": "long_label",
    "rationale_generation": "rationale",
    "ended_rationale_generation": "ended_rationale",
}
PIPELINE_BATCHES = 2000


@dataclasses.dataclass(frozen=True)
class Questions:
    """The same for each side, so that two which are asked at once can take turns.

    Attributes:
        settings: of the run.
        parts: parts to measure; those that are no steps, generations or batches are none of this module's.
        say: told the progress.
    """

    settings: Settings
    parts: Sequence[str]
    say: Callable[[str], None]

    def ask(self, name: str, one: Side, answers: dict[str, Any]) -> Iterator[str]:
        """Put a side's answers into `answers`, by section; yields after each turn the section that it ended, or "".

        Raises:
            SideFailed: the side ended.
        """
        answers["facts"] = one.call("facts")
        answers["losses"] = one.call("check")
        yield "losses"
        generation = [part for part in GENERATION if part in self.parts]
        written = {}
        # Before any step, while the weights of both sides are the same.
        for part in generation:
            self.say(f"{part}: the first rows, {name}")
            written[part] = one.call("generate", kind=GENERATION[part], index=0, same=True)["ids"]
            yield ""
        answers["written"] = written
        yield "written"
        yield from self._training(name, one, answers)
        yield from self._generation(name, one, generation, answers)
        if "pipeline" in self.parts:
            self.say(f"pipeline: {name}")
            answers["pipeline"] = one.call("pipeline", batches=PIPELINE_BATCHES)
            yield "pipeline"
        if name == "ours":
            answers["compiled"] = one.call("compiled")["programs"]
        yield "compiled"

    def _training(self, name: str, one: Side, answers: dict[str, Any]) -> Iterator[str]:
        parts = [part for part in TRAINING if part in self.parts]
        found: dict[str, Any] = {"widths": {}, "steps": {part: {} for part in parts}}
        # One program serves both kinds of stage-2 step.
        for part in {part[:6]: part for part in parts}.values():
            self.say(f"{part}: first steps, {name}")
            found["widths"][part[:6]] = one.call("warm", part=part)["widths"]
            yield ""
        before = one.call("compiled")["programs"] if name == "ours" else {}
        order = list(range(self.settings.repeats))
        random.Random(self.settings.seed).shuffle(order)
        for count, index in enumerate(order):
            # Steps of one batch follow each other, so that their differences are not those of the hour.
            for part in parts:
                answer = found["steps"][part][index] = one.call("step", part=part, index=index)
                self.say(f"{part} {count + 1}/{len(order)}: {name} {answer['secs']:.3g} s")
                yield ""
        if name == "ours":
            after = one.call("compiled")["programs"]
            found["compiled_while_timing"] = sum(after.values()) - sum(before.values())
            found["flops"] = {part: one.call("flops", part=part)["flops"] for part in parts}
            if {"stage2_gold", "stage2_sampled"} <= set(parts):
                found["widths"]["stage2_shared"] = one.call("warm", part="stage2_shared")["widths"]
                found["shared"] = [
                    [
                        one.call("step", part=f"stage2_{kind}", index=index)["secs"]
                        for kind in ("gold", "shared")
                    ]
                    for index in range(self.settings.repeats)
                ]
        answers["training"] = found
        yield "training"

    def _generation(self, name: str, one: Side, parts: list[str], answers: dict[str, Any]) -> Iterator[str]:
        found: dict[str, Any] = {"widths": {}, "batches": {part: [] for part in parts}}
        repeats = self.settings.generation_repeats
        for part in parts:
            found["widths"][part] = one.call("warm_generation", kind=GENERATION[part])["widths"]
            yield ""
            for index in range(repeats):
                answer = one.call("generate", kind=GENERATION[part], index=index)
                found["batches"][part].append(answer)
                self.say(f"{part} {index + 1}/{repeats}: {name} {answer['secs']:.3g} s")
                yield ""
        answers["generation"] = found
        yield "generation"
