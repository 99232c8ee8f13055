"""Rules about the characters of a text; in: texts by field, out: sightings of damage, and of identifying data."""

import re
import unicodedata
from collections.abc import Callable

from ftfy.badness import is_bad

from r2d_jax.data.check.findings import SeenRow, Tally

_SURROGATES = "\ud800-\udfff"
_CONTROLS = "\x00-\x08\x0e-\x1f\x7f"
# What latin-1 makes of the bytes by which Windows (cp1252) writes dashes, quotes, dots and the euro sign.
_CODE_PAGE = "\x80-\x9f"
_DIRECTIONS = "\u202a-\u202e\u2066-\u2069"
_INVISIBLE = "\u00ad\u034f\u061c\u180e\u200b-\u200f\u2060-\u2064\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"
_SPACES = " \t\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"

# Of these the check tells by rules of their own, not as characters that a vocabulary lacks.
OWN_RULES = re.compile(f"[{_SURROGATES}{_CONTROLS}{_CODE_PAGE}{_DIRECTIONS}{_INVISIBLE}\ufffd]")
SPECIAL_TOKEN = re.compile(r"</?s>|<pad>|<unk>|<extra_id_\d+>")
LINE_BREAK = re.compile("\r\n|[\n\r\x0b\x0c\x85\u2028\u2029]")

_MONTH = "(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
_DATE = rf"(?:\d{{1,4}}[./-]\d{{1,2}}[./-]\d{{1,4}}|\d{{1,2}}\.? {_MONTH},? \d{{2,4}}|{_MONTH} \d{{1,2}},? \d{{2,4}})"

# Code, a test that is cheap and rules most texts out, and the pattern.
_PATTERNS: tuple[tuple[str, Callable[[str], bool], re.Pattern[str]], ...] = (
    ("control-characters", lambda text: not text.isprintable(), re.compile(f"[{_CONTROLS}]")),
    ("wrong-code-page", lambda text: not text.isascii(), re.compile(f"[{_CODE_PAGE}]")),
    ("lone-surrogates", lambda text: not text.isascii(), re.compile(f"[{_SURROGATES}]")),
    ("replacement-characters", lambda text: not text.isascii(), re.compile("\ufffd")),
    ("direction-controls", lambda text: not text.isascii(), re.compile(f"[{_DIRECTIONS}]")),
    ("invisible-characters", lambda text: not text.isascii(), re.compile(f"[{_INVISIBLE}]")),
    (
        "markup",
        lambda text: "&" in text or "<" in text,
        re.compile(
            r"&(?:lt|gt|amp|quot|apos|nbsp|deg|micro|plusmn|#\d{1,6}|#x[0-9a-f]{1,5});"
            r"|</?(?:br|p|b|i|u|em|strong|sub|sup|div|span|li|ul)\b[^<>]{0,40}>",
            re.IGNORECASE,
        ),
    ),
    (
        "blanks",
        lambda text: True,
        re.compile(f"[{_SPACES}]{{2,}}|[{_SPACES[1:]}]|^[{_SPACES}]|[{_SPACES}]$"),
    ),
    ("looks-like-email", lambda text: "@" in text, re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}\.[A-Za-z]{2,}")),
    (
        "looks-like-ssn",
        lambda text: "-" in text,
        re.compile(r"(?<![\d-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])"),
    ),
    (
        "looks-like-phone",
        lambda text: "-" in text or "." in text,
        re.compile(
            r"(?<![\d.-])(?:\+\d{1,3}[ .-]?)?(?:\(\d{3}\) ?\d{3}[.-]|\d{3}([.-])\d{3}\1)\d{4}(?![\d-]|\.\d)"
        ),
    ),
    (
        "looks-like-birth-date",
        lambda text: True,
        re.compile(
            rf"\b(?:dob|d\.o\.b\.?|date of birth|birth ?date|born(?: on)?)\W{{0,3}}{_DATE}", re.IGNORECASE
        ),
    ),
    (
        "looks-like-record-number",
        lambda text: True,
        re.compile(
            r"\b(?:mrn|nhs|medical record|patient id|chart)(?: (?:no\.?|number))?\W{0,3}\d{4,}", re.IGNORECASE
        ),
    ),
)


def _mojibake(text: str) -> bool:
    return not text.isascii() and is_bad(text)


def see_text(field: str, text: str, row: SeenRow, tally: Tally) -> None:
    """Count what one text shows without a tokenizer."""
    for code, possible, pattern in _PATTERNS:
        if possible(text) and (match := pattern.search(text)):
            tally.add(code, field, row, text, *match.span())
    if not unicodedata.is_normalized("NFC", text):
        tally.add("composed", field, row, text)
    # U+FFFD and C1 characters are bad to ftfy too, but have rules of their own.
    if _mojibake(OWN_RULES.sub(" ", text)):
        tally.add("mojibake", field, row, text)
