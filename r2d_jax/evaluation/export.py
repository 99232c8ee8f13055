"""Hugging Face export; in: a loaded model, out: a folder that transformers and `r2d predict` both load."""

import json
import pathlib
import tempfile

import jax

from r2d_jax.data.prompts import EXPLAIN, GIVEN_LABEL, PREDICT
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.evaluation.model_folder import CARD_FILE, LoadedModel, ModelCard
from r2d_jax.model.hf_format import write_hf_folder
from r2d_jax.runtime.distributed import fetch, is_writer

_README = """---
library_name: transformers
pipeline_tag: text-generation
tags: [t5, reason2decide]
---

# Reason2Decide model

A T5 that predicts a label and explains it, trained in two stages with r2d_jax
(method: Reason2Decide, arXiv 2512.20074). Research software: not a medical device.

## Use

```python
from transformers import AutoTokenizer, T5ForConditionalGeneration

model = T5ForConditionalGeneration.from_pretrained(FOLDER)
tokenizer = AutoTokenizer.from_pretrained(FOLDER)


def generate(prompt, limit):
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    output = model.generate(ids, max_new_tokens=limit, do_sample=False, num_beams=1)
    return tokenizer.decode(output[0], skip_special_tokens=True, clean_up_tokenization_spaces=False)


question = "..."
label = generate("{predict}".replace("{question}", question), {label_tokens})
given = "{given}".replace("{label}", label)
rationale = generate(given.replace("{question}", question), {rationale_tokens})
```

Prompts: `{predict}` for the label, then `{given}` for the rationale (stage 1 alone: `{explain}`).
Labels: {labels}.
Inputs are cut at {input_limit} tokens in training; shorten the context yourself, never the label or the
instruction. Characters that the vocabulary lacks travel as written markers, inside tokenizer.json; encoding
and decoding with this tokenizer applies them.
"""


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
            "README.md": _readme(card),
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


def _readme(card: ModelCard) -> str:
    values = {
        "predict": PREDICT,
        "given": GIVEN_LABEL,
        "explain": EXPLAIN,
        "label_tokens": card.label_tokens,
        "rationale_tokens": card.rationale_tokens,
        "labels": ", ".join(json.dumps(label, ensure_ascii=False) for label in card.labels) or "not recorded",
        "input_limit": card.input_limit_tokens,
    }
    text = _README
    for name, value in values.items():
        text = text.replace("{" + name + "}", str(value))
    return text
