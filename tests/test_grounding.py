"""Numbers with units, and what of a rationale stands in its input: clinical examples worked out by hand."""

import concurrent.futures
import decimal
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2d_jax.data.grounding import copied_fraction, grounding, stem, word_count
from r2d_jax.data.quantities import changed_quantities, quantities


def read(text):
    return [(str(one.value), one.unit, one.comparison) for one in quantities(text)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("T 38.5 °C, HR 110 bpm", [("38.5", "°c", ""), ("110", "/min", "")]),
        ("temp 38,5C and 38 ° C", [("38.5", "°c", ""), ("38", "°c", "")]),
        ("BP 120/80 mmHg", [("120", "", ""), ("80", "mmhg", "")]),
        ("BP 90/55 mm Hg", [("90", "", ""), ("55", "mmhg", "")]),
        ("SpO2 < 85%, lactate >=4 mmol/L", [("85", "%", "<"), ("4", "mmol/l", ">=")]),
        ("on room air 98%RA", [("98", "%", "")]),
        (
            "66 F, 45-year-old, 36 yo, 7 years",
            [("66", "", ""), ("45", "yr", ""), ("36", "yr", ""), ("7", "yr", "")],
        ),
        ("5 µg, 5 \u03bcg, 5 mcg", [("5", "µg", "")] * 3),
        ("WBC 12,500, platelets 150,000.5", [("12500", "", ""), ("150000.5", "", "")]),
        ("0,125 mg and .5 mg", [("0.125", "mg", ""), ("0.5", "mg", "")]),
        ("22 breaths per minute, 3 L/min", [("22", "/min", ""), ("3", "l/min", "")]),
        ("5-7 days", [("5", "", ""), ("7", "d", "")]),
        ("base excess -2.5 or \u22122.5", [("-2.5", "", ""), ("-2.5", "", "")]),
        ("24.12.2025, 2024-01-02", [(n, "", "") for n in ("24", "12", "2025", "2024", "1", "2")]),
        ("5 minimum, 3 male, 2 cms", [("5", "", ""), ("3", "", ""), ("2", "", "")]),
        ("BMI 31 kg/m2, 31 kg/m²", [("31", "kg/m²", "")] * 2),
        ("10² cells, 10⁻³ mg", [("10", "²", ""), ("10", "⁻³mg", "")]),
        ("3rd, 2x, 0I0", []),
        ("SpO2 B12 COVID-19 T5 HbA1c", []),
        ("no number, two days", []),
    ],
)
def test_numbers_and_units(text, wanted):
    assert read(text) == [(str(decimal.Decimal(value)), unit, sign) for value, unit, sign in wanted]


@pytest.mark.parametrize(
    ("before", "after", "wanted"),
    [
        ("T 38.5 °C, HR 110", "The temperature is 38.5 degrees Celsius with a heart rate of 110.", (0, 0)),
        ("T 39", "A temperature of 39.0", (0, 0)),
        ("HR 110 bpm, BP 80/50", "A heart rate of 110 bpm and low pressure", (2, 0)),
        ("HR 110", "A heart rate of 110 and a pressure of 90", (0, 1)),
        ("HR 110", "A heart rate of 101", (1, 1)),
        ("5 mg", "5 g", (1, 1)),
        ("HR 110", "HR 110 bpm", (1, 1)),
        ("BP < 90", "BP of 90", (1, 1)),
        ("10²", "102", (1, 1)),
        ("pain 8, RR 8", "pain of 8", (1, 0)),
    ],
)
def test_changes_of_numbers(before, after, wanted):
    assert changed_quantities(before, after) == wanted


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_is_read(one, other):
    assert changed_quantities(one, one) == (0, 0)
    dropped, added = changed_quantities(one, other)
    assert dropped - added == len(quantities(one)) - len(quantities(other))
    found = grounding(one, other)
    assert found.grounded_fraction is None or 0 <= found.grounded_fraction <= 1
    assert not grounding(one, one).unsupported_numbers
    assert not grounding(one, one).unsupported_words
    assert 0 <= copied_fraction(one, other) <= 1
    assert copied_fraction(one, one) == (1.0 if word_count(one) else 0.0)


NOTE = "62 yo man. Vomited blood two times since 6 hours. BP 85/50 mmHg, HR 124 bpm, SpO2 97%. Denies fever."


@pytest.mark.parametrize(
    ("rationale", "numbers", "unsupported_numbers", "unsupported_words"),
    [
        ("Vomiting of blood with a pressure of 85/50.", 2, (), ("pressur",)),
        ("Heart rate 142 and BP 85/50 mmHg.", 3, ("142",), ("heart", "rate")),
        ("He vomited 2 times in 6 h.", 2, (), ()),
        ("A 62-year-old with SpO2 97.", 2, (), ("old",)),
        # The unit is another one: 97 % is not 97 bpm.
        ("HR 97 bpm.", 1, ("97 bpm",), ()),
        # Beyond the rules: a negation, and whose finding it is.
        ("He has fever.", 0, (), ()),
        ("So it is.", 0, (), ()),
        ("", 0, (), ()),
    ],
)
def test_what_stands_in_the_input(rationale, numbers, unsupported_numbers, unsupported_words):
    found = grounding(rationale, NOTE)
    assert (found.numbers, found.unsupported_numbers) == (numbers, unsupported_numbers)
    assert found.unsupported_words == unsupported_words


def test_the_share_is_of_numbers_and_different_words():
    # vomit, blood, shock, shock: three words, one without support; 85 stands there, 30 does not.
    found = grounding("Vomited blood: BP 85. Shock, shock index 30.", NOTE, ignored=["index"])
    assert (found.words, found.numbers, len(found.unsupported_words)) == (4, 2, 1)
    assert found.grounded_fraction == pytest.approx(4 / 6)
    assert grounding("So it is.", NOTE).grounded_fraction is None
    assert grounding("This is very urgent.", NOTE, ignored=["Very Urgent"]).words == 0
    found = grounding("So it is esi  3, not ESI 4.", NOTE, ignored=["ESI 3"])
    assert (found.numbers, found.unsupported_numbers) == (1, ("4",))


@pytest.mark.parametrize(
    ("rationale", "wanted"),
    [
        ("vomited blood two times since", 1.0),
        ("He VOMITED blood two times since yesterday", 5 / 7),
        ("vomited blood two times yesterday", 0.0),
        ("Denies fever", 1.0),
        ("has fever", 0.0),
        ("", 0.0),
    ],
)
def test_copies(rationale, wanted):
    assert copied_fraction(rationale, NOTE) == pytest.approx(wanted)


def test_gold_rationales_are_grounded_in_their_own_abstract(shared_data):
    lines = (shared_data / "pubmedqa" / "pqal.jsonl").read_text(encoding="utf-8").splitlines()[:200]
    rows = [json.loads(line) for line in lines]
    texts = [f"{row['question']} {row['context']}" for row in rows]

    def shares(sources):
        return [
            grounding(row["rationale"], source).grounded_fraction
            for row, source in zip(rows, sources, strict=True)
        ]

    own, other = shares(texts), shares(texts[1:] + texts[:1])
    assert sum(a > b for a, b in zip(own, other, strict=True)) >= 199
    assert sorted(own)[10] > sorted(other)[-10]


ENDINGS = ("s", "ed", "ing", "ings", "er", "ally", "iveness", "ization")


def test_threads_do_not_mix_up_their_words():
    """A server stems the words of several notes at once; some got the ending of another, or an internal error."""
    words = [
        f"{start}{middle}{end}"
        for start in "bdfgpt"
        for middle in ("leed", "ation", "ind")
        for end in ENDINGS
    ]
    expected = []
    for word in words:
        stem.cache_clear()
        expected.append(stem(word))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for _ in range(20):
                stem.cache_clear()
                assert list(pool.map(stem, words)) == expected
    finally:
        sys.setswitchinterval(interval)
