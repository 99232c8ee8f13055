"""A model in another format; in: a model folder, a Hugging Face folder or a T5X checkpoint, out: such a folder."""

import pathlib

from r2d_jax.config import DataConfig, MeshConfig, T5Config
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.data.whole_folder import require_replaceable, whole_folder
from r2d_jax.errors import UserError
from r2d_jax.evaluation.calibration import Calibration, load_calibration
from r2d_jax.evaluation.card_metadata import CardOptions
from r2d_jax.evaluation.export import export_model, require_no_other_files
from r2d_jax.evaluation.export_onnx import require_onnx
from r2d_jax.evaluation.model_folder import (
    TOKENIZER_FOLDER,
    WEIGHTS_FOLDER,
    ModelCard,
    find_model_folder,
    load_model,
    read_card,
    require_shape,
    weights_source,
)
from r2d_jax.model.hf_format import STORED_TYPES, locate, read_hf_folder, require_hf_target
from r2d_jax.model.t5x_format import read_t5x_checkpoint
from r2d_jax.runtime.checkpoint_files import save_params
from r2d_jax.runtime.devices import enable_compile_cache
from r2d_jax.runtime.files import require_writable, write_text, write_texts
from r2d_jax.runtime.mesh import make_mesh
from r2d_jax.runtime.outputs import require_folder, require_local, require_not_own
from r2d_jax.runtime.run_files import CALIBRATION, MODEL_CARD

# A label limit for models that come without a label set (the published target length).
_IMPORTED_LABEL_TOKENS = 50
_MOVE = "Move it away, or choose another folder; nothing was changed."


def export_folder(
    model_path: pathlib.Path,
    folder: pathlib.Path,
    *,
    dtype: str,
    overwrite: bool,
    format: str = "safetensors",
    options: CardOptions | None = None,
) -> str:
    """Export a model to a Hugging Face folder; returns which checkpoint it was.

    Args:
        model_path: run, exported or imported folder.
        folder: target.
        dtype: of the stored weights: "float32", "bfloat16" or "int8".
        overwrite: replace an exported folder that is there; its LICENSE is kept.
        format: "safetensors", or "onnx" for ONNX graphs beside these.
        options: what only the user can say in the model card.

    Raises:
        UserError: no model there, an unknown dtype or format, or the target is in use, cannot be written to, is or
            holds the model itself, belongs to another run, or holds what would be lost; all of this before the
            model is loaded.
    """
    if dtype not in STORED_TYPES:
        raise UserError(
            "--dtype", f"{dtype!r} is not known", f"Use {', '.join(STORED_TYPES[:-1])} or {STORED_TYPES[-1]}."
        )
    if format not in ("safetensors", "onnx"):
        raise UserError("--format", f"{format!r} is not known", "Use safetensors or onnx.")
    if format == "onnx" and dtype != "float32":
        raise UserError("--format", "ONNX graphs are float32 only", "Leave --dtype out.")
    if options is not None:
        options.check()
    onnx = format == "onnx"
    if onnx:
        require_onnx()
    require_local(folder)
    require_hf_target(folder, overwrite=overwrite)
    home = find_model_folder(model_path)
    if folder.resolve() != (home / "export").resolve():
        require_not_own(folder)
    if home.resolve().is_relative_to(folder.resolve()):
        what = "is" if home.resolve() == folder.resolve() else "holds"
        raise UserError(
            f"--output {folder}",
            f"{what} the model that is read",
            "Choose another folder; nothing was changed.",
        )
    replaced = False
    if overwrite:
        require_no_other_files(folder, f"--output {folder}", _MOVE)
        replaced = _has_another_calibration(folder, home, model_path)
    enable_compile_cache()
    model = load_model(model_path, make_mesh(MeshConfig()))
    export_model(model, folder, dtype=dtype, onnx=onnx, overwrite=overwrite, home=home, options=options)
    if replaced:
        print(f"the {CALIBRATION} that was in {folder} differed from that of the model, which is there now")
    return model.source


def _has_another_calibration(folder: pathlib.Path, home: pathlib.Path, model_path: pathlib.Path) -> bool:
    """Whether another calibration than that of the model lies in a folder to replace.

    Raises:
        UserError: it would be lost with none in its place.
    """
    there = _readable_calibration(folder)
    if there is None or there == _readable_calibration(home):
        return False
    if load_calibration(home, str(weights_source(home, model_path))) is None:
        raise UserError(f"--output {folder}", f"holds a {CALIBRATION}, and the model has none", _MOVE)
    return True


def _readable_calibration(folder: pathlib.Path) -> Calibration | None:
    try:
        return load_calibration(folder)
    except UserError:
        # Nothing is lost with a damaged one.
        return None


def import_model(source: str, folder: pathlib.Path, tokenizer_source: str | None) -> str:
    """Convert a Hugging Face folder, hub name or T5X checkpoint file into `folder`; returns a description.

    The folder appears whole or not at all.

    Raises:
        UserError: nothing readable there, no tokenizer or that of another model, or the target is not empty.
    """
    require_folder(folder, ())
    if folder.exists() and any(folder.iterdir()):
        raise UserError(str(folder), "is not empty", "Choose another --output; nothing was changed.")
    # A link stays one, and leads to what is written.
    target = folder.resolve()
    require_replaceable(target, kind="model", markers=[MODEL_CARD], overwrite=False)
    # What is written stands beside it until it is whole.
    require_writable(target)
    path = locate(source)
    is_file = path.is_file()
    shape, params = read_t5x_checkpoint(path) if is_file else read_hf_folder(path)
    if tokenizer_source is None and is_file:
        raise UserError(source, "a T5X checkpoint holds no tokenizer", "Name one with --tokenizer.")
    tokenizer = Tokenizer.load(locate(tokenizer_source) if tokenizer_source else path)
    card = _imported_card(path, shape, tokenizer, tokenizer_source or source)
    with whole_folder(target, kind="model", markers=[MODEL_CARD], overwrite=False) as partial:
        save_params(partial / WEIGHTS_FOLDER, params)
        write_texts(partial / TOKENIZER_FOLDER, tokenizer.files())
        write_text(partial / MODEL_CARD, card.to_json())
        if card.labels and (calibration := load_calibration(path, str(path))) is not None:
            write_text(partial / CALIBRATION, calibration.to_json())
    return (
        f"{source} ({shape.num_layers}+{shape.num_decoder_layers} layers, {shape.vocab_size} embedding rows)"
    )


def _imported_card(path: pathlib.Path, shape: T5Config, tokenizer: Tokenizer, named: str) -> ModelCard:
    """The card of a model to import, whose tokenizer comes from what the user named.

    Raises:
        UserError: the tokenizer is not that of the model, or the card does not fit the weights.
    """
    # Our own export has one: labels and limits come along.
    card = read_card(path) if (path / MODEL_CARD).is_file() else None
    if card is not None:
        require_shape(path, card, shape)
        if not tokenizer.has_fingerprint(card.tokenizer_fingerprint):
            # Its ids would mean other words, and from here on nothing could tell.
            raise UserError(
                named,
                "the tokenizer is not the one that the model was trained with",
                "Leave --tokenizer out, or restore tokenizer.json.",
            )
    if tokenizer.size > shape.vocab_size:
        # An id beyond the embedding would read NaN.
        raise UserError(
            named,
            f"the tokenizer has {tokenizer.size} ids and the model's embedding {shape.vocab_size} rows",
            "Name the tokenizer that belongs to the model by --tokenizer.",
        )
    if card is not None:
        return card
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
