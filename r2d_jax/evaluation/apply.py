"""Using a trained model; in: a model folder and a file of rows, out: predictions, scores, or another format."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jax.sharding import Mesh

from r2d_jax.config import Config, DataConfig, EvaluationConfig, MeshConfig, T5Config
from r2d_jax.config_check import rationale_source, used_sources
from r2d_jax.config_file import load_config
from r2d_jax.data.features import FeatureEncoder, Features
from r2d_jax.data.schema import Example
from r2d_jax.data.sources import read_examples
from r2d_jax.data.splits import load_splits
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.errors import UserError
from r2d_jax.evaluation.evaluate import evaluate_rows, prediction_row
from r2d_jax.evaluation.export import export_model
from r2d_jax.evaluation.model_folder import (
    CARD_FILE,
    TOKENIZER_FOLDER,
    WEIGHTS_FOLDER,
    LoadedModel,
    ModelCard,
    find_model_folder,
    load_model,
    read_card,
)
from r2d_jax.evaluation.predict import Predictor
from r2d_jax.evaluation.report import write_predictions
from r2d_jax.model.hf_format import locate, read_hf_folder
from r2d_jax.model.t5x_format import read_t5x_checkpoint
from r2d_jax.runtime.checkpoint import save_weights
from r2d_jax.runtime.devices import enable_compile_cache
from r2d_jax.runtime.files import write_text
from r2d_jax.runtime.mesh import check_batch_size, make_mesh

# A label limit for models that come without a label set (the published target length).
_IMPORTED_LABEL_TOKENS = 50


def _open(path: pathlib.Path, batch_size: int) -> tuple[LoadedModel, Mesh]:
    enable_compile_cache()
    mesh = make_mesh(MeshConfig())
    check_batch_size("--batch-size", batch_size, 1, mesh)
    return load_model(path, mesh), mesh


def _predictor(
    model: LoadedModel, mesh: Mesh, examples: Sequence[Example], source: str | None
) -> tuple[Predictor, Features]:
    limits = DataConfig(
        input_limit_tokens=model.card.input_limit_tokens,
        rationale_limit_tokens=model.card.rationale_tokens,
        label_limit_tokens=model.card.label_tokens,
    )
    encoder = FeatureEncoder(limits, model.tokenizer, model.card.labels)
    encoded = encoder.encode(examples, source)
    shapes = encoder.shapes(encoded)
    features = encoder.features(encoded, shapes)
    if features.cut_questions:
        print(
            f"warning: {features.cut_questions} of {len(examples)} inputs were cut to {shapes.question} tokens"
        )
    card = model.card
    return Predictor(model.factory, encoder, card.rationale_tokens, card.rationale_prompt, mesh), features


def _require_free(output: pathlib.Path, input_file: pathlib.Path | None) -> None:
    if output.is_dir():
        raise UserError(str(output), "is a folder, not a file", "Name the file to write.")
    if input_file is not None and output.exists() and input_file.exists() and output.samefile(input_file):
        raise UserError(str(output), "is the input itself", "Choose another --output; nothing was changed.")


def predict_file(
    model_path: pathlib.Path,
    input_file: pathlib.Path,
    output_file: pathlib.Path,
    *,
    columns: dict[str, Any],
    batch_size: int,
) -> int:
    """Predict every row of a file, in order; a row without a question stays in place, marked.

    Args:
        model_path: run, exported or imported folder.
        input_file: JSONL or CSV; labels and rationales are not read.
        output_file: JSONL, written whole or not at all.
        columns: names that differ from those in training, by question, context and id.
        batch_size: rows decoded at once.

    Returns:
        The number of rows.

    Raises:
        UserError: a fault of the file or folder.
    """
    if not output_file.absolute().parent.is_dir():
        raise UserError(
            str(output_file), "its folder does not exist", "Create it, or choose another --output."
        )
    _require_free(output_file, input_file)
    # The rows before the weights: a wrong path is told at once.
    named = dataclasses.replace(read_card(find_model_folder(model_path)).columns, **columns)
    examples = read_examples(input_file, named, rationale_sources=(), need_targets=False)
    model, mesh = _open(model_path, batch_size)
    predictor, features = _predictor(model, mesh, examples, None)

    def rows() -> Iterator[dict[str, Any]]:
        done = iter(examples)
        for batch in predictor.predict(model.params, features, batch_size):
            for prediction in batch:
                example = next(done)
                row = prediction_row(example.row_id, prediction, model.card.labels)
                if not example.question.strip():
                    row |= {"label": "", "label_valid": False, "rationale": "", "error": "empty question"}
                yield row

    write_predictions(output_file, rows())
    return len(examples)


def evaluate_model(
    model_path: pathlib.Path,
    folder: pathlib.Path,
    *,
    input_file: pathlib.Path | None,
    split: str,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Predict and score labelled rows: of a file, or of a split of the model's own run.

    Args:
        model_path: run, exported or imported folder.
        folder: where predictions and metrics go.
        input_file: labelled rows; None: those of the run.
        split: "test" or "validation", where there is no input_file.
        settings: fields of EvaluationConfig that differ from the run's.

    Raises:
        UserError: a fault of the file or folder, or no run to take the split from.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(str(folder), "is a file, not a folder", "Name the folder to write to.")
    _require_free(folder / "predictions.jsonl", input_file)
    home = find_model_folder(model_path)
    config = _run_config(home)
    if input_file is not None:
        card = read_card(home)
        source = next(iter(card.columns.rationales), None)
        sources = () if source is None else (source,)
        examples: Sequence[Example] = read_examples(
            input_file, card.columns, rationale_sources=sources, label_map=card.label_map
        )
    elif config is None:
        raise UserError(str(model_path), "is no run folder, so it has no test split", "Give --input FILE.")
    elif split not in ("test", "validation"):
        raise UserError("--split", f"{split!r} is not a split to evaluate", "Use test or validation.")
    else:
        source = rationale_source(config, config.stage2)
        examples = getattr(load_splits(config.data, config.seed, used_sources(config)), split)
    evaluation = dataclasses.replace(config.evaluation if config else EvaluationConfig(), **settings)
    model, mesh = _open(model_path, evaluation.batch_size)
    predictor, features = _predictor(model, mesh, examples, source)
    return evaluate_rows(model, predictor, examples, features, source, settings=evaluation, folder=folder)


def _run_config(folder: pathlib.Path) -> Config | None:
    path = folder / "config.yaml"
    return load_config(path) if path.is_file() else None


def export_folder(model_path: pathlib.Path, folder: pathlib.Path, *, dtype: str, overwrite: bool) -> str:
    """Export a model to a Hugging Face folder; returns which checkpoint it was.

    Raises:
        UserError: no model there, an unknown dtype, or the target exists.
    """
    if dtype not in ("float32", "bfloat16"):
        raise UserError("--dtype", f"{dtype!r} is not known", "Use float32 or bfloat16.")
    enable_compile_cache()
    model = load_model(model_path, make_mesh(MeshConfig()))
    export_model(model, folder, dtype=dtype, overwrite=overwrite)
    return model.source


def import_model(source: str, folder: pathlib.Path, tokenizer_source: str | None) -> str:
    """Convert a Hugging Face folder, hub name or T5X checkpoint file into `folder`; returns a description.

    Raises:
        UserError: nothing readable there, no tokenizer, or the target is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(str(folder), "is not empty", "Choose another --output; nothing was changed.")
    path = locate(source)
    is_file = path.is_file()
    shape, params = read_t5x_checkpoint(path) if is_file else read_hf_folder(path)
    if tokenizer_source is None and is_file:
        raise UserError(source, "a T5X checkpoint holds no tokenizer", "Name one with --tokenizer.")
    tokenizer = Tokenizer.load(locate(tokenizer_source) if tokenizer_source else path)
    card = _imported_card(path, shape, tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder / WEIGHTS_FOLDER, params)
    tokenizer.save(folder / TOKENIZER_FOLDER)
    write_text(folder / CARD_FILE, card.to_json())
    return (
        f"{source} ({shape.num_layers}+{shape.num_decoder_layers} layers, {shape.vocab_size} embedding rows)"
    )


def _imported_card(path: pathlib.Path, shape: T5Config, tokenizer: Tokenizer) -> ModelCard:
    if (path / CARD_FILE).is_file():
        # Our own export: labels and limits come along.
        return dataclasses.replace(read_card(path), tokenizer_fingerprint=tokenizer.fingerprint)
    defaults = DataConfig()
    return ModelCard(
        shape=shape,
        labels=(),
        label_tokens=_IMPORTED_LABEL_TOKENS,
        input_limit_tokens=defaults.input_limit_tokens,
        rationale_tokens=defaults.rationale_limit_tokens,
        compute_dtype="float32",
        tokenizer_fingerprint=tokenizer.fingerprint,
        columns=defaults.columns,
    )
