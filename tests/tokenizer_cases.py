"""A tokenizer as it was saved before spelt markers were told apart; in: a Tokenizer, out: another one."""

import json

import tokenizers

from r2d_jax.data.text_map import BRACKET_MARKER
from r2d_jax.data.tokenizer import Tokenizer


def without_escape(tokenizer: Tokenizer) -> Tokenizer:
    """The same vocabulary and map, of which a text that spells a marker comes back as its character."""
    stored = json.loads(tokenizer._backend.to_str())
    steps = stored["normalizer"]["normalizers"]
    kept = [step for step in steps if step.get("content") != BRACKET_MARKER]
    assert len(kept) == len(steps) - 1
    stored["normalizer"]["normalizers"] = kept
    return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(stored)))
