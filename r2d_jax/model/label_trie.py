"""The label set as a tree of tokens; in: token ids of labels, out: the best next token that leads to a label."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from r2d_jax.data.check.labels import name_of
from r2d_jax.data.prompts import END_ID, TextEncoder
from r2d_jax.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class LabelTrie:
    """Every way to write a label of a set token by token, the end token included.

    Node 0 is where nothing is written yet. Nodes are numbered level by level, and each but the first is reached
    by one edge: edge e leads to node e + 1. So two arrays of about as many numbers as the labels have tokens say
    all, whatever the size of the vocabulary. A compiled program holds them as constants, whole on every device.

    Attributes:
        first: int32 [nodes + 1]; the edges of node n are first[n] to first[n + 1] - 1, none where a label has ended.
        tokens: int32 [nodes - 1]; the token of each edge, rising among the edges of a node.
        width: most edges of one node.
        depth: tokens of the longest label, end token included.
    """

    first: np.ndarray
    tokens: np.ndarray
    width: int
    depth: int

    @classmethod
    def of(cls, label_token_ids: Sequence[Sequence[int]]) -> "LabelTrie":
        """The trie of labels as a tokenizer encodes them, without end token; their order does not matter.

        Raises:
            ValueError: no label, or two with the same tokens.
        """
        labels = sorted((*ids, END_ID) for ids in label_token_ids)
        if not labels or len(set(labels)) < len(labels):
            raise ValueError("a trie needs labels, each with tokens of its own")
        depth = max(map(len, labels))
        # What is written of the labels after each token; sorted, so that a node's edges lie together, in order.
        levels = [sorted({ids[:size] for ids in labels if len(ids) >= size}) for size in range(1, depth + 1)]
        written: list[tuple[int, ...]] = [(), *(ids for level in levels for ids in level)]
        number = {ids: node for node, ids in enumerate(written)}
        parents = [number[ids[:-1]] for ids in written[1:]]
        edges = np.bincount(parents, minlength=len(written))
        return cls(
            first=np.concatenate([[0], np.cumsum(edges)]).astype(np.int32),
            tokens=np.array([ids[-1] for ids in written[1:]], np.int32),
            width=int(edges.max()),
            depth=depth,
        )

    def start(self, batch: int) -> jax.Array:
        """Int32 [batch]: the node of rows of which nothing is written."""
        return jnp.zeros((batch,), jnp.int32)

    def best(self, logits: jax.Array, nodes: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The likeliest token by which each row goes on to a label; on equal logits the lowest id.

        Args:
            logits: float32 [B, V].
            nodes: int32 [B]; where the label has ended, what is returned means nothing.

        Returns:
            token ids int32 [B], their logits float32 [B], and the nodes they lead to, int32 [B].
        """
        first, tokens = jnp.asarray(self.first), jnp.asarray(self.tokens)
        start, stop = first[nodes], first[nodes + 1]
        edges = start[:, None] + jnp.arange(self.width, dtype=jnp.int32)[None, :]
        # The edges behind a node's own are those of other nodes, or none at all.
        ids = jnp.take(tokens, edges, mode="clip")
        of_edges = jnp.take_along_axis(logits, ids, axis=1)
        of_edges = jnp.where(edges < stop[:, None], of_edges, -jnp.inf)
        place = jnp.argmax(of_edges, axis=-1).astype(jnp.int32)
        chosen = jnp.take_along_axis(ids, place[:, None], axis=1)[:, 0]
        return chosen, jnp.max(of_edges, axis=-1), start + place + 1


def label_trie(labels: Sequence[str], tokenizer: TextEncoder, *, hide_labels: bool = False) -> LabelTrie:
    """The trie of a label set.

    Args:
        labels: K >= 1 texts.
        tokenizer: turns them into ids.
        hide_labels: they may be case text, so that an error names none.

    Raises:
        UserError: two labels have the same tokens, so that what is decoded would not tell which it is.
    """
    seen: dict[tuple[int, ...], str] = {}
    for label in labels:
        other = seen.setdefault(tuple(tokenizer.encode(label)), label)
        if other != label:
            raise UserError(
                f"labels {', '.join(name_of(one, hidden=hide_labels) for one in (other, label))}",
                "have the same tokens, so that no output tells them apart",
                "Rename one, or make them one label with data.label_map.",
            )
    return LabelTrie.of(list(seen))
