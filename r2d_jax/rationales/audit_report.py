"""What a user sees of an audit; in: audited rationales, out: audit.jsonl, audit.json and a table."""

import contextlib
import dataclasses
import json
import pathlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from r2d_jax.data.reading.raw_rows import shown
from r2d_jax.rationales.audit import NAMES, Audited, Thresholds
from r2d_jax.rationales.row_files import write_rows
from r2d_jax.runtime.files import write_text
from r2d_jax.runtime.outputs import require_unfinished

_SHOWN_LABELS = 40
_MOSTLY = 0.5
AUDIT_ROWS, AUDIT_SUMMARY = "audit.jsonl", "audit.json"
_OF_AN_AUDIT = {"names", "grounded_fraction", "failures"}


def summary(audited: Sequence[Audited], thresholds: Thresholds, column: str) -> dict[str, Any]:
    """The figures of audit.json: counts, shares and quantiles; labels, but no text of a case.

    Args:
        audited: N rows.
        thresholds: what they had to reach.
        column: where the rationales stand.
    """
    failing = Counter(reason for one in audited for reason in one.failures)
    written = [one for one in audited if one.characters]
    judged = [one.judge for one in audited if one.judge]
    return {
        "column": column,
        "rows": len(audited),
        "rows_empty": len(audited) - len(written),
        "rows_failing": sum(bool(one.failures) for one in audited),
        "failures": dict(sorted(failing.items())),
        "names": _counts(written),
        "names_by_label": {
            label: _counts([one for one in written if one.label == label])
            for label in sorted({one.label for one in audited})
        },
        "grounded_fraction": _quantiles(
            [one.grounded_fraction for one in written if one.grounded_fraction is not None]
        ),
        "numbers": sum(one.numbers for one in written),
        "unsupported_numbers": sum(one.unsupported_numbers for one in written),
        "rows_with_unsupported_numbers": sum(bool(one.unsupported_numbers) for one in written),
        "words": _quantiles([one.words for one in written]),
        "copied_fraction": _quantiles([one.copied_fraction for one in written]),
        "judge": {name: float(np.mean([one[name] for one in judged])) for name in judged[0]}
        if judged
        else None,
        "rows_judged": len(judged),
        "thresholds": dataclasses.asdict(thresholds),
    }


def _counts(audited: Sequence[Audited]) -> dict[str, int]:
    counts = Counter(one.names for one in audited)
    return {name: counts[name] for name in NAMES}


def _quantiles(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95]).tolist()
    return {"p05": low, "median": middle, "p95": high}


def require_no_audit(folder: pathlib.Path, *, overwrite: bool) -> None:
    """Refuse to replace a finished audit, or what another command wrote, with a new one.

    An audit ends with audit.json. One that was stopped before is done again as if nothing were there.

    Args:
        folder: that is to hold the audit.
        overwrite: whatever is there may be replaced.

    Raises:
        UserError: it may not, and one of the files is there.
    """
    last, rows = folder / AUDIT_SUMMARY, folder / AUDIT_ROWS
    require_unfinished(
        (last, rows),
        rows=rows,
        last=last,
        own=lambda first: first.keys() >= _OF_AN_AUDIT,
        overwrite=overwrite,
    )


@contextlib.contextmanager
def audit_files(folder: pathlib.Path, audited: Sequence[Audited], result: dict[str, Any]) -> Iterator[None]:
    """Write audit.jsonl, and audit.json once the block, which writes what else belongs to the audit, has ended well.

    Args:
        folder: where to write; made where it is missing.
        audited: N rows.
        result: what audit.json holds.

    Raises:
        UserError: the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # First: without it a stopped audit is known for one, and no figures stand beside other rows.
    (folder / AUDIT_SUMMARY).unlink(missing_ok=True)
    write_rows(folder / AUDIT_ROWS, [one.line() for one in audited])
    yield
    write_text(folder / AUDIT_SUMMARY, json.dumps(result, indent=2, ensure_ascii=False) + "\n")


def print_audit(result: dict[str, Any], console: Console) -> None:
    """Print what rationales name by label, how far they are grounded, and why rows fail."""
    written = result["rows"] - result["rows_empty"]
    table = Table(
        title=f"{written} rationales of column {shown([result['column']])}: labels that they name",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
    )
    table.add_column("gold label")
    for name in ("only gold", "only others", "both", "none"):
        table.add_column(name, justify="right", no_wrap=True)
    by_label = list(result["names_by_label"].items())
    for label, counts in by_label[:_SHOWN_LABELS]:
        table.add_row(shown([label])[:60], *(str(counts[name]) for name in NAMES))
    if len(by_label) > _SHOWN_LABELS:
        table.add_row(f"and {len(by_label) - _SHOWN_LABELS} more labels")
    table.add_row("all", *(str(result["names"][name]) for name in NAMES))
    console.print(table, "", markup=False)
    naming = result["names"]["gold"] + result["names"]["both"]
    if naming < _MOSTLY * written:
        console.print(
            f"only {naming} rationales name their label: where these do not, or where labels are everyday words "
            "such as no, --agreement says little, and `--agreement any` leaves it out",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    for title, figures in (
        ("share of numbers and words that the input holds", result["grounded_fraction"]),
        ("words", result["words"]),
        ("share copied in runs of 5 words", result["copied_fraction"]),
    ):
        if figures:
            told = "{p05:.2f} / {median:.2f} / {p95:.2f}".format(**figures)
            console.print(f"{title}, 5 % / median / 95 %: {told}", highlight=False, markup=False)
    numbers = f"{result['unsupported_numbers']} of {result['numbers']} numbers are not in the input"
    console.print(
        f"{numbers}; {result['rows_with_unsupported_numbers']} rationales have one", highlight=False
    )
    if result["judge"]:
        told = ", ".join(f"{name} {mean:.2f}" for name, mean in result["judge"].items())
        console.print(f"judge, mean of {result['rows_judged']}: {told}", highlight=False)
    reasons = ", ".join(f"{count} {reason}" for reason, count in result["failures"].items())
    console.print(
        f"{result['rows_failing']} of {result['rows']} rows fail{f': {reasons}' if reasons else ''}",
        highlight=False,
        markup=False,
    )
