"""Hugging Face export; in: a loaded model, out: a folder that transformers and `r2d predict` both load."""

import dataclasses
import functools
import pathlib
import shutil

import jax

from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.errors import UserError
from r2d_jax.evaluation.calibration import load_calibration
from r2d_jax.evaluation.card_metadata import CardOptions
from r2d_jax.evaluation.model_card_text import readme_text
from r2d_jax.evaluation.model_folder import LoadedModel, ModelCard
from r2d_jax.evaluation.run_facts import read_facts
from r2d_jax.model.hf_format import GENERATION_FILE, write_hf_folder
from r2d_jax.runtime.distributed import fetch, is_writer
from r2d_jax.runtime.run_files import CALIBRATION, HF_CONFIG, HF_WEIGHTS, MODEL_CARD

LICENSE_FILE = "LICENSE"
"""What a user may add to an exported folder; one that replaces it keeps it."""
README_FILE = "README.md"
NEEDED = (README_FILE, HF_CONFIG, HF_WEIGHTS, MODEL_CARD, "tokenizer.json")
"""Without one of these a folder is no whole export."""
_GRAPHS = ("encoder_model.onnx", "decoder_model.onnx")
EXPORTED = frozenset(
    {
        *NEEDED,
        GENERATION_FILE,
        "tokenizer_config.json",
        "special_tokens_map.json",
        CALIBRATION,
        LICENSE_FILE,
        *(f"onnx/{name}{ending}" for name in _GRAPHS for ending in ("", ".data")),
    }
)
"""All that an export may hold, by names in its folder."""


def require_no_other_files(folder: pathlib.Path, where: str, fix: str) -> None:
    """Refuse a folder to replace with files that no export writes, such as an evaluation: they would be gone.

    Args:
        folder: to be replaced; it need not exist.
        where: the folder, as the error has it.
        fix: what to do, as the error has it.

    Raises:
        UserError: there are some.
    """
    place = folder.resolve()
    found = (one for one in place.rglob("*") if one.is_symlink() or not one.is_dir())
    names = sorted({one.relative_to(place).as_posix() for one in found} - EXPORTED)
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise UserError(where, f"holds {names[0]}{more}, which no export writes", fix)


def export_model(
    model: LoadedModel,
    folder: pathlib.Path,
    *,
    dtype: str = "float32",
    onnx: bool = False,
    overwrite: bool = False,
    home: pathlib.Path | None = None,
    options: CardOptions | None = None,
) -> None:
    """Write config, weights, tokenizer, generation settings and model card.

    Args:
        model: what to export.
        folder: target; written whole or not at all.
        dtype: of the stored weights: "float32", "bfloat16" or "int8".
        onnx: write ONNX graphs too, in onnx/; needs the extra [onnx].
        overwrite: replace a folder that is there; its LICENSE is kept.
        home: folder that the model was loaded from; of a run, what its card tells of training and figures.
        options: what only the user can say in the card.

    Raises:
        UserError: the folder is there and overwrite is False, a file of the run is damaged, or ONNX graphs
            cannot be made or differ from the model.
    """
    card = model.card
    params = jax.tree.map(fetch, model.params)
    if not is_writer():
        return
    finishes = [functools.partial(_keep_license, folder)]
    if onnx:
        # Its libraries are large, and only this needs them.
        from r2d_jax.evaluation.export_onnx import add_onnx

        finishes.append(functools.partial(add_onnx, vocabulary=model.tokenizer.size))

    def finish(partial: pathlib.Path) -> None:
        for one in finishes:
            one(partial)

    facts = read_facts(home, model.source, card.label_decode) if home is not None else None
    readme = readme_text(card, model.tokenizer, dtype=dtype, onnx=onnx, facts=facts, options=options)
    write_hf_folder(
        folder,
        card.shape,
        params,
        dtype=dtype,
        generation=_generation(card, model.tokenizer),
        extra_files=model.tokenizer.files()
        | {
            MODEL_CARD: card.to_json(),
            README_FILE: readme,
        }
        | _calibration(home, model.source),
        overwrite=overwrite,
        finish=finish,
    )


def _keep_license(folder: pathlib.Path, partial: pathlib.Path) -> None:
    there = folder.expanduser() / LICENSE_FILE
    if there.is_file() or there.is_symlink():
        shutil.copy2(there, partial / LICENSE_FILE, follow_symlinks=False)


def _generation(card: ModelCard, tokenizer: Tokenizer) -> dict[str, object]:
    settings: dict[str, object] = {
        "do_sample": False,
        "num_beams": 1,
        "max_new_tokens": card.rationale_tokens,
    }
    spare = list(range(tokenizer.size, card.shape.vocab_size))
    # Padding rows of the embedding have no text; `r2d predict` never chooses them either.
    return settings | ({"suppress_tokens": spare} if spare else {})


def _calibration(home: pathlib.Path | None, source: str) -> dict[str, str]:
    calibration = None if home is None else load_calibration(home, source)
    if calibration is None:
        return {}
    # An export may be passed on, and who has a note could find out by its digest whether it was among the rows.
    return {CALIBRATION: dataclasses.replace(calibration, row_digests=()).to_json()}
