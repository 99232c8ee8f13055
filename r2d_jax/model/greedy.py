"""Greedy decode compiled as one loop; in: encodings and a token limit, out: ids with their end and confidence."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from r2d_jax.data.prompts import END_ID, PAD_ID
from r2d_jax.model.label_trie import LabelTrie
from r2d_jax.model.t5 import T5, DecodeCache


class Decoded(NamedTuple):
    """Greedy output of B rows.

    Attributes:
        token_ids: int32 [B, T]; the end token is kept, after it only pad.
        lengths: int32 [B]; tokens before the end token.
        finished: bool [B]; False where the limit came before the end token.
        mean_log_prob: float32 [B]; mean log-probability of the tokens, end token included, among all tokens of the
            vocabulary, even where a trie allows only some.
    """

    token_ids: jax.Array
    lengths: jax.Array
    finished: jax.Array
    mean_log_prob: jax.Array


class _Loop(NamedTuple):
    position: jax.Array
    token_ids: jax.Array
    finished: jax.Array
    log_prob_sum: jax.Array
    steps: jax.Array
    cache: DecodeCache
    nodes: jax.Array | None


def greedy_decode(
    model: T5,
    encoded: jax.Array,
    input_mask: jax.Array,
    *,
    max_tokens: int,
    vocab_limit: int,
    row_keys: jax.Array | None = None,
    trie: LabelTrie | None = None,
) -> Decoded:
    """Decode greedily until every row has ended or max_tokens are written.

    Args:
        model: the T5.
        encoded: [B, S, D] from `T5.encode`.
        input_mask: int32 [B, S].
        max_tokens: limit T, end token included, start token not.
        vocab_limit: ids from here on (padding rows of the embedding) are never chosen.
        row_keys: typed keys [B] that turn dropout on (published in-training behaviour); None: off.
        trie: every token is the likeliest of those that go on to one of its labels, so each row ends as a whole
            label; None: of all tokens.

    Raises:
        ValueError: the trie has a label of more than max_tokens.
    """
    if trie is not None and trie.depth > max_tokens:
        raise ValueError(f"a label of {trie.depth} tokens does not fit into {max_tokens}")
    model = model.for_decoding()
    batch = encoded.shape[0]
    allowed = jnp.arange(model.config.vocab_size) < vocab_limit

    def body(loop: _Loop) -> _Loop:
        before = jax.lax.dynamic_index_in_dim(
            loop.token_ids, jnp.maximum(loop.position - 1, 0), axis=1, keepdims=False
        )
        previous = jnp.where(loop.position == 0, PAD_ID, before)
        logits, cache = model.decode_step(previous, loop.position, loop.cache, row_keys)
        logits = jnp.where(allowed[None, :], logits, -jnp.inf)
        running, nodes = ~loop.finished, loop.nodes
        if trie is None or nodes is None:
            chosen = jnp.argmax(logits, axis=-1).astype(jnp.int32)
            highest = jnp.max(logits, axis=-1)
        else:
            chosen, highest, reached = trie.best(logits, nodes)
            nodes = jnp.where(running, reached, nodes)
        log_prob = highest - jax.nn.logsumexp(logits, axis=-1)
        chosen = jnp.where(running, chosen, PAD_ID)
        return _Loop(
            position=loop.position + 1,
            token_ids=jax.lax.dynamic_update_slice_in_dim(
                loop.token_ids, chosen[:, None], loop.position, axis=1
            ),
            finished=loop.finished | (chosen == END_ID),
            log_prob_sum=loop.log_prob_sum + jnp.where(running, log_prob, 0.0),
            steps=loop.steps + running.astype(jnp.int32),
            cache=cache,
            nodes=nodes,
        )

    def going(loop: _Loop) -> jax.Array:
        return (loop.position < max_tokens) & ~jnp.all(loop.finished)

    end = jax.lax.while_loop(
        going,
        body,
        _Loop(
            position=jnp.int32(0),
            token_ids=jnp.full((batch, max_tokens), PAD_ID, jnp.int32),
            finished=jnp.zeros((batch,), bool),
            log_prob_sum=jnp.zeros((batch,), jnp.float32),
            steps=jnp.zeros((batch,), jnp.int32),
            cache=model.start_cache(encoded, input_mask, max_tokens),
            nodes=None if trie is None else trie.start(batch),
        ),
    )
    return Decoded(
        token_ids=end.token_ids,
        lengths=end.steps - end.finished.astype(jnp.int32),
        finished=end.finished,
        mean_log_prob=end.log_prob_sum / jnp.maximum(end.steps, 1).astype(jnp.float32),
    )
