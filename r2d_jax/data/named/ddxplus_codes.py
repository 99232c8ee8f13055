"""Code books of DDXPlus; in: release_evidences.json, release_conditions.json, coded cells, out: findings in words."""

import ast
import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence

from r2d_jax.data.named.contract import text_of
from r2d_jax.data.named.json_entries import json_entries, require_object
from r2d_jax.data.reading.raw_rows import kind_of
from r2d_jax.errors import UserError

_VALUE = "_@_"
_WORDS = {"N": "no", "Y": "yes"}
# The longest list of the data is under 2,000 characters; what is longer is no such list.
_LONGEST_LIST = 20_000
_WRONG_BOOK = "Give patients and release_evidences.json of one release."


@dataclasses.dataclass(frozen=True)
class Evidence:
    """One question of the code book.

    Attributes:
        question: in English, as written.
        default: value that means "not there"; "" for a yes/no question.
        values: value code -> words; empty for a yes/no question.
    """

    question: str
    default: str
    values: Mapping[str, str]


def read_evidences(path: pathlib.Path) -> dict[str, Evidence]:
    """The code book of evidences, by code.

    Raises:
        UserError: an entry lacks a field or has one of another kind.
    """
    book = {}
    for entry in json_entries(path):
        where = f"{path} {entry.place}"
        cells = require_object(entry.value, where)
        kind = text_of(cells, "data_type", where)
        if kind not in ("B", "C", "M"):
            raise UserError(
                f"{where}, field 'data_type'", "is none of B, C, M", "Give the file as published."
            )
        meanings = require_object(cells.get("value_meaning") or {}, where)
        values = {
            value: text_of(require_object(meaning, where), "en", where) for value, meaning in meanings.items()
        }
        possible = [
            text_of({"value": value}, "value", where, number=True)
            for value in cells.get("possible-values") or []
        ]
        scale = f" ({possible[0]} to {possible[-1]})" if possible and not values else ""
        # A scale has numbers without meanings.
        values |= {value: value + scale for value in possible if value not in values}
        book[entry.key] = Evidence(
            question=text_of(cells, "question_en", where).strip(),
            default=text_of(cells, "default_value", where, number=True) if kind != "B" else "",
            values={value: _WORDS.get(words, words) for value, words in values.items()}
            if kind != "B"
            else {},
        )
    return book


def read_conditions(path: pathlib.Path) -> dict[str, frozenset[str]]:
    """Codes that the data set lists for each pathology, by each of its names."""
    listed: dict[str, frozenset[str]] = {}
    for entry in json_entries(path):
        where = f"{path} {entry.place}"
        cells = require_object(entry.value, where)
        codes = frozenset(
            code
            for part in ("symptoms", "antecedents")
            for code in require_object(cells.get(part, {}), where)
        )
        names = [text_of(cells, name, where) for name in ("condition_name", "cond-name-eng") if name in cells]
        listed |= dict.fromkeys([entry.key, *names], codes)
    return listed


def parse_codes(text: str, where: str) -> list[str]:
    """The list of codes that a cell spells as Python or JSON; only literals are read, nothing is run.

    Raises:
        UserError: it is no list of texts, or longer than any list of codes.
    """
    fix = "Give the file as published."
    if len(text) > _LONGEST_LIST:
        raise UserError(f"{where}, field 'EVIDENCES'", f"has {len(text)} characters, too many for codes", fix)
    try:
        codes = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise UserError(f"{where}, field 'EVIDENCES'", "is not a list of codes", fix) from error
    if not isinstance(codes, list) or not all(isinstance(code, str) for code in codes):
        raise UserError(f"{where}, field 'EVIDENCES'", f"is not a list of codes ({kind_of(codes)})", fix)
    return codes


def _told(code: str) -> str:
    """A code for a message; what does not look like one may be case text in a wrong column."""
    return repr(code) if re.fullmatch(r"([A-Z]_)?\d*", code) else f"({len(code)} characters)"


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a patient answers to one question of the code book."""

    code: str
    words: str
    is_default: bool


def findings(codes: Sequence[str], book: Mapping[str, Evidence], where: str) -> list[Finding]:
    """Codes as words, one finding for each question, in the order in which questions come first.

    Raises:
        UserError: a code or a value that the code book lacks.
    """
    answers: dict[str, list[str]] = {}
    for written in codes:
        code, separator, value = written.partition(_VALUE)
        evidence = book.get(code)
        if evidence is None:
            raise UserError(where, f"evidence code {_told(code)} is unknown", _WRONG_BOOK)
        known = value in evidence.values if separator else not evidence.values
        if not known:
            raise UserError(where, f"evidence {_told(code)} has no value {_told(value)}", _WRONG_BOOK)
        answers.setdefault(code, []).append(value)
    made = []
    for code, values in answers.items():
        evidence = book[code]
        words = ", ".join(evidence.values[value] for value in values) if evidence.values else "yes"
        made.append(
            Finding(code, f"{evidence.question} {words}.", values == [evidence.default] and values != [""])
        )
    return made
