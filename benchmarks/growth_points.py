"""Points in a process of their own; in: a workload, made if need be, and points as JSON, out: a measurement a line."""

import json
import os
import pathlib
import sys
from collections.abc import Iterable
from typing import Any

from benchmarks.growth_meter import Meter
from benchmarks.workload import Workload


def measured(workload: Workload, point: dict[str, Any], meter: Meter) -> Iterable[dict[str, Any]]:
    """What a point measures; only what its axis needs is imported."""
    if point["axis"] == "labels":
        from benchmarks.growth_labels import labels_point

        return labels_point(point, meter)
    if point["axis"] == "rows":
        from benchmarks.growth_rows import rows_point

        return rows_point(workload, point, meter)
    from benchmarks.growth_steps import step_point

    return [{"part": point["part"], **step_point(workload, point, meter)}]


def main() -> None:
    """Answer all points, in order."""
    answers = os.fdopen(os.dup(1), "w")
    # Libraries print; standard output is for answers alone.
    os.dup2(2, 1)
    folder, shape, notes, points = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
    if not folder.is_dir():
        from benchmarks.prepare import make

        make(folder, shape, "short", rows=notes)
    workload = Workload.load(folder)
    for point in json.loads(points):
        meter = Meter(point["least"], point["most"], point["budget_secs"])
        same = {name: point[name] for name in ("axis", "x", "rows")}
        found = [same | one for one in measured(workload, point, meter)]
        for one in found:
            answers.write(json.dumps(one | {"process_bytes": meter.process_bytes}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
