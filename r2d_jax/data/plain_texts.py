"""A quicker way to ids for most texts; in: a tokenizer with the text map, out: one without it, for plain texts."""

import json
import re
from typing import Any

import tokenizers

from r2d_jax.data.text_map import BRACKET_MARKER, LINE_BREAKS, MARKERS, SEPARATORS

_SPECIAL = {char for text in (*MARKERS, *LINE_BREAKS, *SEPARATORS, "[") for char in text}
_CHARACTERS = "".join(char for char in map(chr, range(0x20, 0x7F)) if char not in _SPECIAL)

# Printable ASCII without a character that the map replaces, and without the "[" that may begin a marker.
PLAIN = re.compile(f"[{re.escape(_CHARACTERS)}]*")


def for_plain_texts(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """A tokenizer that gives the same ids for texts that match PLAIN, in about half the time.

    The map is some hundred replacements, each of which looks through the whole text; those of characters that
    a plain text cannot hold are left out here.
    """
    settings = json.loads(backend.to_str())
    normaliser = settings["normalizer"]
    if normaliser and normaliser["type"] == "Sequence":
        normaliser["normalizers"] = [step for step in normaliser["normalizers"] if not _idle(step)]
    plain = tokenizers.Tokenizer.from_str(json.dumps(settings))
    plain.encode_special_tokens = backend.encode_special_tokens
    return plain


def _idle(step: dict[str, Any]) -> bool:
    """Whether a step of the normaliser never changes a plain text."""
    if step["type"] != "Replace":
        return False
    literal = step["pattern"].get("String")
    return step["content"] == BRACKET_MARKER if literal is None else bool(set(literal) - set(_CHARACTERS))
