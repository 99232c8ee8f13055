"""Words of the triage generator; in: a patient and a seeded stream, out: the note and its three rationales."""

import dataclasses
from typing import NamedTuple

from r2d_jax.data.triage_facts import Draw, Patient
from r2d_jax.data.triage_rules import COMPLAINT, VITAL, Fact

PARTIAL_NURSE = 0.2
LINE_BREAKS = 0.15

_OPENINGS = (
    "{age}-year-old {person} presenting with {x}.",
    "{age} {letter}, onset of {x} {onset}.",
    "{Person}, {age} years, attends with {x} {onset}.",
    "{age} yo {person}, now {x}.",
)
_ONSETS = ("since this morning", "for 2 hours", "since last night")
_PEOPLE = (("man", "M"), ("woman", "F"))
_AGES = tuple(range(18, 79, 3))
_ALSO = ("Also {x}.", "Now also {x}.", "Also onset of {x}.")
_OBSERVATIONS = ("Obs: {x}.", "Vitals: {x}.", "On arrival {x}.", "{X}.")
_ABSENT: dict[str, tuple[str, ...]] = {
    "denied": ("No {x}.", "No sign of {x}.", "Denies {x}."),
    "family": ("Father had {x}.", "Mother had {x}.", "Family history of {x}."),
    "past": ("Had {x} last year, resolved.", "Previous {x}, resolved.", "Past history of {x}, resolved."),
}
_REMARKS = (
    "Arrived by ambulance.",
    "Walked in alone.",
    "Brought in by a neighbour.",
    "Known hypertension.",
    "No known allergies.",
    "Cap refill < 2 s.",
    "Last meal > 3 hours ago.",
)
_REMARK_COUNTS = (0, 1, 1, 2)

_LLM_COMPLAINT = (
    "The patient has {named}, which suggests {meaning}.",
    "The deciding finding is {named}, a sign of {meaning}.",
    "{Named} points to {meaning}.",
)
_LLM_VITAL = (
    "The {named} is {band}, which suggests {meaning}.",
    "The deciding finding is the {named}, which is {band}, a sign of {meaning}.",
    "The {named}, which is {band}, points to {meaning}.",
)
_LLM_CLAUSES = {
    "denied": "The absence of {x} changes nothing.",
    "family": "The family history of {x} does not count.",
    "past": "The past episode of {x} does not count.",
    "present": "The finding of {x} is less pressing.",
}
_LLM_ALONE = "No other finding is more pressing."
_LLM_LEVEL = ("Triage level: {label}.", "This makes the case {label}.")
_NURSE = ("{x}: {label}.", "{x}, so {label}.", "Pt {x} - {label}.")
_NURSE_PARTIAL = ("As above, {label}.", "Gut feeling {label}.", "Clinically {label}.", "See notes, {label}.")
_POLISHED = (
    "The patient has {article}{named}, so the level is {label}.",
    "Because of {article}{named} the level is {label}.",
)


@dataclasses.dataclass(frozen=True)
class Rationales:
    """The explanations of one row.

    Attributes:
        by_source: text by source name: llm, nurse, nurse_polished.
        evidence: phrases of which every complete rationale has one.
        nurse_partial: the nurse's text leaves the deciding finding out.
    """

    by_source: dict[str, str]
    evidence: tuple[str, ...]
    nurse_partial: bool


class Note(NamedTuple):
    """A note and who it is about: age in years, and "man" or "woman". The level depends on neither."""

    text: str
    age: int
    person: str


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _fill(frame: str, x: str) -> str:
    return frame.format(x=x, X=_capital(x))


def write_note(draw: Draw, patient: Patient) -> Note:
    """The note of a patient: opening first, then the other statements in any order."""
    complaints = draw.shuffled([fact for fact in patient.present if fact.value is None])
    chief, *others = [draw.pick(COMPLAINT[fact.key].wordings) for fact in complaints]
    person, letter = draw.pick(_PEOPLE)
    frame, age = draw.pick(_OPENINGS), draw.pick(_AGES)
    opening = frame.format(
        age=age,
        person=person,
        Person=_capital(person),
        letter=letter,
        x=chief,
        onset=draw.pick(_ONSETS),
    )
    statements = [_fill(draw.pick(_ALSO), wording) for wording in others]
    vitals = draw.shuffled([_written(draw, fact) for fact in patient.facts if fact.value is not None])
    statements.append(_fill(draw.pick(_OBSERVATIONS), ", ".join(vitals)))
    for fact in patient.facts:
        if fact.status != "present":
            frames = _ABSENT[fact.status]
            if fact.status == "denied" and not patient.alert:
                frames = frames[:2]
            statements.append(_fill(draw.pick(frames), draw.pick(COMPLAINT[fact.key].wordings)))
    statements += draw.shuffled(_REMARKS)[: draw.pick(_REMARK_COUNTS)]
    joint = "\n" if draw.chance(LINE_BREAKS) else " "
    return Note(joint.join([opening, *draw.shuffled(statements)]), age, person)


def _written(draw: Draw, fact: Fact) -> str:
    vital, value = VITAL[fact.key], fact.value
    assert value is not None
    if fact.signed:
        return vital.signed_format.format(v=vital.edge(vital.band(value)))
    return draw.pick(vital.formats).format(v=vital.number(value), d=5 * round(0.6 * value / 5))


def write_rationales(draw: Draw, patient: Patient, label: str) -> Rationales:
    """The rationales of a patient; they name the true deciding finding and conclude with the given label."""
    fact = patient.deciding
    if fact.value is None:
        complaint = COMPLAINT[fact.key]
        article, named, shorthand = complaint.article, complaint.name, complaint.shorthand
        in_full = f"{article} {named}".strip()
        reason = draw.pick(_LLM_COMPLAINT).format(
            named=in_full, Named=_capital(in_full), meaning=complaint.meaning
        )
    else:
        vital = VITAL[fact.key]
        band = vital.band(fact.value)
        shown = vital.edge(band) if fact.signed else vital.number(fact.value)
        article, named = "an" if vital.name[0] in "aeiou" else "a", f"{vital.name} of {shown}{vital.unit}"
        shorthand = vital.shorthand.format(v=shown)
        reason = draw.pick(_LLM_VITAL).format(named=named, band=vital.in_words(band), meaning=band.meaning)
    llm = " ".join([reason, _clause(patient), draw.pick(_LLM_LEVEL).format(label=label)])
    partial = draw.chance(PARTIAL_NURSE)
    nurse = _capital(draw.pick(_NURSE_PARTIAL if partial else _NURSE).format(x=shorthand, label=label))
    polished = draw.pick(_POLISHED).format(article=f"{article} " if article else "", named=named, label=label)
    texts = {"llm": llm, "nurse": nurse, "nurse_polished": polished}
    return Rationales(texts, tuple(dict.fromkeys((named, shorthand))), partial)


def _clause(patient: Patient) -> str:
    """What is said of the first statement that does not count, else of a lesser complaint."""
    others = [fact for fact in patient.facts if fact != patient.deciding and fact.value is None]
    if not others:
        return _LLM_ALONE
    told = next((fact for fact in others if fact.status != "present"), others[0])
    return _LLM_CLAUSES[told.status].format(x=COMPLAINT[told.key].name)
