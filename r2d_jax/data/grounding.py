"""What of a rationale stands in its input; in: both texts, out: unsupported numbers and words, share grounded, copy."""

import dataclasses
import functools
import re
import threading
import unicodedata
from collections.abc import Iterable, Sequence

import snowballstemmer

from r2d_jax.data.amounts import NUMBER_WORDS, KnownAmounts
from r2d_jax.data.mentions import places_of
from r2d_jax.data.quantities import located_quantities, without_quantities

# English function words and the words that join an argument; they state nothing about a case.
_WITHOUT_CONTENT = """
    a about above after again against all also although am an and any are as at be because been before being
    below between both but by can cannot could did do does doing down during each either else few for from further
    had has have having he hence her here hers him his how however i if in indeed into is it its itself just less
    may me might more moreover most much must my near neither no nor not now of off on once only or other our out
    over own per rather same shall she should since so some still such than that the their them then there thereby
    therefore these they this those though through thus to too under until up upon us very was we were what when
    where whereas whether which while who whom whose why will with within without would yet you your"""
_FUNCTION_WORDS = frozenset(_WITHOUT_CONTENT.split())
_WORD = re.compile(r"\w+")
_RUN_WORDS = 5


@dataclasses.dataclass(frozen=True)
class Grounding:
    """What of a rationale stands in its input.

    Attributes:
        numbers: how many numbers it holds.
        unsupported_numbers: those, as written, that the input does not hold.
        words: how many different content words it holds.
        unsupported_words: those, folded and without their endings, that the input does not hold.
    """

    numbers: int
    unsupported_numbers: tuple[str, ...]
    words: int
    unsupported_words: tuple[str, ...]

    @property
    def grounded_fraction(self) -> float | None:
        """Share of its numbers and content words that the input holds, 0 to 1; None where it has none."""
        total = self.numbers + self.words
        unsupported = len(self.unsupported_numbers) + len(self.unsupported_words)
        return 1 - unsupported / total if total else None


def grounding(rationale: str, source: str, ignored: Iterable[str] = ()) -> Grounding:
    """Look for the numbers and content words of a rationale in its input.

    A number is supported where `KnownAmounts` of the input hold it: in digits or words, in its unit or
    converted. A word is supported where the input has one of the same stem ("vomited" for "vomiting"). Case
    does not matter.

    Words are found, not understood: negations ("no fever" supports "fever"), whose finding it is,
    comparison signs, synonyms and abbreviations are out of its reach. General knowledge
    ("suggests an infection", a limit of a range) counts as unsupported, for the input does not say it.

    Args:
        rationale: any text.
        source: the input, question and context.
        ignored: texts whose words are not looked at, such as the label, which the input should not hold; nor is a
            number that is part of one.
    """
    ignored, composed = tuple(ignored), unicodedata.normalize("NFC", rationale)
    there = KnownAmounts.of(unicodedata.normalize("NFC", source))
    stems, left_out = _stems(_words(source)), _stems(word for text in ignored for word in _words(text))
    bare = _words(without_quantities(rationale))
    words = sorted({stem(word) for word in bare if is_content(word)} - left_out)
    named = places_of(composed, ignored)
    numbers = [
        one
        for one, (start, end) in located_quantities(composed)
        if not any(first <= start and end <= last for first, last in named)
    ]
    return Grounding(
        len(numbers),
        tuple(one.written for one in numbers if not there.holds(one)),
        len(words),
        tuple(word for word in words if word not in stems),
    )


def copied_fraction(rationale: str, source: str) -> float:
    """Share of a rationale's words that lie in a run of 5 or more words which the input holds word for word.

    A rationale of fewer words is one run. 0.0 for one without words.
    """
    words, known = _in_order(rationale), _in_order(source)
    length = min(_RUN_WORDS, len(words))
    if not length:
        return 0.0
    runs = {tuple(known[i : i + length]) for i in range(len(known) - length + 1)}
    copied = {
        place
        for start in range(len(words) - length + 1)
        if tuple(words[start : start + length]) in runs
        for place in range(start, start + length)
    }
    return len(copied) / len(words)


def word_count(text: str) -> int:
    """How many words and numbers a text has."""
    return len(_in_order(text))


def _in_order(text: str) -> Sequence[str]:
    return _WORD.findall(unicodedata.normalize("NFC", text).casefold())


def _words(text: str) -> set[str]:
    # A number with a unit that touches it (38c, 20mg) is read as a quantity, not as a word.
    return {word for word in _in_order(text) if not word[0].isdigit()}


def is_content(word: str) -> bool:
    """Whether a folded word states something: no function word, number word or single character."""
    return len(word) > 1 and word not in _FUNCTION_WORDS and word not in NUMBER_WORDS


_OF_THREAD = threading.local()


def _stems(words: Iterable[str]) -> set[str]:
    return {stem(word) for word in words}


@functools.lru_cache(maxsize=100_000)
def stem(word: str) -> str:
    """A folded word without its ending, by the Snowball stemmer for English."""
    # A stemmer keeps the word that it works on in itself, so that threads would mix up theirs.
    if not hasattr(_OF_THREAD, "stemmer"):
        _OF_THREAD.stemmer = snowballstemmer.stemmer("english")
    return str(_OF_THREAD.stemmer.stemWord(word))
