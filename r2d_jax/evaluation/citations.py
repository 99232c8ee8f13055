"""Which sentences of an input a rationale cites; in: both texts, out: the sentences, and the input without them."""

import bisect
import dataclasses
import re
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from r2d_jax.data.amounts import KnownAmounts
from r2d_jax.data.composed import Composed, Span
from r2d_jax.data.mentions import fold_white_space
from r2d_jax.data.quantities import Quantity
from r2d_jax.data.sentences import sentences
from r2d_jax.data.statements import Statement, read, statements

_MARKS = '"\u201c\u201d\u201e\u00ab\u00bb'
_QUOTED = re.compile(f"[{_MARKS}]([^{_MARKS}]{{3,300}})[{_MARKS}]")
_MAX_HOLDERS = 2


@dataclasses.dataclass(frozen=True)
class Citations:
    """The sentences of an input and those that a rationale cites.

    Attributes:
        sentences: places in the input as written, in order.
        cited: numbers of the cited ones, in order.
    """

    sentences: tuple[Span, ...]
    cited: tuple[int, ...]

    @property
    def some(self) -> bool:
        """Whether some are cited and some are not, so that removing them can be compared with removing others."""
        return 0 < len(self.cited) < len(self.sentences)


def citations(rationale: str, question: str, ignored: Iterable[str] = ()) -> Citations:
    """The sentences of an input that a rationale cites, by lexical evidence.

    Each statement of the rationale (`statements`) cites the sentences that hold it: a number with its unit, or
    more than half of the stems of a finding, and no other sentence more of them. Denials do not matter here. A
    statement that more than a third of the sentences hold, and more than two, points to none of them. A phrase in
    double quotes cites each sentence that has it word for word.

    Args:
        rationale: any text.
        question: the input, in which sentences, lines and parts between semicolons are told apart.
        ignored: texts whose words point nowhere, such as the label.
    """
    places = sentences(question)
    held = [_Held() for _ in places]
    composed, words, numbers, other_words = read(question)
    starts = [start for start, _ in places]
    for word in words + other_words:
        held[_sentence(composed, word.span, starts)].stems.add(word.stem)
    for number in numbers:
        held[_sentence(composed, number.span, starts)].quantities.append(number.quantity)
    most = max(_MAX_HOLDERS, len(places) // 3)
    cited: set[int] = set()
    for statement in statements(rationale, ignored):
        holders = _holders(statement, held)
        if len(holders) <= most:
            cited.update(holders)
    folded = [_folded(question[slice(*place)]) for place in places]
    for match in _QUOTED.finditer(rationale):
        phrase = _folded(match[1]).strip(".,;:!? ")
        cited.update(number for number, text in enumerate(folded) if phrase and phrase in text)
    return Citations(tuple(places), tuple(sorted(cited)))


@dataclasses.dataclass
class _Held:
    stems: set[str] = dataclasses.field(default_factory=set)
    quantities: list[Quantity] = dataclasses.field(default_factory=list)


def _sentence(composed: Composed, span: Span, starts: Sequence[int]) -> int:
    return max(0, bisect.bisect_right(starts, composed.original(span)[0]) - 1)


def _holders(statement: Statement, held: Sequence[_Held]) -> list[int]:
    if statement.quantity is not None:
        return [
            number
            for number, sentence in enumerate(held)
            if sentence.quantities and KnownAmounts(sentence.quantities).holds(statement.quantity)
        ]
    stems = {word.stem for word in statement.words}
    shared = [len(stems & sentence.stems) for sentence in held]
    most = max(shared, default=0)
    return [number for number, count in enumerate(shared) if count == most] if 2 * most > len(stems) else []


def _folded(text: str) -> str:
    return fold_white_space(text).casefold()


def kept_text(text: str, places: Sequence[Span], kept: Collection[int]) -> str:
    """The text with only some of its sentences, each with the white space after it; in their order.

    Args:
        text: as written.
        places: of its sentences.
        kept: numbers of those to keep.
    """
    ends = [start for start, _ in places[1:]] + [len(text)]
    parts = [text[places[number][0] : ends[number]] for number in sorted(kept)]
    return "".join(parts).rstrip()


def random_sentences(count: int, of: int, *, seed: int, row: int) -> tuple[int, ...]:
    """Numbers of `count` sentences of `of`, all choices alike, drawn by seed and number of the row; in order."""
    drawn = np.random.default_rng([seed, row]).permutation(of)[:count]
    return tuple(sorted(drawn.tolist()))
