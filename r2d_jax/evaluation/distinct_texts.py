"""Whether a model writes one rationale for every row; in: N generated and gold texts, out: shares of distinct ones."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from r2d_jax.data.mentions import fold_white_space

_LEAST_ROWS = 50
"""Fewer rows tell little: among few, gold texts hardly repeat, and each repetition weighs much."""
_OF_GOLD = 0.5
"""Below this share of gold's distinct texts, a text serves more than twice as many rows as a gold one."""


def distinct_figures(rationales: Sequence[str], gold: Sequence[str] | None) -> dict[str, Any]:
    """How many of N rationales are distinct, white space folded; an empty one is a text like any other.

    A model that writes one text for every row, or one for each label, can look well by any figure that a text gets
    alone: it names its label, follows it, and shares the phrases of gold texts. The share falls with the number of
    rows, so gold is of the same rows, and there is no interval, for a resampled row repeats its text.

    Args:
        rationales: N generated texts.
        gold: of the same N rows; None: not known.

    Returns:
        rows: N; distinct_fraction: different texts by rows; commonest_fraction: rows that have the most common
        text; both for gold too, gold_distinct_fraction and gold_commonest_fraction, None where it is not known;
        repeated: at least 50 rows, and less than half of gold's share is distinct. Shares are None without rows.
    """
    distinct, commonest = _shares(rationales)
    gold_distinct, gold_commonest = _shares(gold or ())
    return {
        "rows": len(rationales),
        "distinct_fraction": distinct,
        "commonest_fraction": commonest,
        "gold_distinct_fraction": gold_distinct,
        "gold_commonest_fraction": gold_commonest,
        "repeated": distinct is not None
        and gold_distinct is not None
        and len(rationales) >= _LEAST_ROWS
        and distinct < _OF_GOLD * gold_distinct,
    }


def _shares(texts: Sequence[str]) -> tuple[float | None, float | None]:
    counts = collections.Counter(map(fold_white_space, texts))
    return (len(counts) / len(texts), max(counts.values()) / len(texts)) if texts else (None, None)


def repetition_of(metrics: Mapping[str, Any]) -> str:
    """That rationales repeat far more than the gold ones do, in words; "" where they do not, or it is not known.

    Args:
        metrics: of metrics.json.
    """
    reasons = metrics.get("faithfulness")
    found = reasons.get("texts") if isinstance(reasons, Mapping) else None
    if not isinstance(found, Mapping) or found.get("repeated") is not True:
        return ""
    names = ("distinct_fraction", "gold_distinct_fraction", "commonest_fraction")
    shares = [found.get(name) for name in names]
    if not all(isinstance(share, float) for share in shares):
        return ""
    own, gold, commonest = (f"{100 * share:.1f} %" for share in shares if share is not None)
    return (
        f"rationales repeat: {own} of them are distinct, of the gold ones {gold}; the commonest is that of {commonest} "
        "of the rows. Such texts tell little of their case, however well other figures look"
    )
