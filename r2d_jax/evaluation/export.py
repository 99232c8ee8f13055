"""Hugging Face export; in: a loaded model, out: a folder that transformers and `r2d predict` both load."""

import pathlib
import tempfile

import jax

from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.evaluation.export_readme import readme_text
from r2d_jax.evaluation.model_folder import CARD_FILE, LoadedModel, ModelCard
from r2d_jax.model.hf_format import write_hf_folder
from r2d_jax.runtime.distributed import fetch, is_writer


def export_model(
    model: LoadedModel, folder: pathlib.Path, *, dtype: str = "float32", overwrite: bool = False
) -> None:
    """Write config, weights, tokenizer, generation settings and model card.

    Args:
        model: what to export.
        folder: target; written whole or not at all.
        dtype: "float32" or "bfloat16" of the stored weights.
        overwrite: replace a folder that is there.

    Raises:
        UserError: the folder is there and overwrite is False.
    """
    card = model.card
    params = jax.tree.map(fetch, model.params)
    if not is_writer():
        return
    write_hf_folder(
        folder,
        card.shape,
        params,
        dtype=dtype,
        generation=_generation(card, model.tokenizer),
        extra_files=_tokenizer_files(model.tokenizer)
        | {
            CARD_FILE: card.to_json(),
            "README.md": readme_text(card, model.tokenizer),
        },
        overwrite=overwrite,
    )


def _generation(card: ModelCard, tokenizer: Tokenizer) -> dict[str, object]:
    settings: dict[str, object] = {
        "do_sample": False,
        "num_beams": 1,
        "max_new_tokens": card.rationale_tokens,
    }
    spare = list(range(tokenizer.size, card.shape.vocab_size))
    # Padding rows of the embedding have no text; `r2d predict` never chooses them either.
    return settings | ({"suppress_tokens": spare} if spare else {})


def _tokenizer_files(tokenizer: Tokenizer) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        return {path.name: path.read_text(encoding="utf-8") for path in pathlib.Path(folder).iterdir()}
