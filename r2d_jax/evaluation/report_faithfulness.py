"""What a report tells of reasons; in: RunRecords, out: tables and a plot by run, and marks for the table of cases."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from r2d_jax.errors import UserError
from r2d_jax.evaluation.case_table import CaseText, clean
from r2d_jax.evaluation.report_values import cell, scored_figure
from r2d_jax.evaluation.run_record import RunRecord, is_number
from r2d_jax.runtime.run_files import FAITHFULNESS

_MEASURES = {"comprehensiveness": "without the sentences", "sufficiency": "the sentences alone"}
_FIGURES = ("cited", "random", "difference")
_DROP, _CHANGE = "drop of the label's probability", "share of labels that change"
_RATES = (
    ("numbers without support", "unsupported_numbers_fraction"),
    ("findings without support", "unsupported_findings_fraction"),
    ("findings that the input contradicts", "contradicted_findings_fraction"),
    ("rationales with such a number", "rationales_with_unsupported_number_fraction"),
    ("rationales with such a finding", "rationales_with_unsupported_finding_fraction"),
    ("rationales that contradict", "rationales_with_contradiction_fraction"),
)
_TEXTS = (
    ("distinct rationales", "distinct_fraction"),
    ("rows with the commonest one", "commonest_fraction"),
)
_FLIPS = (
    ("text changes", "changed_fraction"),
    ("text names the given label", "names_given_fraction"),
    ("text names only another", "names_other_fraction"),
    ("label read back is the given one", "label_follows_fraction"),
)


class _Bad(BaseModel):
    start: int
    end: int
    kind: str
    contradicted: bool


class _Ablated(BaseModel):
    probability: dict[str, float | None]
    label_changes: dict[str, bool]


class _Line(BaseModel):
    id: str
    cited: list[tuple[int, int]]
    unsupported: list[_Bad]
    ablation: _Ablated | None


def reasons_part(run: RunRecord, colour: str, safe: Any) -> dict[str, Any] | None:
    """Tables of ablations, statements and flips, and the plot of the ablations; None where the run has none.

    Args:
        run: its metrics.
        colour: of the run.
        safe: marks the plot as markup.
    """
    section = run.metrics.get("faithfulness")
    if not isinstance(section, Mapping):
        return None
    flips = _row(run, "", [f"label_flip.{name}" for _, name in _FLIPS])
    sources = (("generated", ""), ("gold", "gold_"))
    statements = [
        _row(
            run,
            title,
            [f"faithfulness.{prefix}statements.{name}" for _, name in _RATES]
            + [f"faithfulness.texts.{prefix}{name}" for _, name in _TEXTS],
        )
        | {
            "counts": [
                _count(section, f"{prefix}statements", name) for name in ("rationales", "numbers", "findings")
            ]
        }
        for title, prefix in sources
        if isinstance(section.get(f"{prefix}statements"), Mapping)
    ]
    return {
        "ablations": [*_ablations(run, _DROP, ""), *_ablations(run, _CHANGE, "_change")],
        "note": _note(section),
        "plot": _plot(run, colour, safe),
        "statement_columns": [title for title, _ in (*_RATES, *_TEXTS)],
        "statements": statements,
        "flip_columns": [title for title, _ in _FLIPS],
        "flips": [flips] if flips["known"] else [],
    }


def _row(run: RunRecord, title: str, names: Sequence[str]) -> dict[str, Any]:
    found = [scored_figure(run.metrics, name) for name in names]
    return {"name": title, "cells": list(map(cell, found)), "known": any(one is not None for one in found)}


def _ablations(run: RunRecord, title: str, suffix: str) -> Iterator[dict[str, Any]]:
    for measure, name in _MEASURES.items():
        names = [
            f"{one}{suffix}" if one != "difference" or not suffix else "change_difference" for one in _FIGURES
        ]
        row = _row(run, f"{title}, {name}", [f"faithfulness.{measure}.{one}" for one in names])
        if row["known"]:
            yield row


def _count(section: Mapping[str, Any], part: str, name: str) -> str:
    value = section[part].get(name)
    return str(value) if is_number(value) else "\N{EN DASH}"


def _note(section: Mapping[str, Any]) -> str:
    names = ("rows", "compared_rows", "nothing_cited_rows", "all_cited_rows")
    rows, compared, nothing, every = (section.get(name, 0) for name in names)
    words = [section.get(f"{name}_words_fraction") for name in ("cited", "random")]
    note = (
        f"{compared} of {rows} rows are compared; in {nothing} the rationale cites no sentence of the input, in "
        f"{every} each one. Where the rationale gives the model's reason, the cited sentences matter more than "
        "random ones: more is lost without them, and less with them alone."
    )
    if all(map(is_number, words)):
        cited, drawn = (f"{100 * one:.0f} %" for one in words if one is not None)
        note += f" The cited sentences have {cited} of the words, the random ones {drawn}."
    return note


def _plot(run: RunRecord, colour: str, safe: Any) -> Any:
    from r2d_jax.evaluation.faithfulness_plot import Pair, pairs

    for axis, suffix in ((_DROP, ""), (_CHANGE, "_change")):
        found = {
            name: [
                scored_figure(run.metrics, f"faithfulness.{measure}.{one}{suffix}") for one in _FIGURES[:2]
            ]
            for measure, name in _MEASURES.items()
        }
        drawn = [
            Pair(name, *cited, *random)
            for name, (cited, random) in found.items()
            if cited is not None and random is not None
        ]
        if drawn:
            return safe(pairs("What the label rests on", drawn, axis, colour, run.path.name))
    return ""


def case_reasons(runs: Sequence[RunRecord], texts: Sequence[CaseText] | None) -> list[list[list[Any]] | None]:
    """For each run what the table of cases tells of the reasons of each row; None where the run has none.

    Without texts these are counts and figures alone.

    Args:
        runs: with predictions of the same N rows.
        texts: of the N rows; None: no text is shown.

    Returns:
        For each row, in the order of the file: [unsupported numbers, unsupported findings, drop of the label's
        probability without the cited sentences or null, whether the label changes or null] and, with texts,
        [places of cited sentences in the input, of unsupported statements in the rationale], in UTF-16 units of
        the cleaned texts, as a page counts.

    Raises:
        UserError: faithfulness.jsonl is damaged.
    """
    return [_run_reasons(run, texts) for run in runs]


def _run_reasons(run: RunRecord, texts: Sequence[CaseText] | None) -> list[list[Any]] | None:
    try:
        lines = [_Line.model_validate(line) for line in run.reasons]
    except ValidationError as error:
        where = run.path / "evaluation" / FAITHFULNESS
        raise UserError(str(where), "is damaged", "Evaluate the run again.") from error
    if not lines or [line.id for line in lines] != [row.get("id") for row in run.predictions]:
        return None
    rows = []
    for place, line in enumerate(lines):
        row = [
            sum(bad.kind == "number" for bad in line.unsupported),
            sum(bad.kind != "number" for bad in line.unsupported),
            *_ablated(line.ablation),
        ]
        if texts is not None:
            rationale = str(run.predictions[place].get("rationale", ""))
            row.append(_places(texts[place].input, line.cited))
            row.append(_places(rationale, [(bad.start, bad.end) for bad in line.unsupported]))
        rows.append(row)
    return rows


def _ablated(ablation: _Ablated | None) -> list[Any]:
    if ablation is None:
        return [None, None]
    full, removed = (ablation.probability.get(name) for name in ("full", "cited_removed"))
    drop = None if full is None or removed is None else round(full - removed, 3)
    return [drop, ablation.label_changes.get("cited_removed")]


def _places(text: str, places: Sequence[tuple[int, int]]) -> list[list[int]]:
    return [[len(clean(text[:place]).encode("utf-16-le")) // 2 for place in one] for one in places]
