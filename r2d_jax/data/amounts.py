"""Amounts that compare; in: a text with digits or number words, out: its Quantities, and whether it holds another."""

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import NamedTuple

from r2d_jax.data.composed import Span
from r2d_jax.data.quantities import Quantity, located_quantities, unit_behind

_WORDS = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety"""
_UP_TO_NINETEEN, _TENS = _WORDS.split()[:20], _WORDS.split()[20:]
_VALUES = {word: number for number, word in enumerate(_UP_TO_NINETEEN)} | {
    word: 10 * number for number, word in enumerate(_TENS, 2)
}
NUMBER_WORDS = frozenset({*_VALUES, "hundred"})
_ONES, _TEENS = "|".join(_UP_TO_NINETEEN[1:10]), "|".join(_UP_TO_NINETEEN[10:])
_BELOW_100 = rf"(?:(?:{'|'.join(_TENS)})(?:[\s-](?:{_ONES}))?|{_TEENS}|{_ONES})"
_SPELLED = re.compile(
    rf"(?<![\w-])(?:(?:(?:{_ONES}|a)\s)?hundred(?:\s(?:and\s)?{_BELOW_100})?|{_BELOW_100}|zero)(?!\w)",
    re.IGNORECASE,
)
# Unit to the unit it is a fixed multiple of, and the factor; months and years have no fixed number of days.
_MULTIPLES = {
    "kpa": ("mmhg", "7.50062"),
    "ng": ("g", "1e-9"),
    "µg": ("g", "1e-6"),
    "mg": ("g", "1e-3"),
    "kg": ("g", "1e3"),
    "ml": ("l", "1e-3"),
    "µmol/l": ("mmol/l", "1e-3"),
    "mg/dl": ("g/l", "1e-2"),
    "g/dl": ("g/l", "10"),
    "mg/l": ("g/l", "1e-3"),
    "ng/ml": ("g/l", "1e-6"),
    "mm": ("cm", "0.1"),
    "min": ("s", "60"),
    "h": ("s", "3600"),
    "d": ("s", "86400"),
    "wk": ("s", "604800"),
    "yr": ("mo", "12"),
}
# Conversions that come out uneven, so that the converted value is written rounded.
_ROUNDED = ("°c", "mmhg")


class Amount(NamedTuple):
    """A quantity and where it stands in the composed text."""

    quantity: Quantity
    span: Span


def amounts(composed: str, *, bare_one: bool = False) -> list[Amount]:
    """The quantities of a text, those in words (zero to nine hundred and ninety-nine) too, in order.

    Args:
        composed: in the form NFC.
        bare_one: whether "one" counts where no unit follows; it may be a pronoun.
    """
    found = [Amount(*one) for one in located_quantities(composed)]
    taken = [one.span for one in found]
    for match in _SPELLED.finditer(composed):
        unit, end = unit_behind(composed, match.end())
        counts = unit or bare_one or match.group().casefold() != "one"
        if counts and not _overlaps((match.start(), end), taken):
            quantity = Quantity(composed[match.start() : end], _spelled_value(match.group()), unit, "")
            found.append(Amount(quantity, (match.start(), end)))
    return sorted(found, key=lambda one: one.span)


def _overlaps(span: Span, others: Iterable[Span]) -> bool:
    return any(span[0] < end and start < span[1] for start, end in others)


def _spelled_value(words: str) -> Decimal:
    total = 0
    for word in re.split(r"[\s-]", words.casefold()):
        total = max(total, 1) * 100 if word == "hundred" else total + _VALUES.get(word, 0)
    return Decimal(total)


class KnownAmounts:
    """The amounts of a text, to look others up."""

    def __init__(self, quantities: Iterable[Quantity]):
        """Sort them by value, and by the unit that theirs is a multiple of."""
        self._units: dict[Decimal, set[str]] = {}
        self._converted: dict[str, list[tuple[Decimal, str]]] = {}
        for one in quantities:
            self._units.setdefault(one.value, set()).add(one.unit)
            base, value = _in_base_unit(one.value, one.unit)
            self._converted.setdefault(base, []).append((value, one.unit))

    @classmethod
    def of(cls, composed: str) -> "KnownAmounts":
        """Those of a text in the form NFC."""
        return cls(one.quantity for one in amounts(composed, bare_one=True))

    def holds(self, quantity: Quantity) -> bool:
        """Whether the text has this value with the same unit, or one of the two has no unit, or has it converted.

        Degrees and pressures that are converted may be rounded: 101.3 °F is 38.5 °C. Comparison signs do not
        count.
        """
        units = self._units.get(quantity.value, set())
        if units and (not quantity.unit or quantity.unit in units or "" in units):
            return True
        base, value = _in_base_unit(quantity.value, quantity.unit)
        allowed = _half_a_digit(quantity) if base in _ROUNDED else Decimal(0)
        return bool(base) and any(
            unit != quantity.unit and abs(value - known) <= allowed
            for known, unit in self._converted.get(base, ())
        )


def _in_base_unit(value: Decimal, unit: str) -> tuple[str, Decimal]:
    if unit == "°f":
        return "°c", (value - 32) * 5 / 9
    base, factor = _MULTIPLES.get(unit, (unit, "1"))
    return base, value * Decimal(factor)


def _half_a_digit(quantity: Quantity) -> Decimal:
    """How far rounding at the last written digit can move a value, in the base unit."""
    exponent = min(int(quantity.value.as_tuple().exponent), 0)
    step = Decimal(5).scaleb(exponent - 1)
    low, high = (_in_base_unit(quantity.value + sign * step, quantity.unit)[1] for sign in (-1, 1))
    return abs(high - low) / 2
