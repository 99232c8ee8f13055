"""What a rationale names; in: rationales with labels or evidence phrases, out: shares of rationales."""

import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal

from r2d_jax.data.composed import Span
from r2d_jax.errors import UserError

# T5's own normaliser writes the zero-width characters as spaces, so no output could ever match a
# reference that holds them.
_WHITE_SPACE = re.compile("[\\s\u200b-\u200f\ufeff]+")
_BLANK = re.compile("[\\s\u200b-\u200f\ufeff]*")
_HYPHENS = "\\-\u2010\u2011"
_JOINT = re.compile(f"(?<=\\w)[ {_HYPHENS}](?=\\w)")

Naming = Literal["label", "other", "none"]


def fold_white_space(text: str) -> str:
    """The text with each run of white space, line breaks and zero-width characters as one space."""
    return _WHITE_SPACE.sub(" ", text).strip()


def is_blank(text: str) -> bool:
    """Whether a text holds nothing to read: white space and zero-width characters alone, or nothing."""
    return _BLANK.fullmatch(text) is not None


def check_same_rows(**columns: Sequence[object]) -> int:
    """The common length of the named columns.

    Raises:
        UserError: lengths differ, or there are no rows (an empty file must not get a score).
    """
    counts = {name: len(column) for name, column in columns.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise UserError(
            "evaluation", f"row counts differ: {told}", "Give one of each per row, in the same order."
        )
    rows = next(iter(counts.values()))
    if not rows:
        raise UserError("evaluation", "there are no rows to score", "Check that the file or split has rows.")
    return rows


def _comparable(text: str) -> str:
    return fold_white_space(text).casefold()


def _key(phrase: str) -> str:
    """Equal for two spellings of one phrase: "Non-urgent", "non urgent"."""
    return _JOINT.sub(" ", _comparable(phrase))


def _pattern(key: str) -> str:
    """Regular expression for a phrase as whole words and whole numbers."""
    before, after = f"(?<!\\w)(?<!\\w[{_HYPHENS}])", f"(?!\\w)(?![{_HYPHENS}]\\w)"
    # Otherwise "38" would be found in "38.5" and "5" in "38.5".
    if key[0].isdigit():
        before += r"(?<!\d[.,])"
    if key[-1].isdigit():
        after += r"(?![.,]\d)"
    return before + f"[ {_HYPHENS}]".join(map(re.escape, _JOINT.split(key))) + after


def places_of(composed: str, phrases: Iterable[str]) -> list[Span]:
    """Where a text has one of these phrases as whole words and whole numbers; case and white space do not matter.

    Args:
        composed: in the form NFC; places are in it.
        phrases: in any form, such as labels.
    """
    finders = [_phrase_finder(phrase) for phrase in phrases if not is_blank(phrase)]
    return [match.span() for finder in finders for match in finder.finditer(composed)]


@functools.lru_cache(maxsize=4096)
def _phrase_finder(phrase: str) -> re.Pattern[str]:
    words = r"\s+".join(map(re.escape, unicodedata.normalize("NFC", phrase).split()))
    # "ESI 2" is not in "ESI 2.5".
    return re.compile(rf"(?<!\w)(?<!\d[.,]){words}(?!\w)(?![.,]\d)", re.IGNORECASE)


@functools.lru_cache(maxsize=4096)
def _finder(keys: tuple[str, ...]) -> re.Pattern[str]:
    """Finds the phrases, the longest first, so that "very urgent" is not read as "urgent"."""
    return re.compile("|".join(_pattern(key) for key in sorted(keys, key=len, reverse=True)))


class LabelFinder:
    """Finds labels in texts as whole words, the longest at a place; case and hyphens do not matter.

    Labels are told apart by their keys: two spellings of one label have one key.
    """

    def __init__(self, labels: Sequence[str]):
        """Prepare for a set of labels; those without a letter, digit or sign are never found."""
        keys = tuple(sorted({key for key in map(_key, labels) if key}))
        self._pattern = _finder(keys) if keys else None
        self._first_words = tuple({_JOINT.split(key)[0] for key in keys})

    @staticmethod
    def key(label: str) -> str:
        """What `found` gives for a label."""
        return _key(label)

    @staticmethod
    def prepared(text: str) -> str:
        """The text as `found` wants it: case and white space folded."""
        return _comparable(text)

    def found(self, prepared: str) -> list[tuple[int, str]]:
        """Start and key of each label named in a prepared text, in order."""
        # Most texts hold no label, and looking for plain words is far quicker than the pattern.
        if self._pattern is None or not any(word in prepared for word in self._first_words):
            return []
        return [(match.start(), _key(match.group())) for match in self._pattern.finditer(prepared)]


def evidence_fraction(rationales: Sequence[str], evidence: Sequence[Sequence[str]]) -> float | None:
    """Share of rationales that name at least one phrase of their row's evidence.

    Phrases count as whole words and whole numbers ("rate 12" is not in "rate 125"); case and the kind of
    white space do not matter.

    Args:
        rationales: N generated texts.
        evidence: N lists of phrases; a row without phrases is left out.

    Returns:
        0 to 1, or None where no row has evidence.

    Raises:
        UserError: row counts differ, or no rows.
    """
    check_same_rows(rationales=rationales, evidence=evidence)
    found: list[bool] = []
    for rationale, phrases in zip(rationales, evidence, strict=True):
        wanted = tuple(key for key in map(_key, phrases) if key)
        if wanted:
            found.append(_finder(wanted).search(_comparable(rationale)) is not None)
    return sum(found) / len(found) if found else None


@functools.lru_cache(maxsize=8)
def _words_by_key(labels: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    return {key: tuple(_JOINT.split(key)) for key in map(_key, labels) if key}


@functools.lru_cache(maxsize=4096)
def _place(key: str) -> re.Pattern[str]:
    """Matches, with no width, where the phrase begins; so places that overlap are found too."""
    return re.compile(f"(?={_pattern(key)})")


def _named(text: str, keys: Iterable[str]) -> set[str]:
    """Which phrases a comparable text names; at each place the longest counts, and none within another."""
    places = [(match.start(), -len(key), key) for key in keys for match in _place(key).finditer(text)]
    named, end = set(), 0
    for start, length, key in sorted(places):
        if start >= end:
            named.add(key)
            end = start - length
    return named


def rationale_names_label(rationale: str, label: str, label_set: Sequence[str]) -> Naming:
    """Whether a rationale names the given label, another label only, or none.

    The longest label at a place counts, as whole words: "non-urgent" and "very urgent" are not "urgent",
    "not" is not "no". Case does not matter, and a hyphen inside a label may be a space. Words are found,
    not understood: "not urgent" names "urgent" where "not urgent" is no label itself.

    Args:
        rationale: any text.
        label: the label to look for; need not be in the set.
        label_set: all labels.
    """
    given, text = _key(label), _comparable(rationale)
    # One pattern of a thousand labels would try each of them at every letter; few have all their words in the text.
    keys = _words_by_key(tuple(label_set))
    possible = {key for key, words in keys.items() if all(word in text for word in words)}
    named = _named(text, possible | {given} if given else possible)
    if given in named:
        return "label"
    return "other" if named else "none"


def label_agreement(
    rationales: Sequence[str], labels: Sequence[str], label_set: Sequence[str]
) -> dict[str, float] | None:
    """How often rationales name the label they were written for; it never changes a label.

    Args:
        rationales: N generated texts.
        labels: N labels, usually the predicted ones.
        label_set: all labels.

    Returns:
        Shares, 0 to 1, that sum to 1: names_label_fraction, names_other_only_fraction,
        names_none_fraction. None where the label set is empty.

    Raises:
        UserError: row counts differ, or no rows.
    """
    rows = check_same_rows(rationales=rationales, labels=labels)
    if not label_set:
        return None
    namings = [
        rationale_names_label(rationale, label, label_set)
        for rationale, label in zip(rationales, labels, strict=True)
    ]
    return {
        "names_label_fraction": namings.count("label") / rows,
        "names_other_only_fraction": namings.count("other") / rows,
        "names_none_fraction": namings.count("none") / rows,
    }
