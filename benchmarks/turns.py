"""The order in which a side is measured; in: a Side and Settings, out: its answers, section by section."""

import collections
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
OURS_ALONE = ("shared",)
"""Sections that the peer has nothing to answer to."""


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

    def sections(self) -> list[str]:
        """In their order; each is asked of processes of its own, for none needs the memory of another.

        T5-small's ten widths of three kinds of steps held 8 GiB of compiled programs and the peer 14 GiB.
        """
        found = []
        if {*GENERATION, *TRAINING, "pipeline"} & set(self.parts):
            found.append("untrained")
        if "stage1" in self.parts:
            found.append("stage1")
        stage2 = {"stage2_gold", "stage2_sampled"}
        if stage2 & set(self.parts):
            found.append("stage2")
        if stage2 <= set(self.parts):
            found.append("shared")
        return found

    def ask(self, section: str, name: str, one: Side, answers: dict[str, Any]) -> Iterator[str]:
        """Put a side's answers into `answers`; yields after each turn the kind of answers that it ended, or "".

        Raises:
            SideFailed: the side ended.
        """
        asked = {"untrained": self._untrained, "shared": self._shared}.get(section)
        yield from asked(name, one, answers) if asked else self._steps(section, name, one, answers)
        if name == "ours":
            programs = collections.Counter(one.call("compiled")["programs"])
            answers["compiled"] = dict(programs + collections.Counter(answers.get("compiled", {})))
        yield "compiled"

    def _untrained(self, name: str, one: Side, answers: dict[str, Any]) -> Iterator[str]:
        """All that is asked while the weights of both sides are the same."""
        answers["facts"] = one.call("facts")
        answers["losses"] = one.call("check")
        yield "losses"
        generation = [part for part in GENERATION if part in self.parts]
        written = {}
        for part in generation:
            self.say(f"{part}: the first rows, {name}")
            written[part] = one.call("generate", kind=GENERATION[part], index=0, same=True)["ids"]
            yield ""
        answers["written"] = written
        yield "written"
        yield from self._generation(name, one, generation, answers)
        if "pipeline" in self.parts:
            self.say(f"pipeline: {name}")
            answers["pipeline"] = one.call("pipeline", batches=PIPELINE_BATCHES)
            yield "pipeline"

    def _steps(self, stage: str, name: str, one: Side, answers: dict[str, Any]) -> Iterator[str]:
        parts = [part for part in TRAINING if part in self.parts and part.startswith(stage)]
        found: dict[str, Any] = {"steps": {part: {} for part in parts}}
        self.say(f"{stage}: first steps, {name}")
        # One program serves both kinds of stage-2 step.
        found["widths"] = one.call("warm", part=parts[-1])["widths"]
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
        answers[stage] = found
        yield stage

    def _shared(self, _: str, one: Side, answers: dict[str, Any]) -> Iterator[str]:
        """Steps whose label decode shares the encoder pass, beside steps without a decode."""
        widths = {part: one.call("warm", part=part)["widths"] for part in ("stage2_gold", "stage2_shared")}
        pairs = []
        for index in range(self.settings.repeats):
            pairs.append([one.call("step", part=part, index=index)["secs"] for part in widths])
            self.say(f"shared {index + 1}/{self.settings.repeats}: {pairs[-1][1]:.3g} s")
            yield ""
        answers["shared"] = {"widths": sum(widths.values()), "pairs": pairs}
        yield "shared"

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
