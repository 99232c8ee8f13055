"""Synthetic emergency-triage rows; in: TriageConfig and a seed, out: Splits with label, rationales and evidence.

The rules are in docs/triage.md. The same configuration and seed give the same rows on every machine.
"""

import dataclasses
import hashlib
import itertools
from typing import Literal

from r2d_jax.config import TriageConfig
from r2d_jax.data.schema import Example, Splits
from r2d_jax.data.subgroups import band_of
from r2d_jax.data.triage_facts import Draw, Patient, draw_patient
from r2d_jax.data.triage_rules import LEVELS
from r2d_jax.data.triage_text import write_note, write_rationales
from r2d_jax.errors import UserError

SPLITS: tuple[Literal["train", "validation", "test"], ...] = ("train", "validation", "test")

AGE_EDGES = (40, 65)
"""Years at which the age bands of the notes begin; the youngest patient is 18."""

_NOTE, _NOISE, _RATIONALE = range(3)
_BUCKETS = 8
_FIRST_TRAIN_BUCKET = 2


@dataclasses.dataclass(frozen=True)
class Row:
    """One generated row with what it was written from.

    Attributes:
        example: the row as the run sees it.
        patient: the facts of the note.
        rule_label: label by the rules; example.label differs from it where label noise struck.
        nurse_partial: the nurse's rationale leaves the deciding finding out.
    """

    example: Example
    patient: Patient
    rule_label: str
    nurse_partial: bool


def generate(config: TriageConfig, seed: int) -> Splits:
    """The three splits.

    Row i of a split does not depend on the number of rows, on other rows or, except for its label and the
    conclusion of its rationales, on label noise. No question is in two splits.

    Args:
        config: sizes, shares of levels, label noise (train only), most distractors.
        seed: 0 or more.

    Raises:
        UserError: class_shares are not five usable numbers.
    """
    sizes = (config.train_rows, config.validation_rows, config.test_rows)
    return Splits(
        *(
            tuple(generate_row(config, seed, split, index).example for index in range(size))
            for split, size in zip(SPLITS, sizes, strict=True)
        )
    )


def generate_row(
    config: TriageConfig, seed: int, split: Literal["train", "validation", "test"], index: int
) -> Row:
    """Row `index` of a split, with its facts.

    Args:
        config: as for `generate`.
        seed: 0 or more.
        split: name of the split.
        index: 0 or more; may exceed the size of the split.

    Raises:
        UserError: class_shares are not five usable numbers.
    """
    shares = config.class_shares
    if len(shares) != len(LEVELS) or min(shares) < 0 or sum(shares) <= 0:
        raise UserError(
            "data.triage.class_shares",
            f"{list(shares)} are not five shares",
            "Give five numbers >= 0, not all 0.",
        )
    key = (seed, SPLITS.index(split), index)
    for attempt in itertools.count():
        draw = Draw(*key, _NOTE, attempt)
        level = draw.weighted(shares)
        patient = draw_patient(draw, level, config.distractors)
        note = write_note(draw, patient)
        if _split_of(note.text) == split:
            break
    noise = Draw(*key, _NOISE)
    noisy = split == "train" and noise.chance(config.label_noise_fraction)
    label = LEVELS[_neighbour(noise, level) if noisy else level]
    rationales = write_rationales(Draw(*key, _RATIONALE), patient, label)
    example = Example(
        f"{split}-{index}",
        note.text,
        label,
        rationales.by_source,
        evidence=rationales.evidence,
        subgroups={"age": band_of(note.age, AGE_EDGES), "sex": note.person},
    )
    return Row(example, patient, LEVELS[level], rationales.nurse_partial)


def _split_of(question: str) -> str:
    """The only split that may hold a question.

    Splits are disjoint by this rule alone, so that no row has to be compared with others, on whose number
    it would then depend. The hash knows nothing of the content, so splits are alike in all else.
    """
    bucket = hashlib.sha256(question.encode()).digest()[0] % _BUCKETS
    return SPLITS[0] if bucket >= _FIRST_TRAIN_BUCKET else SPLITS[1 + bucket]


def _neighbour(draw: Draw, level: int) -> int:
    """The level one step up or down; the two ends have one neighbour."""
    return draw.pick([other for other in (level - 1, level + 1) if 0 <= other < len(LEVELS)])
