"""The work of `r2d calibrate`; in: a model folder and labelled rows, out: calibration.json in that folder."""

import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from r2d_jax.config import EvaluationConfig, MeshConfig
from r2d_jax.config_file import load_config
from r2d_jax.data.schema import Example
from r2d_jax.data.sources import read_examples
from r2d_jax.errors import UserError
from r2d_jax.evaluation.apply import predictor_of
from r2d_jax.evaluation.calibrate import calibrate
from r2d_jax.evaluation.calibration import (
    Calibration,
    RowSource,
    is_calibrated,
    load_calibration,
)
from r2d_jax.evaluation.fitted_rows import fitted_to
from r2d_jax.evaluation.labelled_rows import form_of_file, require_file_for, splits_as_trained
from r2d_jax.evaluation.model_folder import devices_in_use, find_model_folder, load_model, read_card
from r2d_jax.runtime.devices import enable_compile_cache
from r2d_jax.runtime.files import require_writable, write_text
from r2d_jax.runtime.mesh import check_batch_size, make_mesh
from r2d_jax.runtime.run_files import CALIBRATION, RUN_CONFIG, RUN_STATE


class Aim(NamedTuple):
    """When a model abstains, as `EvaluationConfig` has it."""

    target_risk: float | None
    risk_confidence: float | None


def settled_aim(
    model_path: pathlib.Path,
    target_risk: float | None,
    risk_confidence: float | None,
    *,
    empirical: bool,
    without_target: bool,
) -> Aim:
    """What was asked for, else what the calibration aims at that is replaced: a threshold in use is not lost.

    Args:
        model_path: run, exported or imported folder.
        target_risk: None: that of the earlier calibration, if any.
        risk_confidence: None: that of the earlier calibration where its target is kept, else 0.95.
        empirical: the target shall hold on the rows themselves.
        without_target: no target, whatever the earlier one was.

    Raises:
        UserError: no model folder, an earlier calibration that cannot be read, or requests that contradict each other.
    """
    if without_target:
        if target_risk is not None:
            raise UserError(
                "--no-target-risk", "cannot be combined with --target-risk", "Leave one of them out."
            )
        return Aim(None, None)
    confidence = EvaluationConfig().risk_confidence
    if target_risk is None:
        home = find_model_folder(model_path)
        try:
            earlier = load_calibration(home)
        except UserError as error:
            advice = "Give --target-risk or --no-target-risk to replace it."
            raise UserError(error.where, error.what, advice) from error
        if earlier is not None and earlier.target_risk is not None:
            target_risk, confidence = earlier.target_risk, earlier.risk_confidence
    return Aim(target_risk, None if empirical else risk_confidence or confidence)


def calibrate_model(
    model_path: pathlib.Path,
    *,
    input_file: pathlib.Path | None,
    columns: Mapping[str, str | None] | None = None,
    encoding: str = "utf-8",
    batch_size: int,
    target_risk: float | None,
    risk_confidence: float | None,
    overwrite: bool,
) -> tuple[Calibration, pathlib.Path]:
    """Fit the probabilities of a model to labelled rows, and write calibration.json beside it.

    Args:
        model_path: run, exported or imported folder.
        input_file: rows that the model was not trained on; None: the validation split of its own run.
        columns: names in the input that differ from those in training, by question, context, label and id; None where
            they do not.
        encoding: of the input.
        batch_size: rows computed at once.
        target_risk: largest share of wrong labels among those given; None: no threshold.
        risk_confidence: with which it shall hold on further rows; None: it holds on these rows.
        overwrite: replace a calibration that is there.

    Returns:
        The calibration, and its file.

    Raises:
        UserError: a fault of file or folder, no label set, or a calibration that is there.
    """
    columns = columns or {}
    require_file_for(input_file, columns, encoding)
    home = find_model_folder(model_path)
    card, path = read_card(home), home / CALIBRATION
    if not card.labels:
        raise UserError(str(model_path), "has no label set", "Calibrate a model trained by `r2d run`.")
    if path.exists() and not overwrite:
        raise UserError(str(path), "is there already", "Give --overwrite to replace it.")
    require_writable(path)
    examples = _rows(home, input_file, columns, encoding)
    enable_compile_cache()
    mesh = make_mesh(MeshConfig())
    check_batch_size("--batch-size", batch_size, 1, mesh)
    print(devices_in_use(home))
    model = load_model(model_path, mesh)
    if not is_calibrated(home, model.source):
        raise UserError(
            str(model_path),
            "is not the best checkpoint of stage 2",
            f"Give {home}, or export this one first.",
        )
    predictor = predictor_of(model, mesh, card.label_decode)
    encoded = predictor.encoder.encode(examples, None)
    calibration = calibrate(
        predictor,
        model.params,
        card.labels,
        [example.label for example in examples],
        predictor.encoder.features(encoded, predictor.encoder.shapes(encoded)),
        EvaluationConfig(batch_size=batch_size, target_risk=target_risk, risk_confidence=risk_confidence),
    )
    source: RowSource = "validation" if input_file is None else "file"
    calibration = fitted_to(calibration, examples, source)
    write_text(path, calibration.to_json())
    return calibration, path


def earlier_told(home: pathlib.Path) -> str | None:
    """Which files of a model folder, and of the export in a run, tell of an earlier calibration, and what to do.

    Args:
        home: folder that was just calibrated.

    Returns:
        A note; None where there is no such file.
    """
    places = ("evaluation/metrics.json", "export/README.md", "export/calibration.json", "README.md")
    found = [str(home / place) for place in places if (home / place).is_file()]
    if not found:
        return None
    run, evaluation, export = (
        shlex.quote(str(place)) for place in (home, home / "evaluation", home / "export")
    )
    anew = (
        f"Renew them: `r2d eval --model {run} --output {evaluation} --overwrite`, then "
        f"`r2d export --model {run} --output {export} --overwrite`"
        if (home / RUN_STATE).is_file()
        else "A run that is calibrated and then exported has a model card with the new figures"
    )
    return f"these files still show the earlier calibration: {', '.join(found)}. {anew}"


def _rows(
    home: pathlib.Path, input_file: pathlib.Path | None, columns: Mapping[str, str | None], encoding: str
) -> Sequence[Example]:
    if input_file is not None:
        form = form_of_file(home, columns)
        return read_examples(
            input_file, form.columns, rationale_sources=(), encoding=encoding, label_map=form.label_map
        )
    if not (home / RUN_CONFIG).is_file():
        raise UserError(str(home), "is not a run folder, so it has no validation split", "Give --input FILE.")
    config = load_config(home / RUN_CONFIG)
    return splits_as_trained(home, config).validation
