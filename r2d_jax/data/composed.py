"""A text in Unicode's composed form; in: any text, out: the text that rules read, with places in the original."""

import re
import unicodedata

Span = tuple[int, int]
"""Start and end of a part of a text, in code points; text[start:end] is the part."""

# No ASCII character joins the one before it, so that what starts with one is composed on its own.
_PARTS = re.compile(r"[\x00-\x7f]?[^\x00-\x7f]*", re.DOTALL)


class Composed:
    """A text in the form NFC, in which an accented letter is one character, as the rules for words need.

    Attributes:
        text: in this form.
    """

    def __init__(self, original: str):
        """Compose a text; one that is composed already, as most are, costs nothing."""
        self.text = unicodedata.normalize("NFC", original)
        self._places = None if self.text == original else _places(original)

    def original(self, span: Span) -> Span:
        """Where a part of `text` stands in the original, which is never less than it came from."""
        if self._places is None or span[0] >= span[1]:
            return span
        return self._places[span[0]][0], self._places[span[1] - 1][1]


def _places(original: str) -> list[Span]:
    """For each character of the composed text, the part of the original that it came from."""
    places: list[Span] = []
    for match in _PARTS.finditer(original):
        start, part = match.start(), match.group()
        composed = unicodedata.normalize("NFC", part)
        places += (
            [(place, place + 1) for place in range(start, match.end())]
            if composed == part
            else [(start, match.end())] * len(composed)
        )
    return places
