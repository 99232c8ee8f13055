"""The three prompts of Reason2Decide; in: question and label ids, out: encoder inputs of fixed width."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp

PREDICT = "predict: {question}"
EXPLAIN = "explain: {question}"
GIVEN_LABEL = "given label: {label}, explain: {question}"

PAD_ID = 0
END_ID = 1

WIDTH_MULTIPLE = 8


def round_up(tokens: int) -> int:
    """The next width that accelerators lay out without waste."""
    return -(-tokens // WIDTH_MULTIPLE) * WIDTH_MULTIPLE


class TextEncoder(Protocol):
    """What is needed of a tokenizer here."""

    def encode(self, text: str) -> list[int]:
        """Ids of the text without an end token."""
        ...


def _pieces_around(template: str) -> list[str]:
    return template.replace("{label}", "{question}").split("{question}")


@dataclasses.dataclass(frozen=True)
class PromptTokens:
    """The fixed parts of the prompts as token ids.

    Question, label and instruction meet at token level, inside the compiled step, because there is
    no tokenizer there; prediction uses the same splice, so training and use see the same inputs.

    Attributes:
        predict: before the question (stage 2, prediction).
        explain: before the question (stage 1).
        given: before the label.
        then_explain: between the label and the question.
    """

    predict: tuple[int, ...]
    explain: tuple[int, ...]
    given: tuple[int, ...]
    then_explain: tuple[int, ...]

    @classmethod
    def from_tokenizer(cls, tokenizer: TextEncoder) -> "PromptTokens":
        """Tokenise the fixed parts; `then_explain` is read off after a word, without a word start."""
        predict, explain, given = (
            tuple(tokenizer.encode(_pieces_around(template)[0].strip()))
            for template in (PREDICT, EXPLAIN, GIVEN_LABEL)
        )
        word = "yes"
        behind = tokenizer.encode(word + _pieces_around(GIVEN_LABEL)[1].strip())
        then_explain = tuple(behind[len(tokenizer.encode(word)) :])
        return cls(predict, explain, given, then_explain)


def _constant(ids: Sequence[int], batch: int) -> tuple[jax.Array, jax.Array]:
    return (
        jnp.broadcast_to(jnp.asarray(ids, jnp.int32)[None, :], (batch, len(ids))),
        jnp.full((batch,), len(ids), jnp.int32),
    )


def concatenate(segments: Sequence[tuple[jax.Array, jax.Array]], width: int) -> tuple[jax.Array, jax.Array]:
    """Join segments of uneven length row by row, with static shapes.

    Args:
        segments: pairs of ids int32 [B, n] and lengths int32 [B]; each may have its own n.
        width: S of the result.

    Returns:
        ids int32 [B, S], pad after the end, and mask int32 [B, S], 1 = real.
    """
    batch = segments[0][0].shape[0]
    position = jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32)[None, :], (batch, width))
    joined = jnp.full((batch, width), PAD_ID, jnp.int32)
    start = jnp.zeros((batch, 1), jnp.int32)
    for ids, lengths in segments:
        offset = position - start
        inside = (offset >= 0) & (offset < lengths[:, None])
        picked = jnp.take_along_axis(ids, jnp.clip(offset, 0, ids.shape[1] - 1), axis=1)
        joined = jnp.where(inside, picked, joined)
        start = start + lengths[:, None]
    return joined, (position < start).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class PromptBuilder:
    """Builds encoder inputs on the device.

    Attributes:
        tokens: fixed parts.
        label_tokens: L, room for a label, end token included.
    """

    tokens: PromptTokens
    label_tokens: int

    @property
    def overhead(self) -> int:
        """Maximum number of tokens that a prompt adds to the question, end token included."""
        fixed = self.tokens
        given = len(fixed.given) + self.label_tokens + len(fixed.then_explain)
        return max(len(fixed.predict), len(fixed.explain), given) + len((END_ID,))

    def width(self, question_tokens: int) -> int:
        """S, the width of every prompt around questions of this width; holds the longest of them whole."""
        return round_up(question_tokens + self.overhead)

    def _with_end(
        self, segments: list[tuple[jax.Array, jax.Array]], question_ids: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        end = _constant((END_ID,), question_ids.shape[0])
        return concatenate([*segments, end], self.width(question_ids.shape[1]))

    def predict(self, question_ids: jax.Array, question_length: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`predict: {question}` as ids and mask int32 [B, S], of int32 [B, Q] and [B]."""
        prefix = _constant(self.tokens.predict, question_ids.shape[0])
        return self._with_end([prefix, (question_ids, question_length)], question_ids)

    def explain(self, question_ids: jax.Array, question_length: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`explain: {question}` as ids and mask int32 [B, S], of int32 [B, Q] and [B]."""
        prefix = _constant(self.tokens.explain, question_ids.shape[0])
        return self._with_end([prefix, (question_ids, question_length)], question_ids)

    def explain_given_label(
        self,
        question_ids: jax.Array,
        question_length: jax.Array,
        label_ids: jax.Array,
        label_length: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        """`given label: {label}, explain: {question}` as ids and mask int32 [B, S].

        Args:
            question_ids: int32 [B, Q].
            question_length: int32 [B].
            label_ids: int32 [B, L]; what follows after label_length is not read.
            label_length: int32 [B], tokens of the label without its end token.
        """
        batch = question_ids.shape[0]
        return self._with_end(
            [
                _constant(self.tokens.given, batch),
                (label_ids, label_length),
                _constant(self.tokens.then_explain, batch),
                (question_ids, question_length),
            ],
            question_ids,
        )
