"""What a run wrote, for its report; in: the folder of a run, finished or not, out: a RunRecord, and what is missing."""

import dataclasses
import json
import math
import pathlib
import sys
from collections.abc import Mapping
from typing import Any, TypeGuard

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from r2d_jax.errors import UserError
from r2d_jax.methods import METHODS
from r2d_jax.runtime.run_files import (
    CALIBRATION,
    EVALUATION_METRICS,
    FAITHFULNESS,
    MODEL_CARD,
    PREDICTIONS,
    RUN_CONFIG,
    RUN_STATE,
    STEP_LOG,
)

Curve = tuple[tuple[int, ...], tuple[float, ...]]
"""Steps (updates done) and the value at each; NaN where a value is not finite."""


@dataclasses.dataclass(frozen=True)
class StageRecord:
    """What one stage logged.

    Attributes:
        number: 1 or 2.
        curves: curve by name, such as "eval/macro_f1".
        last_step: the last step in the log; 0 where there is none.
        max_steps: length of the stage as configured; 0 where it is not known.
        done: the stage has ended.
        best_step: the checkpoint chosen, or best so far; None before the first.
    """

    number: int
    curves: Mapping[str, Curve]
    last_step: int
    max_steps: int
    done: bool
    best_step: int | None

    def value_at(self, name: str, step: int | None) -> float | None:
        """The value of a curve at a step; None where it has none."""
        steps, values = self.curves.get(name, ((), ()))
        return values[steps.index(step)] if step in steps else None


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """What one run wrote.

    Attributes:
        path: its folder.
        settings: every value of config.yaml by dotted name.
        labels: the label set; empty before the run has stored it.
        stages: the two stages, in order.
        metrics: metrics.json of the test evaluation, without what belongs to another calibration than the run
            has now; empty before the evaluation.
        predictions: rows of predictions.jsonl; empty before the test evaluation.
        data_hash: of the rows of all splits, "" where it is not stored.
        missing: what an unfinished run lacks, in words.
        reasons: rows of faithfulness.jsonl; empty where the run has none.
        recalibrated: whether `r2d calibrate` has changed the calibration since the test evaluation.
    """

    path: pathlib.Path
    settings: Mapping[str, Any]
    labels: tuple[str, ...]
    stages: tuple[StageRecord, StageRecord]
    metrics: Mapping[str, Any]
    predictions: tuple[Mapping[str, Any], ...]
    data_hash: str
    missing: tuple[str, ...]
    reasons: tuple[Mapping[str, Any], ...] = ()
    recalibrated: bool = False


def read_run(path: pathlib.Path) -> RunRecord:
    """Read what the run in a folder has written so far; the weights are not touched.

    Raises:
        UserError: no run there, or a file of it is damaged (names the file).
    """
    if not (path / RUN_STATE).is_file():
        fault = f"no run here ({RUN_STATE} is missing)" if path.is_dir() else "no such folder"
        raise UserError(str(path), fault, "Give the --workdir of a run, or of `r2d compare`.")
    state = _json_object(path / RUN_STATE)
    settings = _flat(_yaml(path / RUN_CONFIG)) if (path / RUN_CONFIG).is_file() else {}
    card = _json_object(path / MODEL_CARD) if (path / MODEL_CARD).is_file() else {}
    labels = card.get("labels", [])
    if not isinstance(labels, list):
        raise _damaged(str(path / MODEL_CARD))
    metrics_file = path / "evaluation" / EVALUATION_METRICS
    metrics = _with_cells(_json_object(metrics_file)) if metrics_file.is_file() else {}
    if not _is_whole(metrics):
        raise _damaged(str(metrics_file))
    calibration = path / CALIBRATION
    recalibrated = calibration.is_file() and _is_another(_json_object(calibration), metrics)
    if recalibrated:
        metrics = _without_calibration(metrics)
    stages = (_stage(path, 1, state, settings), _stage(path, 2, state, settings))
    predictions = tuple(_json_lines(path / "evaluation" / PREDICTIONS))
    missing = [text for stage in stages if _has_stage(settings, stage.number) and (text := _missing(stage))]
    if not settings:
        missing.append(f"{RUN_CONFIG} is missing")
    if not predictions:
        missing.append("there are no test predictions yet")
    if not metrics:
        missing.append("there are no test figures yet")
    return RunRecord(
        path=path,
        settings=settings,
        labels=tuple(map(str, labels)),
        stages=stages,
        metrics=metrics,
        predictions=predictions,
        data_hash=str(state.get("data_hash", "")),
        missing=tuple(missing),
        reasons=tuple(_json_lines(path / "evaluation" / FAITHFULNESS)),
        recalibrated=recalibrated,
    )


def stored_data_hash(path: pathlib.Path) -> str:
    """Content hash of the rows that the run in a folder began with; "" where the folder does not say it.

    Raises:
        UserError: run.json is damaged.
    """
    state = path / RUN_STATE
    return str(_json_object(state).get("data_hash", "")) if state.is_file() else ""


def _stage(
    path: pathlib.Path, number: int, state: Mapping[str, Any], settings: Mapping[str, Any]
) -> StageRecord:
    folder = path / f"stage{number}"
    # A line that a kill cut off is done again when the run goes on.
    rows = _json_lines(folder / STEP_LOG, cut_off_allowed=True)
    done, max_steps = state.get(f"stage{number}_done"), settings.get(f"stage{number}.max_steps")
    return StageRecord(
        number=number,
        curves=_curves(rows),
        last_step=max((row["step"] for row in rows), default=0),
        max_steps=max_steps if isinstance(max_steps, int) else 0,
        done=bool(done),
        best_step=done.get("best_step") if isinstance(done, dict) else _best_so_far(folder),
    )


def _best_so_far(folder: pathlib.Path) -> int | None:
    if not (folder / "best").is_dir():
        return None
    # Loads Orbax, which takes seconds; a finished stage does without.
    from r2d_jax.runtime.checkpoint_files import best_step

    return best_step(folder)


def _curves(rows: list[dict[str, Any]]) -> dict[str, Curve]:
    points: dict[str, dict[int, float]] = {}
    for row in rows:
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float | None):
                there = points.setdefault(name, {})
                there[row["step"]] = math.nan if value is None or not is_number(value) else value
    return {
        name: (tuple(sorted(by_step)), tuple(by_step[step] for step in sorted(by_step)))
        for name, by_step in points.items()
    }


def _has_stage(settings: Mapping[str, Any], number: int) -> bool:
    # As config_check.stage_configs, but of settings that another version may have written.
    method = METHODS.get(str(settings.get("method", "r2d")))
    first = method is not None and method.two_stages and settings.get("stage1.enabled", True) is not False
    return number == 2 or first


def _missing(stage: StageRecord) -> str | None:
    if stage.done:
        return None
    if not stage.last_step:
        return f"stage {stage.number} has logged nothing yet"
    return f"stage {stage.number} is not finished (step {stage.last_step} of {stage.max_steps or 'unknown'})"


def _is_another(calibration: Mapping[str, Any], metrics: Mapping[str, Any]) -> bool:
    """Whether figures of probabilities are of another calibration than this one."""
    scaled, choice = metrics.get("calibration"), metrics.get("abstention")
    evaluated = pathlib.PurePosixPath(str(metrics.get("model")).replace("\\", "/")).parts[-3:-1]
    # No other checkpoint is calibrated.
    if not isinstance(scaled, dict) or not isinstance(choice, dict) or evaluated != ("stage2", "best"):
        return False
    told = {"temperature": scaled.get("temperature")}
    told |= {name: choice.get(name) for name in ("target_risk", "risk_confidence", "threshold")}
    return not all(_is_close(value, calibration.get(name)) for name, value in told.items())


def _is_close(value: Any, other: Any) -> bool:
    # Rows computed in batches of another size differ in the last digits.
    both = is_number(value) and is_number(other)
    return math.isclose(value, other, rel_tol=1e-3) if both else value == other


def _without_calibration(metrics: Mapping[str, Any]) -> dict[str, Any]:
    left = {name: value for name, value in metrics.items() if name not in ("calibration", "abstention")}
    if isinstance(triage := left.get("triage"), dict):
        # Both rules choose by probabilities.
        left["triage"] = {name: value for name, value in triage.items() if name != "rules"}
    if isinstance(subgroups := left.get("subgroups"), dict):
        left["subgroups"] = _without_rules(subgroups)
    return left


def _without_rules(value: Any) -> Any:
    """The same, but no figure of a rule that chooses by probabilities, however deep it stands."""
    if isinstance(value, dict):
        return {
            name: _without_rules(one) for name, one in value.items() if not name.startswith("triage.rules.")
        }
    return [_without_rules(one) for one in value] if isinstance(value, list) else value


def _with_cells(metrics: dict[str, Any]) -> dict[str, Any]:
    """The same, but a confusion matrix that an earlier version wrote whole, as `counts`, in today's cells."""
    confusion = metrics.get("confusion")
    if not isinstance(confusion, dict) or "counts" not in confusion:
        return metrics
    try:
        labels = list(confusion["labels"])
        cells = [
            {"gold": gold, "predicted": predicted, "count": count}
            for gold, row in zip(labels, confusion["counts"], strict=True)
            for predicted, count in zip([*labels, None], row, strict=True)
            if count
        ]
    except (KeyError, TypeError, ValueError):
        return metrics
    return metrics | {"confusion": {"labels": labels, "cells": cells}}


def _is_whole(metrics: Mapping[str, Any]) -> bool:
    """Whether what `label_metrics` returns has its form, where it is there."""
    per_class, confusion = metrics.get("per_class", {}), metrics.get("confusion", {})
    majority = metrics.get("majority_class", {})
    if not all(isinstance(part, dict) for part in (per_class, confusion, majority)):
        return False
    figures = [majority[name] for name in ("macro_f1", "accuracy") if name in majority]
    if not all(map(is_number, figures)) or not isinstance(metrics.get("collapsed") or "", str):
        return False
    if not isinstance(metrics.get("labels_outside_set", []), list):
        return False
    scores = ("precision", "recall", "f1", "support", "predicted")
    return all(
        isinstance(row, dict) and all(is_number(row.get(name)) for name in scores)
        for row in per_class.values()
    ) and (not confusion or _is_confusion(confusion))


def _is_confusion(confusion: Mapping[str, Any]) -> bool:
    labels, cells = confusion.get("labels"), confusion.get("cells")
    if not isinstance(labels, list) or not isinstance(cells, list):
        return False
    if not all(isinstance(label, str) for label in labels):
        return False
    known = frozenset(labels)

    def is_known(label: Any) -> bool:
        return isinstance(label, str) and label in known

    return all(
        isinstance(cell, dict)
        and is_known(cell.get("gold"))
        and (is_known(cell.get("predicted", 0)) or cell.get("predicted", 0) is None)
        and is_number(cell.get("count"))
        for cell in cells
    )


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a JSON value is a number, and a finite one."""
    # A whole number of JSON may be longer than any float.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= (
            _flat(value, f"{prefix}{key}.")
            if isinstance(value, dict) and value
            else {f"{prefix}{key}": value}
        )
    return flat


def _damaged(where: str, error: Exception | None = None) -> UserError:
    # Only the kind of fault is told: what stands in the file may be case text.
    kind = f" ({type(error).__name__})" if error else ""
    return UserError(where, f"is damaged{kind}", "Restore it, or do this part of the run again.")


def _yaml(path: pathlib.Path) -> dict[str, Any]:
    # Read as it is: a run of another version, with other settings, can be reported too.
    try:
        loaded = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
        # Through JSON, which has no dates, and refuses what holds itself.
        values = json.loads(json.dumps(loaded, default=str))
    except (YAMLError, ValueError, TypeError, RecursionError) as error:
        raise _damaged(str(path), error) from error
    if not isinstance(values, dict):
        raise _damaged(str(path))
    return values


def _json_object(path: pathlib.Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(str(path), error) from error
    if not isinstance(value, dict):
        raise _damaged(str(path))
    return value


def _json_lines(path: pathlib.Path, *, cut_off_allowed: bool = False) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except ValueError as error:
        raise _damaged(str(path), error) from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if cut_off_allowed and number == len(lines):
                break
            raise _damaged(f"{path} line {number}", error) from error
        if not isinstance(row, dict) or (cut_off_allowed and not isinstance(row.get("step"), int)):
            raise _damaged(f"{path} line {number}")
        rows.append(row)
    return rows
