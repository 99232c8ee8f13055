"""Greedy decode compiled as one loop; in: encodings, a token limit, a label trie, out: ids, their end, confidence."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from r2d_jax.data.prompts import END_ID, PAD_ID
from r2d_jax.model.t5 import T5, DecodeCache
from r2d_jax.runtime.mesh import on_one_cpu

# Once at most 1/2, then 1/8, of the rows are unfinished, decode only those. Each entry adds one compiled loop: with
# rows as long as PubMedQA's rationales these two save most of what any number of them would.
_PARTS = (2, 8)
# Copying the keys and values of the rows that go on takes as long as a few steps.
_FROM_TOKENS = 32


class Decoded(NamedTuple):
    """Greedy output of B rows.

    Attributes:
        token_ids: int32 [B, T]; the end token is kept, after it only pad.
        lengths: int32 [B]; tokens before the end token.
        finished: bool [B]; False where the limit came before the end token. True where a row was not wanted.
        mean_log_prob: float32 [B]; mean log-probability of the tokens, end token included, among all tokens of the
            vocabulary, even where a trie allows only some. 0, which says nothing, where a row was not
            wanted.
    """

    token_ids: jax.Array
    lengths: jax.Array
    finished: jax.Array
    mean_log_prob: jax.Array


class TokenRule(Protocol):
    """What chooses the next token of each row, and knows from what was chosen where a row stands; see `LabelTrie`."""

    @property
    def depth(self) -> int:
        """Tokens of the longest output, end token included; 0: any number."""
        ...

    def start(self, batch: int) -> jax.Array:
        """Int32 [batch]: where rows stand of which nothing is written."""
        ...

    def best(self, logits: jax.Array, nodes: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The next token of each row, int32 [B], its logit float32 [B], and where the row then stands, int32 [B].

        Args:
            logits: float32 [B, V].
            nodes: int32 [B], where the rows stand; for one that has ended, what is returned means nothing.
        """
        ...


class _Loop(NamedTuple):
    """Where a decode stands; all but the position by row."""

    position: jax.Array
    token_ids: jax.Array
    finished: jax.Array
    log_prob_sum: jax.Array
    steps: jax.Array
    cache: DecodeCache
    nodes: jax.Array | None

    @property
    def output(self) -> tuple[jax.Array, ...]:
        """What is told of the rows."""
        return self.token_ids, self.finished, self.log_prob_sum, self.steps

    def take_rows(self, rows: jax.Array) -> "_Loop":
        """The same place in the decode, of int32 rows [N] alone."""
        token_ids, finished, log_prob_sum, steps = (leaf[rows] for leaf in self.output)
        return _Loop(
            self.position,
            token_ids,
            finished,
            log_prob_sum,
            steps,
            self.cache.take_rows(rows),
            None if self.nodes is None else self.nodes[rows],
        )


def greedy_decode(
    model: T5,
    encoded: jax.Array,
    input_mask: jax.Array,
    *,
    max_tokens: int,
    vocab_limit: int,
    row_keys: jax.Array | None = None,
    trie: TokenRule | None = None,
    wanted: jax.Array | None = None,
) -> Decoded:
    """Decode greedily until every row has ended or max_tokens are written.

    Args:
        model: the T5.
        encoded: [B, S, D] from `T5.encode`.
        input_mask: int32 [B, S].
        max_tokens: limit T, end token included, start token not.
        vocab_limit: ids from here on (padding rows of the embedding) are never chosen.
        row_keys: typed keys [B] that turn dropout on (published in-training behaviour); None: off.
        trie: what chooses each token; of a `LabelTrie` the likeliest of those that go on to one of its labels, so
            each row ends as a whole label. None: the likeliest of all tokens.
        wanted: bool [B], rows to decode: nothing is written for others; None: all.

    Raises:
        ValueError: the trie has a label of more than max_tokens.
    """
    if trie is not None and trie.depth > max_tokens:
        raise ValueError(f"a label of {trie.depth} tokens does not fit into {max_tokens}")
    model = model.for_decoding(max_tokens)
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

    def run(loop: _Loop, fewer: Sequence[int]) -> tuple[jax.Array, ...]:
        """Until every row has ended; with the rows that still run alone, once they are no more than `fewer`."""
        least = fewer[0] if fewer else 0

        def going(loop: _Loop) -> jax.Array:
            return (loop.position < max_tokens) & (jnp.sum(~loop.finished) > least)

        end = jax.lax.while_loop(going, body, loop)
        if not fewer:
            return end.output
        rows = jnp.argsort(end.finished, stable=True)[:least]
        rest = run(end.take_rows(rows), fewer[1:])
        return jax.tree.map(lambda whole, part: whole.at[rows].set(part), end.output, rest)

    start = _Loop(
        position=jnp.int32(0),
        token_ids=jnp.full((batch, max_tokens), PAD_ID, jnp.int32),
        finished=jnp.zeros((batch,), bool) if wanted is None else ~wanted,
        log_prob_sum=jnp.zeros((batch,), jnp.float32),
        steps=jnp.zeros((batch,), jnp.int32),
        cache=model.start_cache(encoded, input_mask, max_tokens),
        nodes=None if trie is None else trie.start(batch),
    )
    # Elsewhere rows lie on several devices, or a step costs much the same however few they are.
    compacts = on_one_cpu() and row_keys is None and max_tokens >= _FROM_TOKENS
    counts = [batch // part for part in _PARTS if compacts and batch >= 2 * part]
    token_ids, finished, log_prob_sum, steps = run(start, counts)
    return Decoded(
        token_ids=token_ids,
        lengths=jnp.maximum(steps - finished.astype(jnp.int32), 0),
        finished=finished,
        mean_log_prob=log_prob_sum / jnp.maximum(steps, 1).astype(jnp.float32),
    )
