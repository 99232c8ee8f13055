"""Short and long names of one thing in clinical notes; in: the stems of a text, out: where such names appear in it."""

import functools
from collections.abc import Callable, Iterator, Sequence

# One thing a line; only names that mean nothing else in most notes.
_NAMES = """
    hr, heart rate, pulse, pulse rate
    bp, blood pressure
    sbp, systolic blood pressure
    dbp, diastolic blood pressure
    rr, respiratory rate, breathing rate, resp rate
    temp, temperature
    spo2, sats, o2 sats, o2 sat, oxygen saturation, saturation
    sob, short breath, breathlessness, breathless, dyspnoea
    gcs, glasgow coma scale, glasgow coma score
    bm, blood glucose, blood sugar, glucose
    wbc, white cell count, white blood cell, leucocyte, leukocyte
    hb, hgb, haemoglobin
    ecg, ekg, electrocardiogram
    mi, myocardial infarction, heart attack
    cva, stroke
    abdo, abdominal, abdomen, belly, tummy
    pt, patient
    hx, history
    crt, cap refill, capillary refill
"""
_BY_UNIT = {
    "°c": "temp",
    "°f": "temp",
    "mmhg": "bp pressure",
    "yr": "age old year",
    "/min": "rate minute",
}


def folded_spelling(word: str) -> str:
    """A folded word with one spelling for British and American ones (haemorrhage, oedema)."""
    return word.replace("ae", "e").replace("oe", "e")


def names(stems: Sequence[str], stem: Callable[[str], str]) -> Iterator[tuple[int, int, str]]:
    """The names in a text, the longest at each place.

    Args:
        stems: of the content words of a text, in order.
        stem: what made them.

    Yields:
        Where a name begins and ends among the words, and the stem of the first of its names, in order.
    """
    known = _known(stem)
    longest = max(map(len, known))
    start = 0
    while start < len(stems):
        for size in range(min(longest, len(stems) - start), 0, -1):
            if first := known.get(tuple(stems[start : start + size])):
                yield start, start + size, first
                start += size - 1
                break
        start += 1


@functools.cache
def _known(stem: Callable[[str], str]) -> dict[tuple[str, ...], str]:
    lines = [line.split(",") for line in _NAMES.strip().splitlines()]
    return {tuple(map(stem, name.split())): stem(line[0].strip()) for line in lines for name in line}


def names_of_unit(unit: str) -> tuple[str, ...]:
    """Words for what a unit measures: a note that says 38.5 °C tells a temperature."""
    return tuple(_BY_UNIT.get(unit, "").split())
