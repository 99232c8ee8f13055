"""What of a rationale its input says; in: both texts, out: statements without support, and the input that is cited."""

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

from r2d_jax.data.amounts import KnownAmounts
from r2d_jax.data.composed import Span
from r2d_jax.data.statements import Kind, Statement, read, statements
from r2d_jax.evaluation.citations import citations


class Unsupported(NamedTuple):
    """A statement of a rationale that its input does not hold.

    Attributes:
        span: its place in the rationale as written, in code points.
        kind: "number", or "finding".
        text: as written; case text.
        contradicted: the input has all its words, but denies some where the rationale does not, or the reverse.
    """

    span: Span
    kind: Kind
    text: str
    contradicted: bool


@dataclasses.dataclass(frozen=True)
class Support:
    """How much of a rationale its input holds.

    Attributes:
        numbers: how many it states.
        findings: how many it states.
        unsupported: those of both that the input does not hold, in order.
    """

    numbers: int
    findings: int
    unsupported: tuple[Unsupported, ...]

    def count(self, kind: Kind, *, contradicted: bool = False) -> int:
        """How many of a kind are unsupported, or of these how many contradict the input."""
        return sum(one.kind == kind and (one.contradicted or not contradicted) for one in self.unsupported)


def support(rationale: str, question: str, ignored: Iterable[str] = ()) -> Support:
    """Look for the statements of a rationale in its input.

    A number is supported where `KnownAmounts` of the input hold it, in digits or words, in its unit or converted.
    A finding is a run of content words ("severe chest pain"); it is supported where the input has each of its
    words in some form (Snowball stems, common short names), denied at least once where the rationale denies it
    ("no fever") and affirmed at least once where it does not.

    Words are found, not understood: whose finding it is and when, synonyms, abbreviations and comparison signs
    are out of reach, and general knowledge ("an infection") is without support, for the input does not say it.
    Rules and stems are English.

    Args:
        rationale: any text.
        question: the input, question and context.
        ignored: texts whose words and numbers are no statements, such as the label.
    """
    known, source = _Known(question), read(rationale).composed
    found = statements(rationale, ignored)
    unsupported = []
    for one in found:
        if bad := known.unsupported_part(one):
            span = source.original(bad)
            contradicted = known.contradicts(one)
            unsupported.append(Unsupported(span, one.kind, rationale[slice(*span)], contradicted))
    numbers = sum(one.kind == "number" for one in found)
    return Support(numbers, len(found) - numbers, tuple(unsupported))


def unsupported_statements(rationale: str, question: str, ignored: Iterable[str] = ()) -> list[Unsupported]:
    """The statements of a rationale that its input does not hold, in order; see `support`."""
    return list(support(rationale, question, ignored).unsupported)


def cited_spans(rationale: str, question: str, ignored: Iterable[str] = ()) -> list[Span]:
    """Places of the sentences of the input, as written, that the rationale cites; see `citations`."""
    found = citations(rationale, question, ignored)
    return [found.sentences[number] for number in found.cited]


class _Known:
    """The words and numbers of an input."""

    def __init__(self, question: str):
        _, words, numbers, other_words = read(question)
        self._amounts = KnownAmounts(one.quantity for one in numbers)
        self._stems = {(one.stem, one.denied) for one in words + other_words}

    def unsupported_part(self, statement: Statement) -> Span | None:
        """The place of what is unsupported, from its first word to its last; None where nothing is."""
        if statement.quantity is not None:
            return None if self._amounts.holds(statement.quantity) else statement.span
        bad = [word for word in statement.words if (word.stem, word.denied) not in self._stems]
        return (bad[0].span[0], bad[-1].span[1]) if bad else None

    def contradicts(self, statement: Statement) -> bool:
        """Whether the input has each of the words, but some only denied where the statement is not, or the reverse."""
        words = {(word.stem, word.denied) for word in statement.words}
        reversed_words = {(stem, not denied) for stem, denied in words - self._stems}
        return bool(reversed_words) and reversed_words <= self._stems
