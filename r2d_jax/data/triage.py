"""Synthetic emergency-triage notes; in: TriageConfig and a seed, out: Splits with three rationales per row."""

import dataclasses

import numpy as np

from r2d_jax.config import TriageConfig
from r2d_jax.data.schema import Example, Splits
from r2d_jax.data.triage_rules import ABSENT, FINDINGS, LEVELS, VITALS, Band, Finding, Vital, vital_level

_SPLIT_KEYS = {"train": 0, "validation": 1, "test": 2}
_OPENINGS = ("{age} year old {sex}.", "{sex}, {age}.", "{age}{letter}.", "Pt is a {age} year old {sex}.")
_HISTORIES = (
    "Lives alone.",
    "Came with family.",
    "Takes blood pressure tablets.",
    "No regular medication.",
    "Known diabetes.",
    "Walked in.",
    "Brought by ambulance.",
    "Smoker.",
)
_IGNORED = (
    "The other statements do not change this.",
    "What is denied or past does not count.",
    "Nothing else is more urgent.",
)
_PARTIAL_SHARE = 0.2


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is true of a synthetic patient; the label follows from it alone.

    Attributes:
        findings: present complaints, first the main one.
        vitals: values by index into VITALS; all are written in the note.
        absent: complaints that are denied, in the family or past.
    """

    findings: tuple[Finding, ...]
    vitals: tuple[tuple[int, int], ...]
    absent: tuple[Finding, ...]

    @property
    def level(self) -> int:
        """The most urgent level of all that is present, as an index into LEVELS."""
        levels = [finding.level for finding in self.findings]
        levels += [
            level for index, value in self.vitals if (level := vital_level(VITALS[index], value)) is not None
        ]
        return min(levels)


@dataclasses.dataclass(frozen=True)
class _Reason:
    """The deciding finding in words: name, why, limit (vitals only), abbreviation."""

    name: str
    why: str
    limit: str
    short: str


def _pick(rng: np.random.Generator, options: tuple) -> object:
    return options[int(rng.integers(len(options)))]


def _integer(rng: np.random.Generator, low: int, high: int) -> int:
    return int(rng.integers(low, high + 1))


def draw_facts(rng: np.random.Generator, level: int, distractors: int) -> Facts:
    """A patient whose most urgent finding has this level; it is a complaint or a vital sign."""
    bands = [
        (index, band) for index, vital in enumerate(VITALS) for band in vital.bands if band.level == level
    ]
    by_vital = bool(bands) and rng.random() < 0.45
    complaints = [finding for finding in FINDINGS if finding.level == level]
    lesser = [finding for finding in FINDINGS if finding.level > level]
    values = {index: _integer(rng, *vital.normal) for index, vital in enumerate(VITALS)}
    if by_vital:
        index, band = bands[int(rng.integers(len(bands)))]
        values[index] = _integer(rng, band.low, band.high)
        main = lesser[int(rng.integers(len(lesser)))]
    else:
        main = complaints[int(rng.integers(len(complaints)))]
    findings = [main]
    others = [finding for finding in lesser if finding is not main]
    if others and rng.random() < 0.3:
        findings.append(others[int(rng.integers(len(others)))])
    urgent = [finding for finding in FINDINGS if finding.level < 3 and finding not in findings]
    count = _integer(rng, 0, distractors) if distractors else 0
    absent = tuple(urgent[int(index)] for index in rng.permutation(len(urgent))[:count])
    shown = set(map(int, rng.permutation(len(VITALS))[: _integer(rng, 2, 3)]))
    if by_vital:
        shown.add(index)
    return Facts(tuple(findings), tuple((i, values[i]) for i in sorted(shown)), absent)


def write_note(rng: np.random.Generator, facts: Facts) -> str:
    """The note: opening, complaints, vital signs, history and absent findings, in varying order."""
    sex, letter = (("woman", "F"), ("man", "M"))[int(rng.integers(2))]
    age = _integer(rng, 18, 92)
    opening = str(_pick(rng, _OPENINGS)).format(age=age, sex=sex, letter=letter)
    complaints = [f"{_capital(str(_pick(rng, finding.present)))}." for finding in facts.findings]
    vitals = [
        str(_pick(rng, VITALS[index].formats)).format(VITALS[index].written(value))
        for index, value in facts.vitals
    ]
    absent = [str(_pick(rng, ABSENT)).format(finding.noun) for finding in facts.absent]
    measured = ", ".join(vitals[int(index)] for index in rng.permutation(len(vitals))) + "."
    parts = [*complaints, measured, str(_pick(rng, _HISTORIES)), *absent]
    parts = [parts[int(index)] for index in rng.permutation(len(parts))]
    joint = "\n" if rng.random() < 0.15 else " "
    return joint.join([opening, *parts])


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _deciding(facts: Facts) -> _Reason:
    level = facts.level
    for finding in facts.findings:
        if finding.level == level:
            return _Reason(finding.name, finding.reason, "", finding.short)
    for index, value in facts.vitals:
        vital: Vital = VITALS[index]
        band: Band | None = next((b for b in vital.bands if b.low <= value <= b.high), None)
        if band is not None and band.level == level:
            written = vital.written(value)
            return _Reason(vital.name.format(written), vital.reason, band.limit, vital.short.format(written))
    raise AssertionError("no finding has the level")


def write_rationales(rng: np.random.Generator, facts: Facts, label: str) -> dict[str, str]:
    """The three rationales by source; all conclude with `label`, all but partial ones name the finding."""
    reason = _deciding(facts)
    category = LEVELS.index(label) + 1
    limit = f" ({reason.limit})" if reason.limit else ""
    ignored = f" {_pick(rng, _IGNORED)}" if facts.absent else ""
    fluent = (
        f"The patient has {reason.name}{limit}, so {reason.why}.{ignored} Triage level: {label}.",
        f"The deciding finding is {reason.name}{limit}: {reason.why}.{ignored} Triage level: {label}.",
    )
    terse = (
        f"{reason.short}. Cat {category}.",
        f"Cat {category}: {reason.short}.",
        f"{reason.short} -> cat {category}",
    )
    partial = (f"Cat {category}.", f"As seen, cat {category}.")
    return {
        "llm": str(_pick(rng, fluent)),
        "nurse": str(_pick(rng, partial if rng.random() < _PARTIAL_SHARE else terse)),
        "nurse_polished": f"{_capital(reason.name)}{limit}. Triage level: {label}.",
    }


def generate_row(
    config: TriageConfig, seed: int, split: str, index: int, attempt: int = 0
) -> tuple[Example, Facts]:
    """Row `index` of a split: a function of the arguments alone, whatever the number of rows.

    Labels are drawn with config.class_shares. With label noise, that share of train rows gets the label
    of a neighbouring level, in all rationales too; validation and test stay clean, so the best reachable
    test macro-F1 is 1.0 at any noise.
    """
    rng = np.random.Generator(
        np.random.PCG64(np.random.SeedSequence([seed, _SPLIT_KEYS[split], index, attempt]))
    )
    shares = np.array(config.class_shares, float)
    level = int(rng.choice(len(LEVELS), p=shares / shares.sum()))
    facts = draw_facts(rng, level, config.distractors)
    note = write_note(rng, facts)
    given = facts.level
    if split == "train" and rng.random() < config.label_noise_fraction:
        given = given + 1 if given == 0 or (given < len(LEVELS) - 1 and rng.random() < 0.5) else given - 1
    label = LEVELS[given]
    # Without its article, so that it is found at the start of a sentence too.
    evidence = (_deciding(facts).name.removeprefix("a ").removeprefix("an "),)
    return Example(
        f"{split}-{index}", note, label, write_rationales(rng, facts, label), evidence=evidence
    ), facts


def generate(config: TriageConfig, seed: int) -> Splits:
    """Rows of all splits; no note stands twice. The rules are in docs/triage.md."""
    seen: set[str] = set()
    rows: dict[str, list[Example]] = {}
    counts = {"train": config.train_rows, "validation": config.validation_rows, "test": config.test_rows}
    for split, count in counts.items():
        rows[split] = []
        for index in range(count):
            attempt = 0
            example, _ = generate_row(config, seed, split, index)
            while example.question in seen:
                attempt += 1
                example, _ = generate_row(config, seed, split, index, attempt)
            seen.add(example.question)
            rows[split].append(example)
    return Splits(tuple(rows["train"]), tuple(rows["validation"]), tuple(rows["test"]))
