"""Methods side by side; in: evaluation folders of finished runs by method, out: figures over seeds, and tests."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from r2d_jax.errors import UserError
from r2d_jax.evaluation.comparable import incomparable, statement_rules
from r2d_jax.evaluation.figures import Figure, figure_at, headings
from r2d_jax.evaluation.intervals import (
    Statistic,
    bootstrap_interval,
    macro_f1_of,
    mean_of,
    paired_test,
    text_ids,
)
from r2d_jax.evaluation.metrics import counted_labels, normalise_label
from r2d_jax.evaluation.resampling import CLUSTER
from r2d_jax.runtime.run_files import EVALUATION_METRICS, PREDICTIONS, ROW_SCORES

COLUMNS = headings("compared")
TESTED = tuple(figure.name for figure in COLUMNS if figure.tested)
_SHARES = {figure.name for figure in COLUMNS if figure.name.endswith("_fraction")} | {"accuracy", "rouge_l"}


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What one finished run says.

    Attributes:
        metrics: of metrics.json.
        ids: of the test rows.
        gold: gold labels, N.
        predicted: predicted labels, N.
        rows: figure to float64 [N], nan where a row does not count.
        clusters: int64 [N], of `clusters_of`; None: each row is a case of its own.
    """

    metrics: dict[str, Any]
    ids: tuple[str, ...]
    gold: tuple[str, ...]
    predicted: tuple[str, ...]
    rows: dict[str, np.ndarray]
    clusters: np.ndarray | None = None


def read_result(folder: pathlib.Path) -> RunResult:
    """The result in a run's evaluation folder.

    Raises:
        UserError: a file is missing or not readable.
    """
    try:
        metrics = json.loads((folder / EVALUATION_METRICS).read_text(encoding="utf-8"))
        predictions = _json_lines(folder / PREDICTIONS)
        scores = _json_lines(folder / ROW_SCORES)
        ids = tuple(row["id"] for row in predictions)
        names = [name for name in (scores[0] if scores else {}) if name not in ("id", CLUSTER)]
        grouped = bool(scores) and CLUSTER in scores[0]
        rows = {
            name: np.array([np.nan if row[name] is None else row[name] for row in scores], float)
            for name in names
        }
        return RunResult(
            metrics,
            ids,
            tuple(row["gold_label"] for row in predictions),
            tuple(row["label"] for row in predictions),
            rows,
            np.array([row[CLUSTER] for row in scores], np.int64) if grouped else None,
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            str(folder), f"holds no readable evaluation ({type(error).__name__})", "Run the evaluation again."
        ) from error


def _json_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    # Not splitlines(): a text may hold other line ends than "\n".
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


Results = Mapping[str, Mapping[int, RunResult]]
"""Method to training seed to result."""


def compare(results: Results, reference: str, *, resamples: int = 1000) -> dict[str, Any]:
    """Figures of each method over its seeds, and how each differs from the reference on the same rows.

    Args:
        results: at least one seed per method; all of the same test rows in the same order.
        reference: the method that the others are tested against.
        resamples: of intervals and tests.

    Returns:
        rows; groups (of rows that are drawn and swapped together; None: each row by itself); reference; methods: name
        to seeds and figures: path to mean, sd (over seeds, n - 1), low and high (95 % bootstrap over rows of the
        mean over seeds); tests: name to path to difference, low, high, p_value and p_holm (Holm's correction
        over all tests of that path); collapsed: name to seeds whose model gives nearly one label only;
        statement_rules: versions of the rules that found what rationales state; left_out: why figures are in neither
        methods nor tests, one line for each group of figures that the runs did not measure in one unit
        (`comparable.incomparable`).

    Raises:
        UserError: test rows or their gold labels differ between runs.
    """
    every = [result for seeds in results.values() for result in seeds.values()]
    shared = every[0].ids
    if any(result.ids != shared for result in every):
        raise UserError("comparison", "the runs have different test rows", "Compare runs of one data set.")
    # Ids may be mere line numbers.
    if len({tuple(map(normalise_label, result.gold)) for result in every}) != 1:
        raise UserError(
            "comparison",
            "the test rows of the runs have different gold labels",
            "Compare runs of one data set and one data.label_map.",
        )
    measured = [result.metrics for result in every]
    left_out = list(incomparable(measured))
    beginnings = tuple(beginning for one in left_out for beginning in one.beginnings)
    columns = [one for one in COLUMNS if not one.name.startswith(beginnings)]
    tested = [name for name in TESTED if not name.startswith(beginnings)]
    # Evaluations of earlier versions do not tell.
    clusters = next((result.clusters for result in every if result.clusters is not None), None)
    tests = {
        name: _tests(seeds, results[reference], tested, len(shared), resamples, clusters)
        for name, seeds in results.items()
        if name != reference
    }
    _correct(tests)
    return {
        "rows": len(shared),
        "groups": None if clusters is None else int(clusters.max()) + 1,
        "reference": reference,
        "methods": {
            name: {
                "seeds": sorted(seeds),
                "figures": _figures(seeds, columns, len(shared), resamples, clusters),
            }
            for name, seeds in results.items()
        },
        "tests": tests,
        "collapsed": {
            name: sorted(seed for seed, result in seeds.items() if result.metrics.get("collapsed"))
            for name, seeds in results.items()
        },
        "statement_rules": statement_rules(measured),
        "left_out": [one.why for one in left_out],
    }


def _counted(result: RunResult) -> list[str]:
    return counted_labels(result.predicted, result.rows.get("invalid_fraction", np.zeros(len(result.ids))))


def _statistic(result: RunResult, path: str) -> Statistic | None:
    if path == "macro_f1":
        gold = [normalise_label(text) for text in result.gold]
        return macro_f1_of(*text_ids(gold, _counted(result)))
    return mean_of(result.rows[path], share=path in _SHARES) if path in result.rows else None


def _mean_of(statistics: Sequence[Statistic]) -> Statistic:
    """The mean over seeds; of a single one itself, which tells whether it is a share."""
    if len(statistics) == 1:
        return statistics[0]
    return lambda sample: np.mean([one(sample) for one in statistics], axis=0)


def _figures(
    seeds: Mapping[int, RunResult],
    columns: Sequence[Figure],
    rows: int,
    resamples: int,
    clusters: np.ndarray | None,
) -> dict[str, dict[str, float | None]]:
    figures: dict[str, dict[str, float | None]] = {}
    for figure in columns:
        values = [figure_at(result.metrics, figure.name) for result in seeds.values()]
        if any(value is None for value in values):
            continue
        known = np.array(values, float)
        statistics = [_statistic(result, figure.name) for result in seeds.values()]
        interval = None
        if all(statistics):
            interval = bootstrap_interval(
                _mean_of([one for one in statistics if one]), rows, resamples=resamples, clusters=clusters
            )
        low, high = interval or (None, None)
        figures[figure.name] = {
            "mean": float(known.mean()),
            "sd": float(known.std(ddof=1)) if len(known) > 1 else None,
            "low": low,
            "high": high,
        }
    return figures


def _tests(
    method: Mapping[int, RunResult],
    reference: Mapping[int, RunResult],
    tested: Sequence[str],
    rows: int,
    resamples: int,
    clusters: np.ndarray | None,
) -> dict[str, dict[str, float | None]]:
    shared = sorted(set(method) & set(reference))
    found: dict[str, dict[str, float | None]] = {}
    for path in tested:
        statistics = [_both(method[seed], reference[seed], path) for seed in shared]
        if statistics and all(statistics):
            test = paired_test(
                [one for one in statistics if one], rows, resamples=resamples, clusters=clusters
            )
            found[path] = dataclasses.asdict(test)
    return found


def _both(first: RunResult, second: RunResult, path: str) -> Statistic | None:
    """The statistic over the rows of `first` followed by those of `second`."""
    if path == "macro_f1":
        gold = [normalise_label(text) for text in first.gold + second.gold]
        return macro_f1_of(*text_ids(gold, _counted(first) + _counted(second)))
    if path not in first.rows or path not in second.rows:
        return None
    return mean_of(np.concatenate([first.rows[path], second.rows[path]]))


def _correct(tests: dict[str, dict[str, dict[str, Any]]]) -> None:
    for path in TESTED:
        family = sorted(
            (found[path] for found in tests.values() if path in found), key=lambda test: test["p_value"]
        )
        worst = 0.0
        for place, test in enumerate(family):
            worst = max(worst, min(1.0, test["p_value"] * (len(family) - place)))
            test["p_holm"] = worst
