"""Patients of the triage generator; in: a seeded stream and an urgency level, out: facts of which one decides."""

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from r2d_jax.data.triage_rules import COMPLAINT, COMPLAINTS, LEVELS, VITALS, Complaint, Fact, Status, Vital

T = TypeVar("T")

VITAL_DECIDES = 0.4
LESSER_COMPLAINT = 0.35
LESSER_VITAL = 0.35
THIRD_VITAL = 0.5
SIGNED = 0.15
DISTRACTOR_WEIGHTS = (1.0, 2.0, 3.0, 3.0, 0.0)
"""How often a complaint of a level is told as absent: about as often as it is present, or mentioning a
seizure would all but prove that there is none."""


class Draw:
    """Seeded choices, the same on every machine.

    Everything comes from `Generator.random`, whose stream NumPy keeps; its other methods may change.

    Args:
        key: non-negative integers; each key has a stream of its own.
    """

    def __init__(self, *key: int):
        self._uniform = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key))).random

    def below(self, count: int) -> int:
        """An integer from 0 to count - 1."""
        return int(self._uniform() * count)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self._uniform() < probability

    def pick(self, options: Sequence[T]) -> T:
        """One of the options, each as likely."""
        return options[self.below(len(options))]

    def weighted(self, weights: Sequence[float]) -> int:
        """An index, as likely as its weight; never one of weight 0."""
        ends = np.cumsum(weights)
        return int(np.searchsorted(ends, self._uniform() * ends[-1], side="right"))

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """The options in random order."""
        left = list(options)
        return [left.pop(self.below(len(left))) for _ in options]


@dataclasses.dataclass(frozen=True)
class Patient:
    """Facts of one note.

    Attributes:
        deciding: the one fact that asks for the patient's level; all others ask for less, or nothing.
        facts: all facts, in no order.
    """

    deciding: Fact
    facts: tuple[Fact, ...]

    @property
    def alert(self) -> bool:
        """Whether the patient can answer questions."""
        return not any(
            fact.key == "seizure" or (fact.key == "gcs" and fact.value is not None and fact.value < 13)
            for fact in self.present
        )

    @property
    def present(self) -> list[Fact]:
        """What the patient has now, measured values included."""
        return [fact for fact in self.facts if fact.status == "present"]


def draw_patient(draw: Draw, level: int, most_distractors: int) -> Patient:
    """A patient whose most urgent finding has the given level.

    Args:
        draw: the stream.
        level: index into LEVELS.
        most_distractors: findings that do not count (denied, of a relative, past): 0 to this many.
    """
    measured = [vital for vital in VITALS if _values(vital, range(level, level + 1))]
    facts: list[Fact] = []
    if measured and draw.chance(VITAL_DECIDES):
        vital = draw.pick(measured)
        facts.append(_measure(draw, vital, range(level, level + 1)))
        facts.append(_lesser_complaint(draw, level, facts, painful=vital.key == "pain"))
    else:
        facts.append(Fact(draw.pick([c for c in COMPLAINTS if c.level == level]).key))
        if level < len(LEVELS) - 1 and draw.chance(LESSER_COMPLAINT):
            facts.append(_lesser_complaint(draw, level, facts))
    lesser = [vital for vital in _open_vitals(facts) if _values(vital, range(level + 1, len(LEVELS)))]
    if lesser and draw.chance(LESSER_VITAL):
        facts.append(_measure(draw, draw.pick(lesser), range(level + 1, len(LEVELS))))
    vitals = 2 + draw.chance(THIRD_VITAL) - sum(fact.value is not None for fact in facts)
    for _ in range(vitals):
        facts.append(_measure(draw, draw.pick(_open_vitals(facts)), None))
    for _ in range(draw.below(most_distractors + 1)):
        facts.append(_distractor(draw, facts))
    return Patient(facts[0], tuple(facts))


def _values(vital: Vital, levels: range | None) -> list[float]:
    """Values whose range has one of the levels; None for the normal range."""
    return [
        value
        for band in vital.bands
        if (band.level is None if levels is None else band.level in levels)
        for value in band.values
    ]


def _measure(draw: Draw, vital: Vital, levels: range | None) -> Fact:
    value = draw.pick(_values(vital, levels))
    signed = bool(vital.edge(vital.band(value))) and draw.chance(SIGNED)
    return Fact(vital.key, value=value, signed=signed)


def _open_vitals(facts: Sequence[Fact]) -> list[Vital]:
    """Vitals that are not told yet and make sense beside the facts."""
    shut = {fact.key for fact in facts}
    if "seizure" in shut:
        shut |= {"gcs", "pain"}
    # A pain score needs a patient who answers, so it never stands beside a coma score.
    if "gcs" in shut or not any(fact.value is None and COMPLAINT[fact.key].painful for fact in facts):
        shut.add("pain")
    if any(fact.key == "pain" for fact in facts):
        shut.add("gcs")
    return [vital for vital in VITALS if vital.key not in shut]


def _free_complaints(facts: Sequence[Fact], levels: range) -> list[Complaint]:
    told = [COMPLAINT[fact.key] for fact in facts if fact.value is None]
    groups = {complaint.group for complaint in told if complaint.group}
    return [c for c in COMPLAINTS if c.level in levels and c not in told and c.group not in groups]


def _lesser_complaint(draw: Draw, level: int, facts: Sequence[Fact], painful: bool = False) -> Fact:
    # At most two levels below, so that a coma does not stand beside a stitch removal.
    options = _free_complaints(facts, range(level + 1, level + 3))
    return Fact(draw.pick([c for c in options if c.painful or not painful]).key)


def _distractor(draw: Draw, facts: Sequence[Fact]) -> Fact:
    """Drawn without regard to the patient's level, so that what is absent says nothing about it."""
    options = _free_complaints(facts, range(len(LEVELS)))
    complaint = options[draw.weighted([DISTRACTOR_WEIGHTS[option.level] for option in options])]
    statuses: list[Status] = ["denied", "past"]
    if complaint.inheritable:
        statuses += ["family", "family"]
    return Fact(complaint.key, draw.pick(statuses))
