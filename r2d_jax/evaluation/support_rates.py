"""How often rationales state what their input does not; in: N rows with texts, out: Support of each and rates."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from r2d_jax.data.features import question_text
from r2d_jax.data.mentions import is_blank
from r2d_jax.data.schema import Example
from r2d_jax.evaluation.intervals import Ratio, Statistic
from r2d_jax.evaluation.support import Support, support

# Rate: what is counted, and of what.
_RATES = {
    "unsupported_numbers_fraction": ("unsupported_numbers", "numbers"),
    "unsupported_findings_fraction": ("unsupported_findings", "findings"),
    "contradicted_findings_fraction": ("contradicted_findings", "findings"),
    "rationales_with_unsupported_number_fraction": ("with_number", "rationales"),
    "rationales_with_unsupported_finding_fraction": ("with_finding", "rationales"),
    "rationales_with_contradiction_fraction": ("with_contradiction", "rationales"),
}


def supports(examples: Sequence[Example], rationales: Sequence[str], labels: Sequence[str]) -> list[Support]:
    """The support of N rationales in the inputs of their rows; the words of its N label are no findings."""
    return [
        support(rationale, question_text(example), [label])
        for example, rationale, label in zip(examples, rationales, labels, strict=True)
    ]


def support_figures(found: Sequence[Support], rationales: Sequence[str]) -> dict[str, Any]:
    """Counts and rates of N rationales; an empty one counts nowhere. A rate is None where nothing is counted.

    Returns:
        rationales, numbers, findings: how many there are; and shares, 0 to 1: of the numbers and findings that the
        input does not hold, of the findings that it denies or that are denied and it affirms, and of the
        rationales that have at least one of each.
    """
    counts = _counts(found, rationales)
    totals = {name: int(counts[name].sum()) for name in ("rationales", "numbers", "findings")}
    return totals | {
        name: float(counts[part].sum() / counts[of].sum()) if counts[of].any() else None
        for name, (part, of) in _RATES.items()
    }


def support_statistics(found: Sequence[Support], rationales: Sequence[str]) -> dict[str, Statistic]:
    """The rates of `support_figures` as statistics of N resampled rows, each with all its statements."""
    counts = _counts(found, rationales)
    return {
        name: Ratio(counts[part], counts[of], share=True)
        for name, (part, of) in _RATES.items()
        if counts[of].any()
    }


def _counts(found: Sequence[Support], rationales: Sequence[str]) -> Mapping[str, np.ndarray]:
    """What of each row is counted, float64 [N]."""
    columns = {
        "rationales": [not is_blank(text) for text in rationales],
        "numbers": [one.numbers for one in found],
        "findings": [one.findings for one in found],
        "unsupported_numbers": [one.count("number") for one in found],
        "unsupported_findings": [one.count("finding") for one in found],
        "contradicted_findings": [one.count("finding", contradicted=True) for one in found],
    }
    counts = {name: np.array(values, np.float64) for name, values in columns.items()}
    for name, part in (
        ("with_number", "unsupported_numbers"),
        ("with_finding", "unsupported_findings"),
        ("with_contradiction", "contradicted_findings"),
    ):
        counts[name] = (counts[part] > 0).astype(np.float64)
    return counts
