"""How figures grow; in: measurements at several sizes, out: exponents, a fitted a + b·S + c·S², and verdicts."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.optimize

Measurement = dict[str, Any]

LIMITS = {"length": 2.0, "labels": 1.0, "batch": 0.0, "rows": 0.0}
"""Largest exponent of an example's cost that is still as claimed. By batch and rows the cost of one example must
not grow; by labels at most linearly; by length at most as attention does."""
SLACK = 0.1
"""Of an exponent, for noise."""
JUDGED = {"rows": ("before_batches", "batches")}
"""Where not every part has a verdict: from some size on the rows lie on disk, which makes some parts of the way dearer
once, and that is no growth."""
FLOOR_BYTES = 2**20
"""Less is taken as so much: how an allocator rounds is no growth."""


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Slope of log value over log size, by least squares over the upper half of the sizes.

    Args:
        sizes: at least two, ascending, above 0.
        values: as many, above 0.
    """
    count = max(2, -(-len(sizes) // 2))
    return float(np.polyfit(np.log(sizes[-count:]), np.log(values[-count:]), 1)[0])


def quadratic(sizes: Sequence[float], values: Sequence[float]) -> tuple[float, float, float]:
    """(a, b, c), none below 0, of the a + b·S + c·S² with the least squares of relative errors.

    Args:
        sizes: S, at least three.
        values: as many, above 0.
    """
    s, y = np.asarray(sizes, float), np.asarray(values, float)
    # In units of the largest size, so that the three columns are of like size.
    unit = s.max()
    columns = np.stack([np.ones_like(s), s / unit, (s / unit) ** 2], axis=1)
    found, _ = scipy.optimize.nnls(columns / y[:, None], np.ones_like(y))
    return float(found[0]), float(found[1] / unit), float(found[2] / unit**2)


def off_line(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Largest distance of the values from the straight line through the first and the last, as a share of them."""
    line = np.interp(sizes, [sizes[0], sizes[-1]], [values[0], values[-1]])
    return float(np.max(np.abs(np.asarray(values) - line) / np.asarray(values)))


def per_example(measurement: Measurement) -> dict[str, float | None]:
    """Median seconds, measured bytes and planned bytes of one example; None where they are not known."""
    rows = measurement["rows"]
    found: dict[str, float | None] = {"secs": statistics.median(measurement["secs"]) / rows}
    for name in ("bytes", "planned_bytes"):
        value = measurement.get(name)
        found[name] = None if value is None else value / rows
    return found


def judged(axis: str, points: Sequence[Measurement]) -> dict[str, Any]:
    """What each part's points say.

    Args:
        axis: one of LIMITS.
        points: part, x, rows, secs, and where known bytes, planned_bytes, attention_flops, weight_flops.

    Returns:
        By part: time and memory, each with exponent, limit and holds; memory is None where it was not measured.
        By length also fit (a, b, c, quadratic_share by S, worst relative error) and operations.
    """
    parts = dict.fromkeys(point["part"] for point in points)
    return {
        part: _judged_part(axis, sorted((p for p in points if p["part"] == part), key=lambda p: p["x"]))
        for part in parts
    }


def _judged_part(axis: str, points: list[Measurement]) -> dict[str, Any]:
    sizes = [point["x"] for point in points]
    secs = [per_example(point)["secs"] for point in points]
    result: dict[str, Any] = {"time": _verdict(axis, sizes, secs), "memory": None}
    if points[0]["part"] not in JUDGED.get(axis, (points[0]["part"],)):
        result["time"]["holds"] = None
    # What was measured counts; what the compiler plans stands in where the system does not tell.
    for name in ("planned_bytes", "bytes"):
        values = [point.get(name) for point in points]
        if all(value is not None for value in values):
            floored = [
                max(value, FLOOR_BYTES) / point["rows"] for value, point in zip(values, points, strict=True)
            ]
            result["memory"] = _verdict(axis, sizes, floored)
            if name == "planned_bytes":
                result["planned_memory"] = result["memory"]
    if axis == "length" and len(sizes) > 2:
        result["fit"] = _fit(sizes, secs)
    if "weight_flops" in points[0]:
        result["operations"] = _operations(sizes, points)
    return result


def _verdict(axis: str, sizes: Sequence[float], values: Sequence[Any]) -> dict[str, Any]:
    if len(sizes) < 2:
        return {"exponent": None, "limit": LIMITS[axis], "holds": None}
    slope = exponent(sizes, values)
    return {"exponent": slope, "limit": LIMITS[axis], "holds": slope <= LIMITS[axis] + SLACK}


def _fit(sizes: Sequence[float], secs: Sequence[Any]) -> dict[str, Any]:
    a, b, c = quadratic(sizes, secs)
    fitted = [a + b * size + c * size**2 for size in sizes]
    return {
        "a": a,
        "b": b,
        "c": c,
        "quadratic_share": {str(size): c * size**2 / y for size, y in zip(sizes, fitted, strict=True)},
        "worst_relative_error": max(abs(y / real - 1) for y, real in zip(fitted, secs, strict=True)),
    }


def _operations(sizes: Sequence[float], points: Sequence[Measurement]) -> dict[str, Any]:
    """How many operations are attention's, and whether all others lie on one straight line."""
    weights = [point["weight_flops"] / point["rows"] for point in points]
    attention = [point["attention_flops"] / point["rows"] for point in points]
    total = [a + w for a, w in zip(attention, weights, strict=True)]
    return {
        "attention_share": {
            str(size): part / whole for size, part, whole in zip(sizes, attention, total, strict=True)
        },
        "off_line": off_line(sizes, weights),
        "exponent_of_attention": exponent(sizes, attention) if len(sizes) > 1 else math.nan,
    }
