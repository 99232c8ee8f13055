"""Using a trained model; in: a model folder and a file of rows, out: predictions or scores."""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from jax.sharding import Mesh

from r2d_jax.config import Config, DataConfig, EvaluationConfig, LabelDecode, MeshConfig
from r2d_jax.config_check import rationale_source
from r2d_jax.config_file import load_config
from r2d_jax.data.features import FeatureEncoder, Features
from r2d_jax.data.mentions import is_blank
from r2d_jax.data.schema import Example
from r2d_jax.data.sources import read_examples
from r2d_jax.data.subgroups import MISSING
from r2d_jax.errors import UserError
from r2d_jax.evaluation.calibrate import left_out
from r2d_jax.evaluation.calibration import Calibration, load_calibration
from r2d_jax.evaluation.evaluate import NOT_SCORED, evaluate_rows, prediction_row
from r2d_jax.evaluation.label_scoring import LabelScorer, scores_of
from r2d_jax.evaluation.labelled_rows import require_file_for, rows_to_evaluate, splits_as_trained
from r2d_jax.evaluation.model_folder import (
    LoadedModel,
    ModelCard,
    devices_in_use,
    find_model_folder,
    load_model,
    read_card,
)
from r2d_jax.evaluation.ordinal import scale_of
from r2d_jax.evaluation.predict import Predictor, ScoreFn
from r2d_jax.evaluation.probability_scores import Probabilities
from r2d_jax.evaluation.scoring import require_scorer
from r2d_jax.evaluation.triage_scoring import least_cost_labels
from r2d_jax.model.label_trie import label_trie
from r2d_jax.runtime.devices import enable_compile_cache
from r2d_jax.runtime.distributed import agree, is_writer, require_same
from r2d_jax.runtime.files import write_jsonl
from r2d_jax.runtime.mesh import check_batch_size, make_mesh
from r2d_jax.runtime.outputs import (
    require_file,
    require_folder,
    require_json_lines,
    require_no_evaluation,
)
from r2d_jax.runtime.row_progress import row_progress
from r2d_jax.runtime.run_files import EVALUATION_FILES, RUN_CONFIG, RUN_STATE

_SUBGROUPS = "data.columns.subgroup"
_MISSING = "data.missing_rationales"
_TRIAGE = "evaluation.triage"
_BY_CALIBRATION = (
    "is settled by the calibration of the model",
    "Choose another threshold with `r2d calibrate --target-risk`.",
)
_OF_A_RUN = {
    "evaluation.target_risk": _BY_CALIBRATION,
    "evaluation.risk_confidence": _BY_CALIBRATION,
    "evaluation.rationale_decode_tokens": ("is settled by the training", "Leave it out; `r2d run` takes it."),
    "evaluation.worked_examples": (
        "has an effect at the end of `r2d run` only",
        "Leave it out; `r2d report --include-text` shows cases of a run.",
    ),
}


def _open(path: pathlib.Path, batch_size: int) -> tuple[LoadedModel, Mesh]:
    enable_compile_cache()
    mesh = make_mesh(MeshConfig())
    check_batch_size("--batch-size", batch_size, 1, mesh)
    if is_writer():
        print(devices_in_use(find_model_folder(path)))
    return load_model(path, mesh), mesh


def _label_decode(card: ModelCard, asked: str | None) -> str:
    """How labels are decoded: as asked for, else as the card has it."""
    decode = card.label_decode if asked is None else asked
    if decode not in get_args(LabelDecode):
        known = " or ".join(get_args(LabelDecode))
        raise UserError("--label-decode", f"{decode!r} is not known", f"Use {known}.")
    if decode == "constrained" and not card.labels:
        raise UserError(
            "--label-decode",
            "constrained needs a label set, and this model has none",
            "Use free, or a model trained by `r2d run`.",
        )
    return decode


def predictor_of(model: LoadedModel, mesh: Mesh, decode: str) -> Predictor:
    """What decodes with a model; `mesh` is the one its weights are on, `decode` "free" or "constrained"."""
    card = model.card
    limits = DataConfig(
        input_limit_tokens=card.input_limit_tokens,
        # Of gold rationales alone, and no limit of these is lower.
        rationale_limit_tokens=max(card.rationale_tokens, 2),
        label_limit_tokens=card.label_tokens,
    )
    encoder = FeatureEncoder(limits, model.tokenizer, card.labels)
    trie = label_trie(card.labels, model.tokenizer) if decode == "constrained" else None
    return Predictor.of(
        model.factory, encoder, card.rationale_tokens, card.rationale_prompt, mesh, label_trie=trie
    )


def _predictor(
    model: LoadedModel, mesh: Mesh, examples: Sequence[Example], source: str | None, decode: str
) -> tuple[Predictor, Features]:
    predictor = predictor_of(model, mesh, decode)
    encoder = predictor.encoder
    encoded = encoder.encode(examples, source)
    shapes = encoder.shapes(encoded)
    features = encoder.features(encoded, shapes)
    if features.cut_questions:
        print(
            f"warning: {features.cut_questions} of {len(examples)} inputs were cut to {shapes.question} tokens"
        )
    lost = encoder.lost_characters(examples, encoded)
    if lost.any():
        print(
            f"warning: the vocabulary lacks {lost.sum()} characters in {(lost > 0).sum()} of {len(examples)} inputs, "
            "and the model cannot tell them apart; `r2d data check FILE --tokenizer FOLDER` names them"
        )
    return predictor, features


def predict_file(
    model_path: pathlib.Path,
    input_file: pathlib.Path,
    output_file: pathlib.Path,
    *,
    columns: dict[str, Any],
    encoding: str = "utf-8",
    batch_size: int,
    label_decode: str | None = None,
    probabilities: bool = False,
    overwrite: bool = False,
    overrides: Sequence[str] = (),
) -> tuple[int, int]:
    """Predict every row of a file, in order; a row without a question stays in place, marked and without a prediction.

    Args:
        model_path: run, exported or imported folder.
        input_file: of any format that is read; labels and rationales are not read.
        output_file: JSONL, written whole or not at all; no name of another kind of table.
        columns: names that differ from those in training, by question, context and id.
        encoding: of the input.
        batch_size: rows decoded at once.
        label_decode: "free" or "constrained"; None: that of the model.
        probabilities: write those of all labels, however many there are.
        overwrite: replace a file that is there.
        overrides: "evaluation.triage={...}": what mistakes cost, in another way than the run's config has it. Where
            it is known, the label of least expected cost is written, too.

    Returns:
        The number of predictions, and of rows without a question.

    Raises:
        UserError: a fault of the file, folder or costs.
    """
    require_json_lines(output_file, "predictions")
    require_file(output_file, inputs=[input_file], overwrite=overwrite)
    # The rows before the weights: a wrong path is told at once.
    home = find_model_folder(model_path)
    card = read_card(home)
    asked = _of_predictions(home, overrides)
    scale = None if asked.triage is None else scale_of(asked.triage, card.labels)
    decode = _label_decode(card, label_decode)
    named = dataclasses.replace(card.columns, **columns)
    examples = read_examples(input_file, named, rationale_sources=(), encoding=encoding, need_targets=False)
    if probabilities and not card.labels:
        raise UserError("--probabilities", "this model has no label set", "Leave it out.")
    model, mesh = _open(model_path, batch_size)
    predictor, features = _predictor(model, mesh, examples, None, decode)
    calibration = _calibration_of(model, model_path, decode)
    score = _score(model, predictor, calibration, asked, anyway=probabilities or bool(overrides))

    def rows() -> Iterator[dict[str, Any]]:
        lists = predictor.predict(model.params, features, batch_size, score=score)
        for example, prediction in zip(examples, itertools.chain.from_iterable(lists), strict=True):
            row = prediction_row(example.row_id, prediction, card.labels) | NOT_SCORED
            if score is not None:
                scored = scores_of([prediction], len(card.labels))
                known = Probabilities.of(card.labels, scored, calibration, [prediction.label])
                row |= known.lines(every_label=probabilities)[0]
                if scale is not None:
                    row |= {"least_cost_label": least_cost_labels(scale, card.labels, known.table)[0]}
            # Whatever the model makes of nothing at all is no prediction.
            yield _unpredicted(row) if is_blank(example.question) else row

    with row_progress("predicting"):
        write_jsonl(output_file, rows())
    without = sum(is_blank(example.question) for example in examples)
    return len(examples) - without, without


def _unpredicted(row: dict[str, Any]) -> dict[str, Any]:
    """The line of a row without a question, with the fields of the others."""
    empty = dict.fromkeys(row) | {"id": row["id"], "label": "", "label_valid": False, "rationale": ""}
    empty |= {name: False for name in ("label_finished", "rationale_finished")}
    # Where rows are marked at all, one without an answer must not pass for an answered one.
    empty["abstained"] = None if row["abstained"] is None else True
    return (
        empty | ({"least_cost_label": ""} if "least_cost_label" in row else {}) | {"error": "empty question"}
    )


def _of_predictions(home: pathlib.Path, overrides: Sequence[str]) -> EvaluationConfig:
    """What mistakes cost, by the settings given, else by those of the run, and which labels the run scores."""
    for override in overrides:
        if not override.startswith(_TRIAGE):
            raise UserError(
                f"override {override.partition('=')[0]}",
                "is not a setting of predictions",
                f"Change {_TRIAGE} only; all else has an option.",
            )
    asked = _or_default(_run_config(home, overrides), overrides).evaluation
    # A threshold is the calibration's matter.
    return dataclasses.replace(asked, target_risk=None)


def _calibration_of(model: LoadedModel, path: pathlib.Path, decode: str) -> Calibration | None:
    calibration = load_calibration(find_model_folder(path), model.source) if model.card.labels else None
    if calibration is not None and calibration.target_risk is not None:
        if calibration.label_decode != decode:
            print(
                f"warning: the threshold was chosen for label_decode={calibration.label_decode}, and labels are now "
                f"decoded {decode}: the target_risk may not hold"
            )
        if calibration.threshold is None:
            print(
                "warning: no threshold reached the target_risk of this model: every row is marked as abstained"
            )
    return calibration


def _score(
    model: LoadedModel,
    predictor: Predictor,
    calibration: Calibration | None,
    settings: EvaluationConfig,
    *,
    anyway: bool,
) -> ScoreFn | None:
    """What scores the labels of the model; None where they are not scored."""
    labels = model.card.labels
    why = left_out(settings, labels)
    if labels and (
        why is None or anyway or (calibration is not None and calibration.target_risk is not None)
    ):
        return LabelScorer(predictor, labels).score_labels
    if labels:
        print(f"note: label_probability is left null ({why}); --probabilities computes it")
    return None


def _require_place(
    folder: pathlib.Path, written: Sequence[str], input_file: pathlib.Path | None, *, overwrite: bool
) -> None:
    fault = None
    # One process writes, and the others may not even see the place.
    if is_writer():
        try:
            require_folder(folder, written, inputs=[input_file])
            require_no_evaluation(folder, overwrite=overwrite)
        except UserError as error:
            fault = error
    # All end together: a process that waited for one that has gone would wait long.
    if agree(fault is not None):
        raise fault or UserError(str(folder), "is refused by process 0", "Do what that one says.")


def evaluate_model(
    model_path: pathlib.Path,
    folder: pathlib.Path,
    *,
    input_file: pathlib.Path | None,
    columns: Mapping[str, str | None] | None = None,
    encoding: str = "utf-8",
    split: str,
    settings: Mapping[str, Any],
    label_decode: str | None = None,
    overwrite: bool = False,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Predict and score labelled rows: of a file, or of a split of the model's own run.

    Args:
        model_path: run, exported or imported folder.
        folder: where predictions and metrics go.
        input_file: labelled rows; None: those of the run.
        columns: names in the input that differ from those in training, by question, context, label, id and
            rationale; None where they do not.
        encoding: of the input.
        split: "test" or "validation", where there is no input_file.
        settings: fields of EvaluationConfig that differ from the run's.
        label_decode: "free" or "constrained"; None: that of the model.
        overwrite: replace an evaluation that is there.
        overrides: "evaluation.triage={...}" or "data.columns.subgroups={...}": what is scored, in another way than
            the run's config has it; with an input "data.missing_rationales=keep": rows without a rationale are
            scored by their labels.

    Raises:
        UserError: a fault of the file, folder or settings, no run to take the split from, or an evaluation that is
            there.
    """
    # Only what stands there already may be measured anew: the run's own test rows, by its own best model.
    anew = input_file is None and split == "test" and (model_path / RUN_STATE).is_file()
    anew = anew and folder.resolve() == (model_path / "evaluation").resolve()
    _require_place(folder, () if anew else EVALUATION_FILES, input_file, overwrite=overwrite)
    columns = columns or {}
    require_file_for(input_file, columns, encoding)
    if input_file is None and any(override.startswith(_MISSING) for override in overrides):
        # Other rows left out are other splits.
        raise UserError(
            f"override {_MISSING}", "is for rows of --input", "Leave it out; a run knows its own."
        )
    home = find_model_folder(model_path)
    card, config = read_card(home), _run_config(home, overrides)
    asked = _or_default(config, overrides)
    decode = _label_decode(card, label_decode)
    if asked.evaluation.triage is not None:
        scale_of(asked.evaluation.triage, card.labels)
    if input_file is not None:
        # Named now, a column has to be there; a file of another place may lack one that the training had.
        named = any(override.startswith(_SUBGROUPS) for override in overrides)
        groups = asked.data.columns if named else card.columns
        examples, source = rows_to_evaluate(
            card,
            input_file,
            dataclasses.replace(
                card.columns, subgroups=groups.subgroups, subgroup_edges=groups.subgroup_edges
            ),
            names=columns,
            encoding=encoding,
            keep_missing=asked.data.missing_rationales != "error",
            need_subgroups=named,
        )
        if source is None and card.columns.rationales:
            print(f"note: no row of {input_file} has a rationale, so labels alone are scored")
        for name in groups.subgroups:
            if all(example.subgroups[name] == MISSING for example in examples):
                print(f"warning: no row of {input_file} has a value for the subgroup {name!r}")
    elif config is None:
        raise UserError(str(model_path), "is not a run folder, so it has no test split", "Give --input FILE.")
    elif split not in ("test", "validation"):
        raise UserError("--split", f"{split!r} is not a split to evaluate", "Use test or validation.")
    else:
        source = rationale_source(config, config.stage2)
        examples = getattr(splits_as_trained(home, config), split)
    # A threshold is the calibration's matter, and needs no probabilities of a run that has none.
    evaluation = dataclasses.replace(asked.evaluation, **settings, target_risk=None)
    require_scorer(None if source is None else evaluation.bertscore)
    require_same("settings", [repr((card, decode, evaluation)).encode()])
    require_same("rows", (repr(example).encode() for example in examples))
    model, mesh = _open(model_path, evaluation.batch_size)
    predictor, features = _predictor(model, mesh, examples, source, decode)
    return evaluate_rows(
        model,
        predictor,
        examples,
        features,
        source,
        settings=evaluation,
        folder=folder,
        calibration=_calibration_of(model, model_path, decode),
    )


def _or_default(config: Config | None, overrides: Sequence[str]) -> Config:
    """Settings of an evaluation where a model comes without those of its run."""
    return config or load_config(None, ["data.source=triage", *overrides])


def _run_config(folder: pathlib.Path, overrides: Sequence[str] = ()) -> Config | None:
    for override in overrides:
        name = override.partition("=")[0]
        if name in _OF_A_RUN:
            # Taken, it would do nothing.
            raise UserError(f"override {name}", *_OF_A_RUN[name])
        if not override.startswith(("evaluation.", _SUBGROUPS, _MISSING)):
            raise UserError(
                f"override {name}",
                "is settled by the training",
                "Change settings of evaluation, data.columns.subgroups and data.columns.subgroup_edges only.",
            )
    path = folder / RUN_CONFIG
    return load_config(path, overrides) if path.is_file() else None
