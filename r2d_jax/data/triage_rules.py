"""The written triage rules of the synthetic notes; in: nothing, out: levels, findings, vital limits and wordings."""

import dataclasses

LEVELS = ("immediate", "very urgent", "urgent", "standard", "non-urgent")


@dataclasses.dataclass(frozen=True)
class Finding:
    """A complaint that alone decides a level.

    Attributes:
        level: index into LEVELS.
        name: as rationales call it.
        present: wordings of a note that has it.
        noun: as in "denies ...", "father had ...", "... last year".
        reason: what it points to, for rationales.
        short: a nurse's abbreviation.
    """

    level: int
    name: str
    present: tuple[str, ...]
    noun: str
    reason: str
    short: str


FINDINGS = (
    Finding(0, "an ongoing seizure", ("fitting on arrival", "still convulsing in the room", "shaking fit has not stopped"),
            "seizures", "the brain needs treatment at once", "fitting"),
    Finding(0, "no response to voice", ("does not answer when spoken to", "unresponsive on the trolley", "cannot be woken"),
            "loss of consciousness", "the airway is not protected", "unresp"),
    Finding(0, "a swelling airway", ("tongue and throat are swelling", "noisy breathing with swollen lips", "throat closing up after nuts"),
            "throat swelling", "the airway may close", "airway swelling"),
    Finding(0, "massive bleeding", ("blood is pumping from the thigh wound", "massive bleeding soaks the sheets", "bleeding heavily and cannot be stopped"),
            "heavy bleeding", "blood is being lost fast", "massive bleed"),
    Finding(1, "crushing chest pain", ("crushing pain in the chest", "heavy pressure on the chest", "chest pain going into the left arm"),
            "chest pain", "the heart may be short of blood", "CP"),
    Finding(1, "signs of a stroke", ("one side of the face droops", "arm went weak and speech is slurred", "sudden weakness down one side"),
            "stroke", "the brain may be short of blood", "FAST pos"),
    Finding(1, "vomiting of blood", ("vomited fresh blood", "bringing up blood", "threw up bright red blood twice"),
            "blood in vomit", "there is bleeding inside", "haematemesis"),
    Finding(1, "new confusion", ("newly confused today", "does not know the day or place", "muddled since this morning"),
            "confusion", "the brain is affected", "new conf"),
    Finding(2, "a faint today", ("passed out at work today", "fainted in the shop this morning", "collapsed briefly an hour ago"),
            "fainting", "the rhythm of the heart must be checked", "syncope"),
    Finding(2, "severe belly pain", ("severe pain in the belly", "doubled over with belly cramps", "sharp pain low on the right of the belly"),
            "belly pain", "an operation may be needed", "abdo pain"),
    Finding(2, "a head injury with vomiting", ("hit the head and has vomited since", "fell on the head, sick three times", "banged head, now vomiting"),
            "head injury", "pressure in the head must be ruled out", "HI + vomit"),
    Finding(2, "wheezing", ("wheezing and short of breath", "asthma is acting up, wheezy", "tight chest with wheeze"),
            "asthma attacks", "breathing may get worse", "wheeze"),
    Finding(3, "a deformed wrist", ("wrist is bent after a fall", "fell on the hand, wrist looks crooked", "swollen crooked wrist"),
            "wrist fractures", "an x-ray is needed", "?# wrist"),
    Finding(3, "a deep cut", ("deep cut on the palm", "cut the finger to the fat with a knife", "gaping cut on the shin"),
            "deep cuts", "it must be stitched", "lac"),
    Finding(3, "burning urine", ("burning when passing urine", "stinging urine for three days", "passes water often and it burns"),
            "urine infections", "a urine test is needed", "?UTI"),
    Finding(3, "an earache", ("painful ear since yesterday", "ear hurts and leaks", "earache keeps the patient awake"),
            "ear infections", "the ear must be looked at", "otalgia"),
    Finding(4, "an itchy bite", ("itchy insect bite on the arm", "mosquito bite that itches", "small bite, itching"),
            "insect bites", "it heals by itself", "bite"),
    Finding(4, "a repeat prescription", ("ran out of tablets, wants a repeat", "needs a repeat prescription", "asks for more of the usual tablets"),
            "repeat prescriptions", "the family doctor can do this", "rpt Rx"),
    Finding(4, "a runny nose", ("runny nose for two days", "sneezing and a blocked nose", "has a cold"),
            "colds", "it heals by itself", "coryza"),
    Finding(4, "a small graze", ("small graze on the knee", "scraped elbow, clean", "grazed shin from cycling"),
            "grazes", "a plaster is enough", "graze"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Band:
    """Values of a vital sign that decide a level: low to high, both included, and the limit in words."""

    level: int
    low: int
    high: int
    limit: str


@dataclasses.dataclass(frozen=True)
class Vital:
    """A vital sign.

    Attributes:
        name: as rationales call it; the value stands for {}.
        formats: wordings in a note.
        normal: range of values that decide nothing, both included.
        bands: values that decide a level.
        reason: what an abnormal value points to.
        short: a nurse's abbreviation.
        divisor: values are integers; this turns them into what is written.
    """

    name: str
    formats: tuple[str, ...]
    normal: tuple[int, int]
    bands: tuple[Band, ...]
    reason: str
    short: str
    divisor: int = 1

    def written(self, value: int) -> str:
        """The value as notes and rationales write it."""
        return str(value) if self.divisor == 1 else f"{value / self.divisor:.1f}"


VITALS = (
    Vital("an oxygen saturation of {}%", ("SpO2 {}%", "sats {}% on air", "saturation {}%"), (95, 99),
          (Band(0, 76, 84, "< 85%"), Band(1, 85, 91, "< 92%"), Band(2, 92, 94, "< 95%")),
          "the lungs do not give enough oxygen", "sats {}"),
    Vital("a systolic pressure of {}", ("BP {} systolic", "blood pressure {}", "sys {}"), (105, 150),
          (Band(0, 60, 79, "< 80"), Band(1, 80, 89, "< 90"), Band(2, 200, 220, "≥ 200")),
          "the circulation is in danger", "BP {}"),
    Vital("a heart rate of {}", ("HR {}", "pulse {}", "heart rate {}"), (62, 98),
          (Band(1, 140, 165, "≥ 140"), Band(2, 120, 139, "≥ 120")),
          "the heart is under strain", "HR {}"),
    Vital("a temperature of {}", ("temp {}", "temperature {}", "T {}"), (364, 374),
          (Band(2, 390, 404, "≥ 39"), Band(3, 380, 389, "≥ 38")),
          "there is an infection to look for", "T {}", divisor=10),
)  # fmt: skip

ABSENT = (
    "Denies {}.",
    "No {}.",
    "No history of {}.",
    "Father had {}.",
    "Mother has {}.",
    "Had {} years ago, none now.",
    "Was treated for {} last year, recovered.",
)


def vital_level(vital: Vital, value: int) -> int | None:
    """Level that a value of a vital sign decides, or None where it is normal."""
    return next((band.level for band in vital.bands if band.low <= value <= band.high), None)
