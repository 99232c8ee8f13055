"""Characters that a vocabulary lacks, as written markers; in: a test of characters, out: the markers needed."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping

# Markers are words in brackets: a pretrained model knows the words, and a person can read them.
# T5's own normaliser would turn 10² into 102 and ½ into 1⁄2, so such characters are listed too.
_SIGNS = {
    "<": "[less than]",
    ">": "[more than]",
    "≤": "[at most]",
    "≥": "[at least]",
    "⩽": "[less or equal]",
    "⩾": "[more or equal]",
    "≲": "[less or about]",
    "≳": "[more or about]",
    "≃": "[about equal]",
    "≦": "[no more than]",
    "≧": "[no less than]",
    "≮": "[not less than]",
    "≯": "[not more than]",
    "≪": "[much less than]",
    "≫": "[much more than]",
    "≠": "[not equal]",
    "≈": "[approximately]",
    "~": "[about]",
    "±": "[plus minus]",
    "×": "[times]",
    "÷": "[divided by]",
    "−": "[minus]",
    "∞": "[infinity]",
    "√": "[root]",
    "∼": "[similar to]",
    "∆": "[increment]",
    "{": "[open brace]",
    "}": "[close brace]",
    "^": "[caret]",
    "\\": "[backslash]",
    "`": "[backtick]",
    "|": "[bar]",
    "_": "[underscore]",
    "→": "[to]",
    "←": "[from]",
    "↑": "[up]",
    "↓": "[down]",
    "↔": "[both ways]",
    "↗": "[rising]",
    "↘": "[falling]",
    "⇑": "[double up]",
    "⇓": "[double down]",
    "▲": "[triangle up]",
    "▼": "[triangle down]",
    "⇒": "[implies]",
    "°": "[degree]",
    "µ": "[micro]",
    "²": "[squared]",
    "³": "[cubed]",
    "¹": "[superscript 1]",
    "⁰": "[superscript 0]",
    "⁴": "[superscript 4]",
    "⁵": "[superscript 5]",
    "⁶": "[superscript 6]",
    "⁷": "[superscript 7]",
    "⁸": "[superscript 8]",
    "⁹": "[superscript 9]",
    "⁻": "[superscript minus]",
    "⁺": "[superscript plus]",
    "₀": "[subscript 0]",
    "₁": "[subscript 1]",
    "₂": "[subscript 2]",
    "₃": "[subscript 3]",
    "₄": "[subscript 4]",
    "₅": "[subscript 5]",
    "₆": "[subscript 6]",
    "₇": "[subscript 7]",
    "₈": "[subscript 8]",
    "₉": "[subscript 9]",
    "ⁿ": "[superscript n]",
    "½": "[one half]",
    "¼": "[one quarter]",
    "¾": "[three quarters]",
    "‰": "[per mille]",
    "™": "[trademark]",
    "®": "[registered]",
    "…": "[ellipsis]",
    "·": "[middle dot]",
    "∙": "[bullet operator]",
    "†": "[dagger]",
    "‡": "[double dagger]",
    "§": "[section]",
    "¶": "[paragraph]",
    "©": "[copyright]",
    "´": "[acute accent]",
    "˙": "[dot above]",
    "\u2010": "[hyphen]",
    "\u2011": "[nonbreaking hyphen]",
    "′": "[prime]",
    "″": "[double prime]",
    "♀": "[female]",
    "♂": "[male]",
    "✓": "[check]",
    "✔": "[heavy check]",
    "✗": "[cross]",
    "✘": "[heavy cross]",
    "☐": "[empty box]",
    "☑": "[checked box]",
    "☒": "[crossed box]",
    "⊕": "[circled plus]",
    "⊖": "[circled minus]",
    "⁄": "[fraction slash]",
    "⅓": "[one third]",
    "⅔": "[two thirds]",
    "⅕": "[one fifth]",
    "⅖": "[two fifths]",
    "⅗": "[three fifths]",
    "⅘": "[four fifths]",
    "⅙": "[one sixth]",
    "⅚": "[five sixths]",
    "⅐": "[one seventh]",
    "⅛": "[one eighth]",
    "⅜": "[three eighths]",
    "⅝": "[five eighths]",
    "⅞": "[seven eighths]",
    "⅑": "[one ninth]",
    "⅒": "[one tenth]",
    "⇔": "[equivalent]",
    "≡": "[identical]",
    "≅": "[congruent]",
    "∝": "[proportional]",
    "\n": "[newline]",
    "æ": "[letter ae]",
    "Æ": "[letter AE]",
    "œ": "[letter oe]",
    "Œ": "[letter OE]",
    "ð": "[letter eth]",
    "Ð": "[letter Eth]",
    "þ": "[letter thorn]",
    "Þ": "[letter Thorn]",
    "ı": "[dotless i]",
}
# T5 has the letters of English, German, French and Romanian; names of people have more.
_GREEK = "αβγδεζηθικλμνξοπρςστυφχψωΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩ"
_ACCENTED = "ÀÁÂÃÄÅÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜÝàáâãäåçèéêëìíîïñòóôõöøùúûüýÿąćčđęěğłńňőřśşšůűźżžĄĆČĐĘĞİŁŃŘŚŞŠŹŻŽ"


def _greek(char: str) -> str:
    small = unicodedata.name(char.lower()).removeprefix("GREEK SMALL LETTER ").lower()
    small = {"lamda": "lambda"}.get(small, small)
    return f"[{small if char.islower() else small.capitalize()}]"


def _accented(char: str) -> str:
    _, _, accent = unicodedata.name(char).partition(" WITH ")
    letter = unicodedata.name(char).split()[3]
    return f"[{letter.lower() if char.islower() else letter} {accent.lower()}]"


MARKERS: Mapping[str, str] = (
    _SIGNS | {char: _greek(char) for char in _GREEK} | {char: _accented(char) for char in _ACCENTED}
)

# Stands for the bracket of a text that spells a marker itself, so that it comes back as that text.
BRACKET_MARKER = "[open bracket]"

LINE_BREAK = "\n"

# Read as one line break before mapping: what files of other systems use for it.
LINE_BREAKS = ("\r\n", "\r", "\u2028", "\u2029", "\x85", "\x0b", "\x0c")

# White space to Python but not to a vocabulary's normaliser, which would join the words around it.
SEPARATORS = ("\x1c", "\x1d", "\x1e", "\x1f")


def needed_markers(survives: Callable[[str], bool]) -> dict[str, str]:
    """Markers of those characters that a vocabulary cannot carry.

    Args:
        survives: whether a character comes back unchanged from encode and decode.

    Returns:
        Character to marker. "<" is always there: without it a text could spell an end token.
    """
    return {char: marker for char, marker in MARKERS.items() if char == "<" or not survives(char)}


def spelt_marker(markers: Iterable[str]) -> str:
    """A regular expression of the bracket that begins one of these markers in a text.

    Whatever is no ASCII letter or digit may stand around and between the words, for a vocabulary may turn
    it into a blank or lose it. A bracket that is found too often costs tokens and no text.
    """
    other = r"[^A-Za-z0-9\[\]]*"
    spellings = (other.join(map(re.escape, marker[1:-1].split())) for marker in markers)
    return rf"\[(?={other}(?:{'|'.join(spellings)}){other}\])"
