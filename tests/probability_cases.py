"""A tiny model whose probabilities of labels follow its input; in: labels, out: its tokenizer, shape and weights."""

import numpy as np
from t5_cases import SMALL

from r2d_jax.config import T5Config
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.model.parameters import Params, T5Factory, flatten, unflatten

# One is the beginning of another, two share theirs, and one is nothing of them.
LABELS = ("urgent", "urgent now", "not urgent", "not urgent at all", "rash", "pain since two days", "no")
WORDS = ["fever", "pain", "cough", "rash", "since", "two", "days", "because", "no"]
SPARE = 9
"""Rows of the embedding beyond the vocabulary."""


def words(rows: int, seed: int, most: int) -> list[str]:
    """Texts of 1 to `most` words."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, most))) for _ in range(rows)]


def lively(seed: int = 0, labels: tuple[str, ...] = LABELS) -> tuple[Tokenizer, T5Config, Params]:
    """Weights of the size of a trained model, with a strong path from input to output."""
    tokenizer = Tokenizer.train(["predict: explain: given label: , ", *labels, *WORDS * 3], 120)
    shape = T5Config(
        **SMALL | {"vocab_size": tokenizer.size + SPARE, "num_layers": 1, "num_heads": 4, "d_model": 32},
        num_decoder_layers=2,
        tie_word_embeddings=False,
    )
    rng, flat = np.random.default_rng(seed), {}
    for name, leaf in flatten(T5Factory(shape).abstract_params).items():
        std = leaf.shape[0] ** -0.5 if name.endswith("kernel") else 1.0
        if name.endswith("q/kernel"):
            std *= shape.d_kv**-0.5
        if "cross_attention" in name and name.endswith(("v/kernel", "o/kernel")):
            std *= 3.0
        if name == "head":
            std = 0.5
        flat[name] = (std * rng.normal(size=leaf.shape)).astype(np.float32)
        if name.endswith("scale"):
            flat[name] = np.ones(leaf.shape, np.float32)
    return tokenizer, shape, unflatten(flat)
