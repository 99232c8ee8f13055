"""One HTML page about runs; in: their folders, out: a file that fetches nothing and holds case text only if asked."""

import base64
import hashlib
import json
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from r2d_jax import __version__
from r2d_jax.errors import UserError, how_to_install
from r2d_jax.evaluation import (
    report_calibration,
    report_faithfulness,
    report_labels,
    report_triage,
    report_values,
)
from r2d_jax.evaluation.case_table import case_table, load_case_texts, row_sets, short
from r2d_jax.evaluation.run_record import RunRecord, read_run
from r2d_jax.runtime.files import write_text
from r2d_jax.runtime.outputs import require_file
from r2d_jax.runtime.run_files import RUN_STATE

_PAGE = pathlib.Path(__file__).parent / "page"
_INSTALL = f"Install what reports need: {how_to_install('report')}."
# As paths in a box of 16 by 16 around 0, by Matplotlib's letter.
_SHAPES = {
    "o": "M-6 0a6 6 0 1 0 12 0a6 6 0 1 0 -12 0z",
    "s": "M-5.5 -5.5h11v11h-11z",
    "^": "M0 -6.5l6.5 12h-13z",
    "D": "M0 -7l7 7l-7 7l-7 -7z",
    "v": "M0 6.5l6.5 -12h-13z",
    "P": "M-2.3 -6.5h4.6v4.2h4.2v4.6h-4.2v4.2h-4.6v-4.2h-4.2v-4.6h4.2z",
    "X": "M-6 -3l3 -3l3 3l3 -3l3 3l-3 3l3 3l-3 3l-3 -3l-3 3l-3 -3l3 -3z",
}


def write_report(
    runs: Sequence[pathlib.Path], output: pathlib.Path, *, include_text: bool = False, overwrite: bool = False
) -> None:
    """Write one self-contained HTML file about one or several runs, finished or not.

    The same runs give the same bytes. Without include_text the file holds labels, ids and numbers only.

    Args:
        runs: folders of runs, each once; that of a comparison stands for all its runs.
        output: an .html file in a folder that exists; written whole or not at all.
        include_text: put inputs and rationales of the test rows in, read from the data that each run's
            config names.
        overwrite: replace a file that is there.

    Raises:
        UserError: no run in a folder, a damaged file, rows that changed since the run, a place that cannot
            be written to, or the packages of the extra `report` are missing.
    """
    # Else --overwrite and a slip of the hand could replace any file.
    require_file(output, endings=[".html", ".htm"], overwrite=overwrite)
    runs = [run for path in runs for run in _runs_in(path)]
    if len({path.resolve() for path in runs}) < len(runs):
        raise UserError("RUN", "a folder is named twice", "Name each run once.")
    records = [read_run(path) for path in runs]
    page = _page(records, include_text)
    write_text(output, page)


def _runs_in(path: pathlib.Path) -> list[pathlib.Path]:
    """The runs of a comparison by method and seed, METHOD/seedN; any other folder alone."""
    if (path / RUN_STATE).is_file():
        return [path]
    below = [file.parent for file in path.glob(f"*/seed*/{RUN_STATE}")]
    return sorted(below, key=lambda run: (run.parent.name, len(run.name), run.name)) or [path]


def _page(records: Sequence[RunRecord], include_text: bool) -> str:
    try:
        import jinja2

        from r2d_jax.evaluation import plots
    except ImportError as error:
        raise UserError("r2d report", f"cannot import {error.name}", _INSTALL) from error
    names = _names(records)
    runs = [
        report_values.run_summary(record)
        | {"name": name, "colour": plots.colour(number), "shape": _SHAPES[plots.marker(number)]}
        for number, (record, name) in enumerate(zip(records, names, strict=True))
    ]
    style, script = ((_PAGE / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_PAGE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    safe = jinja2.utils.markupsafe.Markup
    tables = [
        {"runs": [runs[number] for number in numbers], "json": safe(_script_json(data))}
        for numbers, data in _tables(records, names, include_text)
    ]
    return environment.get_template("report.html.j2").render(
        runs=runs,
        warnings=list(_warnings(records, runs)),
        differences=report_values.setting_differences(records),
        figures=_figures(records, runs, names, safe),
        results=[
            result
            for number, record in enumerate(records)
            if (result := _result(record, number, runs[number], safe))
        ],
        probabilities=[
            {"run": run, **part}
            for number, (record, run) in enumerate(zip(records, runs, strict=True))
            if (part := report_calibration.probabilities_part(record, number, run["colour"], safe))
        ],
        triage=[
            {"run": run, **part}
            for record, run in zip(records, runs, strict=True)
            if (part := report_triage.triage_part(record, safe))
        ],
        subgroups=[
            {"run": run, "parts": parts}
            for record, run in zip(records, runs, strict=True)
            if (parts := report_triage.subgroup_parts(record, run["colour"], safe))
        ],
        reasons=[
            {"run": run, **part}
            for record, run in zip(records, runs, strict=True)
            if (part := report_faithfulness.reasons_part(record, run["colour"], safe))
        ],
        plots=[{"svg": safe(svg), "note": note} for svg, note in _training(records)],
        tables=tables,
        include_text=include_text,
        style=safe(style),
        script=safe(script),
        policy=_policy(style, script),
        version=__version__,
    )


def _policy(style: str, script: str) -> str:
    """What the browser may load: nothing but this page's one style and one script."""
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script))
    style_hash, script_hash = digests
    return (
        f"default-src 'none'; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _script_json(value: Any) -> str:
    """JSON for a script element: nothing in it ends the element, begins a comment or turns the source's lines."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    turning = "\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    return text.translate({ord(char): f"\\u{ord(char):04x}" for char in "<>&" + turning})


def _names(records: Sequence[RunRecord]) -> list[str]:
    """The name of each folder; with its parent's in a comparison or where two are the same, else with a number too."""
    paths = [record.path.absolute() for record in records]
    names = [path.name for path in paths]
    names = [
        f"{path.parent.name}/{path.name}"
        if names.count(path.name) > 1 or re.fullmatch(r"seed\d+", path.name)
        else path.name
        for path in paths
    ]
    return [
        short(f"{name} ({names[: place + 1].count(name)})" if names.count(name) > 1 else name, 60)
        for place, name in enumerate(names)
    ]


def _warnings(records: Sequence[RunRecord], runs: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for record, run in zip(records, runs, strict=True):
        for text in report_values.warnings_of(record):
            yield {"run": run, "text": text}
    if len(row_sets(records)) > 1:
        yield {
            "run": None,
            "text": "The runs were not evaluated on the same test rows, so their figures cannot be compared "
            "row by row; each group of rows has its own table of cases.",
        }


def _figures(
    records: Sequence[RunRecord], runs: Sequence[Any], names: Sequence[str], safe: Any
) -> dict[str, Any]:
    from r2d_jax.evaluation import plots

    there = {
        number: report_values.main_figures(record) for number, record in enumerate(records) if record.metrics
    }
    columns = {
        figure: heading
        for figure, heading in report_values.MAIN_FIGURES.items()
        if any(figure.name in found for found in there.values())
    }
    rows: list[dict[str, Any]] = [
        {
            "run": runs[number],
            "name": "",
            "cells": [report_values.cell(found.get(figure.name), figure.unit) for figure in columns],
        }
        for number, found in there.items()
    ]
    rows += [
        {"run": None, "name": name, "cells": cells}
        for name, cells in report_values.majority_rows(records, list(columns))
    ]
    drawn = []
    if len(there) > 1:
        labels = [short(name, 18) for name in names]
        for figure, heading in columns.items():
            name = figure.name
            dots = [plots.Dot(number, *found[name]) for number, found in there.items() if name in found]
            drawn.append(safe(plots.dots(heading, dots, labels, figure.unit.most)))
    intervals = any(interval for found in there.values() for _, interval in found.values())
    return {
        "columns": [{"title": heading, "up": figure.up} for figure, heading in columns.items()],
        "rows": rows,
        "all": report_values.all_figures([records[number] for number in there]),
        "plots": drawn,
        "intervals": intervals,
    }


def _result(record: RunRecord, number: int, run: Any, safe: Any) -> dict[str, Any] | None:
    from r2d_jax.evaluation import plots

    result: dict[str, Any] = {"run": run, "classes": None, "calibration": None}
    result["collapsed"] = report_values.collapse_of(record)
    if record.metrics.get("per_class") and record.metrics.get("confusion"):
        result |= report_labels.class_rows(record) | {"matrix": report_labels.matrix(record)}
    scored = report_labels.confidences(record)
    if scored[0]:
        bins, error = report_labels.calibration(*scored)
        result["calibration"] = {
            "plot": safe(plots.reliability("Reliability", bins, number)),
            "bins": [one for one in bins if one.rows],
            "note": f"Expected calibration error (ECE) {error:.3f} of label_confidence, which is not the "
            f"probability of the label; in {len(bins)} bins of equal width, over {len(scored[0])} rows. Dots below the "
            "dashed line: more confident than right.",
        }
    return result if result["classes"] or result["calibration"] else None


def _training(records: Sequence[RunRecord]) -> Iterator[tuple[str, str]]:
    from r2d_jax.evaluation import plots

    for panel in report_values.PANELS:
        lines = [
            plots.Line(
                number, *stage.curves[curve], kind, style, stage.best_step if style == "marked" else None
            )
            for number, record in enumerate(records)
            for stage in record.stages
            for curve, kind, style in panel.curves
            if stage.number == panel.stage and curve in stage.curves
        ]
        if lines:
            yield plots.curves(panel.title, lines, fraction=panel.fraction), panel.note


def _tables(
    records: Sequence[RunRecord], names: Sequence[str], include_text: bool
) -> Iterator[tuple[list[int], dict[str, Any]]]:
    for numbers in row_sets(records):
        runs = {number: records[number] for number in numbers}
        # Each run's own data is checked, though the texts are the same.
        texts = [load_case_texts(run) for run in runs.values()] if include_text else [None]
        reasons = report_faithfulness.case_reasons(list(runs.values()), texts[0])
        yield numbers, case_table(runs, names, texts[0]) | {"reasons": reasons}
