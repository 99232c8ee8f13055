"""What an English clinical text denies; in: a text, out: the places of negations and of the words they cover.

Rules in the manner of NegEx (Chapman et al., J Biomed Inform 34, 2001): a trigger before or after covers a few
words, up to the end of its clause. The libraries that have such rules need spaCy and a model of its own.
"""

import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

from r2d_jax.data.composed import Span

_MAX_WORDS_AHEAD, _MAX_WORDS_BACK = 6, 4
# Without these a text of thousands of denials, as a model that has collapsed writes it, would take minutes.
_AHEAD_CHARACTERS, _BACK_CHARACTERS = 1000, 200


def _phrases(*patterns: str) -> str:
    """Pattern for one of several phrases as whole words, a blank standing for any white space."""
    any_blank = "|".join(pattern.replace(" ", r"\s+") for pattern in patterns)
    return rf"(?<![\w-])(?:{any_blank})(?![\w-])"


# What looks like a negation and denies nothing that follows.
_PSEUDO = _phrases(
    "not (?:only|necessarily)",
    "no doubt",
    "without difficulty",
    "(?:not|cannot|can['\u2019]t)(?: be)? (?:excluded?|ruled? out)",
)
_AT_THE_END = r"(?=\s*(?:[,;.:!?\n)]|and\b|but\b|$))"
_BACK = (
    _phrases("(?:(?:is|are|was|were) )?(?:absent|negative|not (?:present|seen|found|detected))") + _AT_THE_END
    + "|" + _phrases("(?:is|are|was|were|been) (?:denied|excluded|ruled out)")
    + r"|:\s*(?:no|none|nil|negative)" + _AT_THE_END
)  # fmt: skip
_AHEAD = _phrases(
    "no|not|without|never|neither|nor|cannot|absent",
    "den(?:y|ies|ied|ying)",
    r"\w+n['\u2019]t",
    "(?:absence|lack) of|lacks|lacking",
    "negative for",
    "free (?:of|from)",
    "rules? out|ruled out|excludes?",
)
_TRIGGER = re.compile(rf"(?P<pseudo>{_PSEUDO})|(?P<back>{_BACK})|(?P<ahead>{_AHEAD})", re.IGNORECASE)
# A clause ends here, for a scope that goes on or goes back.
_END = re.compile(
    r"[;:!?\n()\[\]]|\.(?!\d)|\s[-\u2013\u2014]\s|"
    + _phrases(
        "but|however|although|though|except|yet|still|which|who|that|because|since|as|so|therefore|with|has|had",
        "presents|presented|reports|reported|complains|shows|showed|suggests?|indicates?",
        "in|between|on|among|at|during|after|before|than|when|while|if|until",
    ),
    re.IGNORECASE,
)
_COMMA = re.compile(r"(?<!\d),|,(?!\d)")
_OR, _AND = re.compile(r"\b(?:or|nor)\b", re.IGNORECASE), re.compile(r"\band\b", re.IGNORECASE)
_WORD = re.compile(r"\w[\w'\u2019-]*")


class Negations(NamedTuple):
    """Where a text denies.

    Attributes:
        triggers: places of the words that deny ("no", "denies", "absence of").
        scopes: places of what is denied.
    """

    triggers: tuple[Span, ...]
    scopes: tuple[Span, ...]


def negations(composed: str) -> Negations:
    """Find what a text denies.

    After a comma a denial goes on only in a list that ends so: "no fever, chills or cough" and "no fever,
    chills, and cough" deny all three, "no fever, severe cough" the fever alone. A denial reaches 1,000 characters.

    Args:
        composed: in the form NFC.
    """
    triggers: list[Span] = []
    scopes: list[Span] = []
    for match in _TRIGGER.finditer(composed):
        triggers.append(match.span())
        if match["ahead"]:
            verb = match["ahead"].casefold().startswith("den")
            scopes += _ahead(composed, match.end(), and_goes_on=verb)
        elif match["back"]:
            scopes += _back(composed, match.start())
    return Negations(tuple(triggers), tuple(scopes))


def _ahead(text: str, start: int, *, and_goes_on: bool) -> list[Span]:
    limit = min(len(text), start + _AHEAD_CHARACTERS)
    end = _END.search(text, start, limit)
    stop = end.start() if end else limit
    commas = [match.start() for match in _COMMA.finditer(text, start, stop)]
    parts = list(zip([start, *(comma + 1 for comma in commas)], [*commas, stop], strict=True))
    last = max((i for i, part in enumerate(parts) if i and _goes_on(text, part, i, and_goes_on)), default=0)
    words = [_words(text, part, _MAX_WORDS_AHEAD) for part in parts[: last + 1]]
    return [_hull(some) for some in words if some]


def _goes_on(text: str, part: Span, number: int, and_goes_on: bool) -> bool:
    """Whether a part after a comma ends a list, so that what came before the comma goes on in it."""
    found = _AND.search(text, *part)
    first = found is not None and not text[part[0] : found.start()].strip()
    return bool(_OR.search(text, *part)) or (found is not None and (and_goes_on or (first and number > 1)))


def _back(text: str, stop: int) -> list[Span]:
    start = max(0, stop - _BACK_CHARACTERS)
    ends = [match.end() for pattern in (_END, _COMMA) for match in pattern.finditer(text, start, stop)]
    words = _words(text, (max(ends, default=start), stop))[-_MAX_WORDS_BACK:]
    return [_hull(words)] if words else []


def _words(text: str, part: Span, most: int | None = None) -> list[Span]:
    return [match.span() for match in itertools.islice(_WORD.finditer(text, *part), most)]


def _hull(words: Sequence[Span]) -> Span:
    return words[0][0], words[-1][1]
