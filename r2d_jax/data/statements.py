"""What a text states, by rules; in: an English text, out: its numbers, and phrases of content words, denied or not."""

import dataclasses
import functools
import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from r2d_jax.data.amounts import Amount, amounts
from r2d_jax.data.composed import Composed, Span
from r2d_jax.data.grounding import is_content, stem
from r2d_jax.data.mentions import places_of
from r2d_jax.data.negation import negations
from r2d_jax.data.quantities import Quantity
from r2d_jax.data.same_names import folded_spelling, names, names_of_unit

Kind = Literal["number", "finding"]
# Raised with every change of what counts as a statement: figures of other rules do not compare.
STATEMENT_RULES = 3
# Words of an argument or of any case note; they find nothing, in any form of the same stem.
_WITHOUT_FINDING = """
    answer argue argument basis case category choose class classify compare compared compatible conclude conclusion
    confirm consider context data decide decision demonstrate described determine diagnosis done evidence explain
    explanation fact factor feature finding found given highlight illustrate imply instead label lead level likely made
    make many mean meant mention merely need nevertheless note noted nothing patient perhaps point possible possibly
    presence present presentation presenting pt question rationale reason record regard require result reveal see seem
    seen show shown sign situation state statement suggest suggestive support suspect suspicion symptom take taken
    triage type warrant way"""
_OF_ARGUMENTS = frozenset(map(stem, _WITHOUT_FINDING.split()))
# Their stems are those of findings too: "additives", "appearance", "imported malaria", "indices", "potentiates".
_OF_NO_OTHER_FORM = """
    additional additionally already although among appear appeared appears clinical clinically consistent consistently
    despite due especially even evident evidently importance important importantly indicate indicated indicates
    indicating indication indications indicative information main mainly otherwise overall particular particularly
    person persons potential potentially primarily probable probably relevance relevant somewhat"""
_AS_WRITTEN = frozenset(_OF_NO_OTHER_FORM.split())
# Idioms of weighing and of joining, of words that elsewhere find something ("blood count", "left hand"): in order.
# One that a case note may mean ("rests on", "cannot count", "comes down to") is none: a finding that is hidden is
# worse than a word of an argument that counts.
_BEGINS, _ENDS = r"(?:(?<![^.,;:!?(])|(?<=[.,;:!?(]\s)|(?<=\bbut\s))", r"(?=\s*(?:[.,;:!?)]|\Z))"
_IDIOMS = (
    r"accounts? for|accounting for",
    r"as (?:opposed to|well)",
    rf"at first(?: (?:glance|look|sight)\b|{_ENDS})|at stake",
    r"(?:cases?|data|evidence|facts?|findings?|information|questions?|situation) at hand",
    r"based on|by far",
    rf"chang(?:e|es|ed) nothing{_ENDS}",
    r"(?:case|evidence|facts?|features?|findings?|information|points?|reasons?|results?|signs?|symptoms?|these|this)"
    r"(?: do(?:es)? not)? carr(?:y|ies|ied)(?: (?:much|more|most|the most|less|little|no|any|some))? weight"
    r"(?! (?:on|with|the)\b)",
    rf"(?:does|do|did|should)(?: not|n['\u2019]t) count(?:{_ENDS}|(?= (?:against|as|here|towards?)\b))",
    r"counts against",
    r"in (?:(?:addition|contrast|general|sum|summary|turn)(?=,)|(?:favou?r|light|spite|terms|view) of\b"
    r"|(?:addition|contrast|order) to\b|(?:keeping|line) with\b)",
    rf"(?:more|most|less|least) (?:compelling|convincing|decisive|pressing{_ENDS}|telling|weighty)",
    r"of (?:little|no|some|great) (?:concern|consequence|importance|note|relevance)",
    rf"{_BEGINS}on (?:balance|the (?:one|other) hand|the whole)(?=,)",
    r"play(?:s|ed|ing)? (?:a|no|any|some)(?: \w+)? (?:part|role)",
    r"sp(?:eak|eaks|oke|eaking) against|speaks? for itself",
    r"tak(?:e|en|ing) into account|first of all",
    r"tip(?:s|ped|ping)? the (?:balance|scales?)(?! at\b)",
    r"weigh(?:s|ed|ing)? (?:against|in favou?r)",
    r"with (?:regard|respect) to",
)
_IDIOM = re.compile(rf"(?<![\w-])(?:{'|'.join(_IDIOMS)})(?![\w-])".replace(" ", r"\s+"), re.IGNORECASE)
_WORD = re.compile(r"(?<!\w)[^\W\d_]\w*")
# Between two words of one phrase.
_JOINED = re.compile(r"(?:[^\S\n]+|[-/'\u2019\u2010\u2011])")
# A word before a value names what was measured, which no denial before it covers: "no fever, HR 110".
_VALUE_BEHIND = re.compile(r"(?:\s*(?:of|is|was|at|to))?(?:\s*[:=<>\u2264\u2265~\u2248])?\s*\d")


class Word(NamedTuple):
    """A content word.

    Attributes:
        stem: folded and without its ending.
        denied: whether a negation covers it.
        span: its place in the composed text.
    """

    stem: str
    denied: bool
    span: Span


@dataclasses.dataclass(frozen=True)
class Statement:
    """One thing that a text states.

    Attributes:
        kind: a number, or a finding: content words in a row.
        span: its place in the composed text.
        quantity: of a number.
        words: of a finding.
    """

    kind: Kind
    span: Span
    quantity: Quantity | None = None
    words: tuple[Word, ...] = ()


class Reading(NamedTuple):
    """A text as rules read it.

    Attributes:
        composed: its composed form, in which all places are.
        words: its content words in order, those of arguments too; words of numbers and of denials are none. A name
            that has a short form is one word ("heart rate", as "HR").
        amounts: its numbers in order, those in words too, "one" without a unit too.
        other_words: the single words of such names, and what its units measure.
    """

    composed: Composed
    words: tuple[Word, ...]
    amounts: tuple[Amount, ...]
    other_words: tuple[Word, ...]


# A rationale and its input are read several times in a row.
@functools.lru_cache(maxsize=16)
def read(text: str) -> Reading:
    """The words and numbers of a text as written."""
    composed = Composed(text)
    denials, numbers = negations(composed.text), amounts(composed.text, bare_one=True)
    length = len(composed.text)
    left_out = _covered([*denials.triggers, *(one.span for one in numbers)], length)
    denied_places = _covered(denials.scopes, length)
    words = []
    for match in _WORD.finditer(composed.text):
        folded, start = match.group().casefold(), match.start()
        if is_content(folded) and not left_out[start]:
            denied = bool(denied_places[start]) and not _VALUE_BEHIND.match(composed.text, match.end())
            words.append(Word(_stem(folded), denied, match.span()))
    others = [
        Word(_stem(name), False, one.span) for one in numbers for name in names_of_unit(one.quantity.unit)
    ]
    joined, end = [], 0
    for start, stop, name in names([one.stem for one in words], _stem):
        joined += [*words[end:start], Word(name, words[stop - 1].denied, _hull(words[start:stop]))]
        others += words[start:stop]
        end = stop
    return Reading(composed, tuple(joined + words[end:]), tuple(numbers), tuple(others))


def _covered(spans: Iterable[Span], length: int) -> bytearray:
    """For each character of a text, 1 where it lies in one of the spans, else 0."""
    covered = bytearray(length)
    for start, end in spans:
        covered[start:end] = b"\1" * (end - start)
    return covered


def _hull(words: Sequence[Word]) -> Span:
    return words[0].span[0], words[-1].span[1]


def _stem(folded: str) -> str:
    return stem(folded_spelling(folded))


def statements(text: str, ignored: Iterable[str] = ()) -> list[Statement]:
    """The numbers and findings of a text, in order; places are in its composed form.

    A finding is a run of content words that only blanks, hyphens and slashes part ("severe chest pain"); function
    words, words of the argument ("suggests", "patient") and those that deny are none.

    Args:
        text: as written.
        ignored: texts whose words are no findings, such as a label; a number that is part of one is none either.
    """
    composed, words, *_ = read(text)
    ignored = tuple(ignored)
    named = _covered(places_of(composed.text, ignored), len(composed.text))
    left_out = _OF_ARGUMENTS | {word.stem for other in ignored for word in read(other).words}
    idioms = _covered([match.span() for match in _IDIOM.finditer(composed.text)], len(composed.text))
    found = [
        one
        for one in words
        if one.stem not in left_out
        and composed.text[slice(*one.span)].casefold() not in _AS_WRITTEN
        and not idioms[one.span[0]]
    ]
    findings = _runs(composed.text, found)
    return sorted(
        [
            Statement("number", one.span, quantity=one.quantity)
            for one in amounts(composed.text)
            if not all(named[slice(*one.span)])
        ]
        + [Statement("finding", _hull(run), words=run) for run in findings],
        key=lambda one: one.span,
    )


def _runs(text: str, found: Sequence[Word]) -> list[tuple[Word, ...]]:
    runs: list[list[Word]] = []
    for word in found:
        if runs and _JOINED.fullmatch(text, runs[-1][-1].span[1], word.span[0]):
            runs[-1].append(word)
        else:
            runs.append([word])
    return [tuple(run) for run in runs]
