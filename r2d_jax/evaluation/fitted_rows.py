"""Which rows a calibration was fitted to; in: rows, out: digests in calibration.json, and how many are scored too."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from r2d_jax.data.features import question_text
from r2d_jax.data.mentions import fold_white_space
from r2d_jax.data.schema import Example
from r2d_jax.evaluation.calibration import Calibration, RowSource

MOST_DIGESTS = 4096
"""That are stored."""
_DIGEST_BYTES = 8
_KINDS = {"validation": "validation rows", "file": "rows of a file"}


def fitted_to(calibration: Calibration, examples: Sequence[Example], source: RowSource) -> Calibration:
    """The same calibration with what is known of the rows that it was fitted to.

    Of each different text of question and context, apart from case and spaces, a digest of 8 bytes is made, keyed with
    the label set: neither text nor id can be read from it, but whoever has a text can find out whether it was there. Of
    more than 4096 the lowest are stored. They are a random sample, from which `overlap` estimates.

    Args:
        calibration: of the rows.
        examples: the rows.
        source: where they came from.
    """
    digests = sorted(set(_digests(calibration, examples)))[:MOST_DIGESTS]
    return dataclasses.replace(calibration, source=source, row_digests=tuple(digests))


def overlap(calibration: Calibration | None, examples: Sequence[Example]) -> dict[str, Any]:
    """How many rows to score have the text of a row that the calibration was fitted to.

    Args:
        calibration: None: there is none.
        examples: the N rows.

    Returns:
        overlap_rows: 0 to N; None where there are no digests to compare with. overlap_estimated: whether it is an
        estimate, since not all digests were stored. Few rows among very many may then be missed.
    """
    if calibration is None or not calibration.row_digests:
        return {"overlap_rows": None, "overlap_estimated": False}
    stored = set(calibration.row_digests)
    found = sum(digest in stored for digest in _digests(calibration, examples))
    if len(stored) < MOST_DIGESTS:
        return {"overlap_rows": found, "overlap_estimated": False}
    # Digests are spread evenly, so the highest that was stored tells the share of all that can be found again.
    share = (int(max(stored), 16) + 1) / 2 ** (8 * _DIGEST_BYTES)
    return {"overlap_rows": min(round(found / share), len(examples)), "overlap_estimated": True}


def _digests(calibration: Calibration, examples: Sequence[Example]) -> Iterator[str]:
    key = hashlib.sha256(calibration.labels_sha256.encode()).digest()
    for example in examples:
        text = fold_white_space(question_text(example)).casefold().encode("utf-8", "surrogatepass")
        yield hashlib.blake2b(text, digest_size=_DIGEST_BYTES, key=key).hexdigest()


def rows_told(rows: int | None, source: str | None) -> str:
    """The rows that a calibration was fitted to, in words: how many, and where they came from if that is known."""
    return "its rows" if rows is None else f"{rows} {_KINDS.get(source or '', 'rows')}"


def fitted_rows_told(section: Mapping[str, Any]) -> str:
    """The same of a section "calibration" of metrics.json."""
    return rows_told(section.get("fitted_rows"), section.get("fitted_from"))


def overlap_warning(metrics: Mapping[str, Any]) -> str:
    """That rows of an evaluation (metrics.json) were used to calibrate, in words; "" where none is known to be."""
    section = metrics.get("calibration") or {}
    if not section.get("overlap_rows"):
        return ""
    about = "about " if section.get("overlap_estimated") else ""
    return (
        f"{about}{section['overlap_rows']} of the {section['rows']} scored rows were used to calibrate: probabilities "
        "and risk look better than on new rows"
    )
