"""The written triage rules; in: a fact about a patient, out: the urgency level that it alone asks for.

The rules are made up for the generator and are no medical advice; docs/triage.md has them as a table.
"""

import dataclasses
from typing import Literal

LEVELS = ("immediate", "very urgent", "urgent", "standard", "non-urgent")
"""Labels, most urgent first; a level is an index into this tuple."""

Status = Literal["present", "denied", "family", "past"]


@dataclasses.dataclass(frozen=True)
class Complaint:
    """A finding told in words.

    Attributes:
        key: name in facts.
        level: index into LEVELS.
        article: before the name in a sentence; "" for none.
        name: what rationales call it; evidence of a good rationale.
        wordings: how notes call it, whether present or not.
        shorthand: how a nurse's rationale calls it; evidence too.
        meaning: what it suggests.
        painful: a pain score makes sense beside it.
        inheritable: may be told of a relative.
        group: complaints of one group never appear in one note, since they would contradict each other.
    """

    key: str
    level: int
    article: str
    name: str
    wordings: tuple[str, ...]
    shorthand: str
    meaning: str
    painful: bool = False
    inheritable: bool = False
    group: str = ""


@dataclasses.dataclass(frozen=True)
class Band:
    """A range of a vital sign.

    Attributes:
        level: index into LEVELS; None for a normal range, which asks for no level.
        low: lowest value inside; None for no bound.
        high: highest value inside; None for no bound.
        values: the values that notes show, few so that each is seen often.
        meaning: what it suggests; "" for a normal range.
    """

    level: int | None
    low: float | None
    high: float | None
    values: tuple[float, ...]
    meaning: str = ""


@dataclasses.dataclass(frozen=True)
class Vital:
    """A measured finding.

    Attributes:
        key: name in facts.
        name: what rationales call it.
        unit: after a number in rationales, without a space.
        decimals: digits after the point.
        formats: how notes write it; {v} is the value, {d} a diastolic pressure.
        signed_format: how notes write it with < or ≥ before the value.
        shorthand: how a nurse's rationale writes it.
        bands: ranges without gaps.
    """

    key: str
    name: str
    unit: str
    decimals: int
    formats: tuple[str, ...]
    signed_format: str
    shorthand: str
    bands: tuple[Band, ...]

    def band(self, value: float) -> Band:
        """The range that holds a value."""
        for band in self.bands:
            if (band.low is None or value >= band.low) and (band.high is None or value <= band.high):
                return band
        raise ValueError(f"{self.key} {value} is in no range")

    def number(self, value: float) -> str:
        """The value with its usual digits, without unit."""
        return f"{value:.{self.decimals}f}"

    def edge(self, band: Band) -> str:
        """The range as a bound, "< 85" or "≥ 150", without unit; "" where both ends are bounded."""
        if band.low is None and band.high is not None:
            return f"< {self.number(band.high + 10**-self.decimals)}"
        return "" if band.low is None or band.high is not None else f"≥ {self.number(band.low)}"

    def in_words(self, band: Band) -> str:
        """The range as words, "below 85%", "150 or more", "from 85% to 91%"."""
        if band.low is None and band.high is not None:
            return f"below {self.number(band.high + 10**-self.decimals)}{self.unit}"
        assert band.low is not None
        low = f"{self.number(band.low)}{self.unit}"
        return f"{low} or more" if band.high is None else f"from {low} to {self.number(band.high)}{self.unit}"


COMPLAINTS: tuple[Complaint, ...] = (
    Complaint("seizure", 0, "", "seizure activity", ("seizure activity", "generalised convulsions", "continuous fitting"), "fitting", "a brain in danger", inheritable=True),
    Complaint("stridor", 0, "", "stridor", ("stridor", "inspiratory stridor", "high-pitched noisy breathing"), "stridor", "a threatened airway"),
    Complaint("bleeding", 0, "", "uncontrolled bleeding", ("uncontrolled bleeding", "spurting arterial bleeding", "bleeding that soaks every dressing"), "bleeding ++", "life-threatening blood loss"),
    Complaint("chest_pain", 1, "", "crushing chest pain", ("crushing chest pain", "heavy central chest pain", "tight band-like chest pain"), "crushing CP", "a heart attack", painful=True, inheritable=True),
    Complaint("stroke", 1, "", "stroke signs", ("facial droop and slurred speech", "sudden one-sided weakness", "new facial droop"), "FAST pos", "an acute stroke", inheritable=True),
    Complaint("vomiting_blood", 1, "", "vomiting of blood", ("vomiting of blood", "haematemesis", "coffee-ground vomit"), "haematemesis", "bleeding in the gut", inheritable=True, group="vomiting"),
    Complaint("overdose", 1, "an", "overdose of tablets", ("overdose of tablets", "paracetamol overdose", "deliberate overdose"), "OD", "poisoning"),
    Complaint("asthma", 2, "a", "moderate asthma attack", ("moderate asthma attack", "wheezy asthma flare", "asthma with wheeze"), "asthma", "narrowed airways", inheritable=True),
    Complaint("abdominal_pain", 2, "", "constant abdominal pain", ("constant abdominal pain", "persistent belly pain", "unsettling abdominal pain"), "abdo pain", "a surgical abdomen", painful=True, inheritable=True),
    Complaint("wrist", 2, "a", "deformed wrist", ("deformed wrist", "bent and swollen wrist", "obvious wrist deformity"), "deformed wrist", "a displaced fracture", painful=True),
    Complaint("vomiting", 2, "", "persistent vomiting", ("persistent vomiting", "vomiting all day", "repeated vomiting"), "vomiting ++", "loss of fluid", group="vomiting"),
    Complaint("ankle", 3, "an", "ankle sprain", ("ankle sprain", "twisted ankle", "swollen ankle after a twist"), "sprain", "a minor joint injury", painful=True),
    Complaint("cut", 3, "a", "cut that needs closing", ("deep finger cut", "gaping cut on the hand", "cut that needs stitches"), "lac", "a simple wound", painful=True),
    Complaint("urine", 3, "", "painful urination", ("painful urination", "burning on passing urine", "dysuria"), "dysuria", "a urinary infection"),
    Complaint("earache", 3, "an", "earache", ("earache", "painful ear", "ear pain"), "otalgia", "an ear infection", painful=True),
    Complaint("prescription", 4, "a", "repeat prescription request", ("request for repeat prescription", "repeat prescription request", "need of more regular tablets"), "rpt Rx", "an administrative need"),
    Complaint("stitches", 4, "a", "stitch removal", ("removal of stitches", "stitches due out", "suture removal"), "ROS", "planned wound care"),
    Complaint("insect_bite", 4, "an", "insect bite", ("itchy insect bite", "small insect bite", "insect bite"), "insect bite", "a harmless skin reaction", painful=True),
    Complaint("cold", 4, "a", "common cold", ("runny nose", "blocked nose and sneezing", "mild cold"), "URTI", "a mild viral infection"),
    Complaint("graze", 4, "a", "small graze", ("small graze", "superficial graze", "minor scrape"), "graze", "a skin injury that heals alone", painful=True),
)  # fmt: skip

VITALS: tuple[Vital, ...] = (
    Vital(
        "spo2", "oxygen saturation", "%", 0,
        ("SpO2 {v}% on air", "sats {v}%", "oxygen saturation {v}%", "SpO2 {v}%"), "SpO2 {v}%", "sats {v}%",
        (
            Band(0, None, 84, (81, 84), "respiratory failure"),
            Band(1, 85, 91, (85, 88, 91), "respiratory compromise"),
            Band(2, 92, 94, (92, 93, 94), "mild lack of oxygen"),
            Band(None, 95, None, (95, 97, 98, 99)),
        ),
    ),
    Vital(
        "systolic", "systolic pressure", "", 0,
        ("BP {v}/{d}", "blood pressure {v}/{d}", "BP {v}/{d} mmHg"), "systolic BP {v}", "sys {v}",
        (
            Band(0, None, 79, (72, 79), "shock"),
            Band(1, 80, 89, (80, 86, 89), "impending shock"),
            Band(None, 90, None, (90, 104, 116, 128)),
        ),
    ),
    Vital(
        "heart_rate", "heart rate", "", 0,
        ("HR {v}", "pulse {v}", "heart rate {v} bpm"), "HR {v}", "HR {v}",
        (
            Band(None, None, 109, (64, 70, 78, 102)),
            Band(2, 110, 129, (110, 118, 126), "a circulation under strain"),
            Band(1, 130, None, (130, 138, 144), "an unstable rhythm"),
        ),
    ),
    Vital(
        "temperature", "temperature", "", 1,
        ("temp {v}", "T {v} °C", "temperature {v}"), "temp {v}", "T {v}",
        (
            Band(None, None, 37.5, (36.5, 36.8, 37.2)),
            Band(3, 37.6, 38.9, (37.6, 38.4, 38.9), "a mild infection"),
            Band(2, 39.0, None, (39.0, 39.4, 40.3), "a marked infection"),
        ),
    ),
    Vital(
        "gcs", "Glasgow coma score", "", 0,
        ("GCS {v}", "GCS {v}/15", "Glasgow coma score {v}"), "GCS {v}", "GCS {v}",
        (
            Band(0, None, 8, (6, 8), "a coma"),
            Band(1, 9, 14, (9, 12, 14), "clouded consciousness"),
            Band(None, 15, 15, (15,)),
        ),
    ),
    Vital(
        "pain", "pain score", "", 0,
        ("pain {v}/10", "pain score {v}", "pain score {v}/10", "pain {v} out of 10"), "pain {v}/10", "pain {v}/10",
        (
            Band(None, None, 2, (1, 2)),
            Band(3, 3, 4, (3, 4), "mild pain"),
            Band(2, 5, 7, (5, 6, 7), "moderate pain"),
            Band(1, 8, None, (8, 9, 10), "severe pain"),
        ),
    ),
)  # fmt: skip

COMPLAINT = {complaint.key: complaint for complaint in COMPLAINTS}
VITAL = {vital.key: vital for vital in VITALS}


@dataclasses.dataclass(frozen=True)
class Fact:
    """One thing that a note tells.

    Attributes:
        key: of a Complaint or a Vital.
        status: whether the patient has it now; vitals are always present.
        value: of a vital; None for a complaint.
        signed: the note shows the range ("< 85") instead of the value.
    """

    key: str
    status: Status = "present"
    value: float | None = None
    signed: bool = False


def fact_level(fact: Fact) -> int | None:
    """The level that a fact asks for (index into LEVELS); None for what is not so now, or normal."""
    if fact.status != "present":
        return None
    if fact.value is None:
        return COMPLAINT[fact.key].level
    return VITAL[fact.key].band(fact.value).level
