"""The sentences of a clinical text; in: a text as written, out: the place of each sentence, line or statement."""

import re

from r2d_jax.data.composed import Span

# Notes go on in lower case after a full stop, so that a capital letter cannot be asked for.
# A run of stops or blanks is looked at from its first one alone, or a long run would take minutes.
_END = re.compile(r"(?<![.!?])[.!?]+[\"'\u201d\u2019)\]]*(?=\s)|;(?=\s)|(?<![^\S\n])[^\S\n]*\n\s*")
_LAST_WORD = re.compile(r"[^\s(\[]+$")
_TITLES = frozenset(("dr", "mr", "mrs", "ms", "prof"))
_SHORTENED = "vs e.g i.e cf approx fig figs al resp incl excl no nr ca c.f st"
_ABBREVIATIONS = frozenset(_SHORTENED.split())
_INITIAL = re.compile(r"(?:\w\.)*\w")


def sentences(text: str) -> list[Span]:
    """The sentences of a text, in order and apart, without the blanks around them.

    A sentence ends at a line break, at a semicolon, or at a full stop, question or exclamation mark with a blank
    after it, but not at an abbreviation ("vs.", "e.g.", "b.i.d. ") with a small letter or digit after it. A
    part without two letters, such as the "1." of a list, goes with what follows it.
    """
    spans: list[Span] = []
    start = counted = letters = 0
    for match in _END.finditer(text):
        letters += sum(map(str.isalpha, text[counted : match.end()]))
        counted = match.end()
        if _is_broken_off(text, match) or letters < 2:
            continue
        spans.append(_stripped(text, start, match.end()))
        start, letters = match.end(), 0
    rest = _stripped(text, start, len(text))
    if rest[0] < rest[1]:
        spans.append(rest)
    return spans


def _is_broken_off(text: str, match: re.Match[str]) -> bool:
    if not match.group().startswith("."):
        return False
    word = _LAST_WORD.search(text, max(0, match.start() - 20), match.start())
    if word is None:
        return False
    last, behind = word.group().casefold(), text[match.end() : match.end() + 20].lstrip()[:1]
    if last in _TITLES:
        return True
    return (behind.islower() or behind.isdigit()) and _is_abbreviation(last)


def _is_abbreviation(last: str) -> bool:
    return last in _ABBREVIATIONS or (
        last.isascii() and not last.isdigit() and bool(_INITIAL.fullmatch(last))
    )


def _stripped(text: str, start: int, end: int) -> Span:
    part = text[start:end]
    left = len(part) - len(part.lstrip())
    return start + left, max(start + left, end - (len(part) - len(part.rstrip())))
