"""Numbers with their units; in: a clinical text, out: each Quantity as written and in a form that compares."""

import decimal
import re
import unicodedata
from collections import Counter
from typing import NamedTuple

from r2d_jax.data.composed import Span

# Spellings of units as they follow a number; a bare C must touch it, and F and M alone are mostly the sex.
_SPELLINGS = {
    "%": "% percent per-cent",
    "°c": "°c degrees-c degrees-celsius celsius",
    "°f": "°f degrees-f degrees-fahrenheit fahrenheit",
    "mmhg": "mmhg mm-hg",
    "kpa": "kpa",
    "/min": "/min bpm per-minute per-min beats-per-minute breaths-per-minute beats/min breaths/min",
    "ng": "ng nanogram nanograms",
    "µg": "µg mcg ug microgram micrograms",
    "mg": "mg milligram milligrams",
    "g": "g gram grams",
    "kg": "kg kilogram kilograms",
    "ml": "ml millilitre millilitres milliliter milliliters",
    "l": "l litre litres liter liters",
    "mmol/l": "mmol/l",
    "µmol/l": "µmol/l umol/l",
    "mg/dl": "mg/dl",
    "g/dl": "g/dl",
    "g/l": "g/l",
    "mg/l": "mg/l",
    "ng/ml": "ng/ml",
    "iu/l": "iu/l u/l",
    "iu": "iu unit units",
    "mg/kg": "mg/kg",
    "kg/m²": "kg/m² kg/m2",
    "l/min": "l/min",
    "mm": "mm millimetre millimetres millimeter millimeters",
    "cm": "cm centimetre centimetres centimeter centimeters",
    "s": "s sec secs second seconds",
    "min": "min mins minute minutes",
    "h": "h hr hrs hour hours",
    "d": "d day days",
    "wk": "wk wks week weeks",
    "mo": "month months",
    "yr": "y yr yrs year years yo y/o",
}
_UNIT_OF = {
    spelling.casefold(): unit for unit, spellings in _SPELLINGS.items() for spelling in spellings.split()
}
_ONE_UNIT = "|".join(
    r"[\s-]?".join(map(re.escape, one.split("-"))).replace("°", r"°\s?")
    for one in sorted(_UNIT_OF, key=len, reverse=True)
)
_PATTERN = re.compile(
    rf"""
    (?:(?P<sign>[<>≤≥~≈±]\s?=?|[<>]=)\s*)?
    # Digits of a word are no number: SpO2, B12, COVID-19.
    (?<![\w])(?<![^\W\d_]-)
    (?P<number>
        (?:(?<![\w)\]])[-\u2212+](?=\d))?
        (?:(?<!\d[.,])[1-9]\d{{0,2}}(?:,\d{{3}})+(?:\.\d+)?(?![.,]?\d)  # 12,500
          |(?<!\d[.,])\d+[.,]\d+(?![.,]?\d)                             # 38.5 or 38,5
          |(?<!\d)\.\d+                                                 # .5
          |\d+)                                                         # 38, and each part of a date
    )
    (?P<power>[\u207b\u2070\u00b9\u00b2\u00b3\u2074-\u2079]*)
    # What a letter follows is a word (3rd, 2x), unless it is a unit.
    (?:(?P<unit>C(?!\w)|\s?%|[\s-]?(?i:{_ONE_UNIT})(?!\w))|(?!\w))
    """,
    re.VERBOSE,
)
# The number of a list, and what is before it: the start of a line, or the end of a sentence.
_LIST_MARK = re.compile(
    r"(?:^|(?P<end>[.;:?!])[\"')\]]?(?=\s))[^\S\n]*\(?(?P<number>\d{1,2})[.)](?=\s)", re.MULTILINE
)
_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?")
_BEHIND_A_WORD = re.compile(rf"[\s-]?(?i:{_ONE_UNIT})(?!\w)")


class Quantity(NamedTuple):
    """A number in a text.

    Attributes:
        written: number and unit as they stand there.
        value: the number, so that 39, 39.0 and 39,0 are one.
        unit: in one spelling of several ("/min" for bpm), after a power of superscript digits ("²" of 10²);
            "" where none follows.
        comparison: the sign before it, such as "<"; "" where there is none.
    """

    written: str
    value: decimal.Decimal
    unit: str
    comparison: str


def quantities(text: str) -> list[Quantity]:
    """The numbers of a text in order, each with unit and comparison sign.

    A comma before three digits parts thousands, another one is a decimal comma. Numbers that are written
    as words, digits inside a word (SpO2) and the numbers of a list of two or more items are none. Units are not
    converted.
    """
    # NFC alone: compatibility forms would make 102 of 10².
    return [quantity for quantity, _ in located_quantities(unicodedata.normalize("NFC", text))]


def located_quantities(composed: str) -> list[tuple[Quantity, Span]]:
    """`quantities` of a text in the form NFC, each with its place there, comparison sign left out."""
    marks = _list_marks(composed)
    return [
        (
            Quantity(
                match.group().removeprefix(match["sign"] or "").strip(),
                _value(match["number"]),
                match["power"] + _unit(match["unit"] or ""),
                "".join((match["sign"] or "").split()),
            ),
            (match.start("number"), match.end()),
        )
        for match in _PATTERN.finditer(composed)
        if match.start("number") not in marks
    ]


def _list_marks(composed: str) -> set[int]:
    """Where the numbers of lists of two or more items stand: 1, 2, ... at starts of lines or after sentences."""
    marks: set[int] = set()
    first, last = -1, 0
    for match in _LIST_MARK.finditer(composed):
        number, place = int(match["number"]), match.start("number")
        if number == 1:
            first, last = place, 1
        # Behind a colon or a question a list may begin, but any other number is a value.
        elif last and number == last + 1 and match["end"] not in (":", "?"):
            marks |= {first, place}
            last = number
    return marks


def unit_behind(composed: str, place: int) -> tuple[str, int]:
    """The unit that stands at a place, after a number word, and where it ends; "" and the place without one."""
    match = _BEHIND_A_WORD.match(composed, place)
    return (_unit(match.group()), match.end()) if match else ("", place)


def _value(number: str) -> decimal.Decimal:
    plain = number.replace("\u2212", "-")
    plain = plain.replace(",", "") if _THOUSANDS.fullmatch(plain) else plain.replace(",", ".")
    return decimal.Decimal(plain)


def _unit(found: str) -> str:
    if found == "C":
        return "°c"
    # Blanks of any kind may part number, unit and words of a unit, and so may hyphens.
    folded = re.sub(r"°\s", "°", re.sub(r"^[\s-]+", "", found.casefold()))
    return _UNIT_OF[re.sub(r"\s", "-", folded)] if folded else ""


def changed_quantities(before: str, after: str) -> tuple[int, int]:
    """How many quantities of a text another one drops, and how many it adds.

    Value, unit and comparison sign count, and how often each stands there.

    Returns:
        (dropped, added); (0, 0) where both texts hold the same.
    """
    one, other = (_counted(text) for text in (before, after))
    return (one - other).total(), (other - one).total()


def _counted(text: str) -> Counter[tuple[decimal.Decimal, str, str]]:
    return Counter((one.value, one.unit, one.comparison) for one in quantities(text))


def without_quantities(text: str) -> str:
    """The text with a blank in place of each number and its unit."""
    return _PATTERN.sub(" ", unicodedata.normalize("NFC", text))
