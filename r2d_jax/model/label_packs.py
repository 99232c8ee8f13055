"""Labels as a prefix tree in a decoder input; in: token ids of labels, encodings, out: probability of each label."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from r2d_jax.data.prompts import END_ID, PAD_ID
from r2d_jax.model.dropout import RowDropout
from r2d_jax.model.mixing import AttentionBias
from r2d_jax.model.t5 import MASKED, T5, DecodeCache

# Elements of the largest array made for one pack, on one device; 256 MiB as float32.
_MAX_ELEMENTS = 2**26
# Attention among positions grows with their square. On CPU 512 take three times as long as 128; fewer gain nothing.
_MAX_POSITIONS = 128


@dataclasses.dataclass(frozen=True, eq=False)
class LabelPacks:
    """A prefix tree of K labels laid out in N decoder inputs ("packs") of P positions, with tree attention.

    A prefix that labels of a pack share is computed once. Each decoder position holds the last token of a prefix and
    sees only the positions of that prefix, so its output is what teacher forcing of every label with
    this prefix gives there (Miao et al., SpecInfer, 2024, section 4).

    Attributes:
        input_ids: int32 [N, P]; pad, with which a decoder starts, at the empty prefix and at unused positions.
        depth: int32 [N, P]; length of the prefix, so the position in a label.
        visible: bool [N, P, P]; what each position sees.
        positions: int32 [N, C, L]; where each token of each label of a pack is predicted.
        targets: int32 [N, C, L]; these tokens, end token included.
        lengths: int32 [N, C]; how many; 0 where a pack has fewer than C labels.
        slots: int32 [K]; where each label stands among the N·C.
    """

    input_ids: np.ndarray
    depth: np.ndarray
    visible: np.ndarray
    positions: np.ndarray
    targets: np.ndarray
    lengths: np.ndarray
    slots: np.ndarray

    @classmethod
    def of(cls, label_token_ids: Sequence[Sequence[int]], max_positions: int) -> "LabelPacks":
        """Pack K >= 1 labels as a tokenizer encodes them, without end token.

        Args:
            label_token_ids: of each label.
            max_positions: of one pack; a label that needs more still gets them.
        """
        packs: list[tuple[dict[tuple[int, ...], int], list[int]]] = []
        # In the order of their tokens, labels with a common prefix lie together.
        for number in sorted(range(len(label_token_ids)), key=lambda one: tuple(label_token_ids[one])):
            ids = tuple(label_token_ids[number])
            prefixes = [ids[:size] for size in range(len(ids) + 1)]
            if not packs or len({*packs[-1][0], *prefixes}) > max_positions:
                packs.append(({}, []))
            positions, members = packs[-1]
            for prefix in prefixes:
                positions.setdefault(prefix, len(positions))
            members.append(number)
        return cls._laid_out(packs, label_token_ids)

    @classmethod
    def _laid_out(
        cls,
        packs: Sequence[tuple[dict[tuple[int, ...], int], list[int]]],
        label_token_ids: Sequence[Sequence[int]],
    ) -> "LabelPacks":
        count, positions = len(packs), max(len(one) for one, _ in packs)
        most, longest = max(len(members) for _, members in packs), 1 + max(map(len, label_token_ids))
        made = cls(
            input_ids=np.full((count, positions), PAD_ID, np.int32),
            depth=np.zeros((count, positions), np.int32),
            visible=np.broadcast_to(np.eye(positions, dtype=bool), (count, positions, positions)).copy(),
            positions=np.zeros((count, most, longest), np.int32),
            targets=np.zeros((count, most, longest), np.int32),
            lengths=np.zeros((count, most), np.int32),
            slots=np.zeros(len(label_token_ids), np.int32),
        )
        for pack, (position_of, members) in enumerate(packs):
            for prefix, position in position_of.items():
                made.depth[pack, position] = len(prefix)
                if prefix:
                    made.input_ids[pack, position] = prefix[-1]
                    made.visible[pack, position] |= made.visible[pack, position_of[prefix[:-1]]]
            for slot, number in enumerate(members):
                ids = tuple(label_token_ids[number])
                size = len(ids) + 1
                made.positions[pack, slot, :size] = [position_of[ids[:end]] for end in range(size)]
                made.targets[pack, slot, :size] = (*ids, END_ID)
                made.lengths[pack, slot] = size
                made.slots[number] = pack * most + slot
        return made


def max_positions(rows: int, input_width: int, *, vocab_size: int, num_heads: int) -> int:
    """Positions of one pack so that neither its logits nor its attention need more than 256 MiB, at most 128.

    Args:
        rows: of the batch on one device.
        input_width: S, of the encoder's input.
        vocab_size: V of the model.
        num_heads: H of the model.
    """
    elements_per_position = rows * max(vocab_size, num_heads * input_width)
    return min(max(_MAX_ELEMENTS // elements_per_position, 1), _MAX_POSITIONS)


def label_log_probs(
    model: T5, encoded: jax.Array, input_mask: jax.Array, packs: LabelPacks, *, vocab_limit: int
) -> jax.Array:
    """Log P(label | input) of all K labels, by teacher forcing: the sum over a label's tokens, end token included.

    Args:
        model: the T5.
        encoded: [B, S, D] from `T5.encode`; keys and values of it are computed once for all labels.
        input_mask: int32 [B, S].
        packs: of the labels.
        vocab_limit: ids from here on (padding rows of the embedding) have no probability, as in `greedy_decode`.

    Returns:
        float32 [B, K]. No label is the prefix of another one with its end token, so e to these sums to 1 at most.
    """
    model = model.for_decoding()
    cache = model.start_cache(encoded, input_mask, 1)
    longest = int(packs.depth.max()) + 1
    by_depth = model.decoder.relative_bias(longest, longest)
    in_vocabulary = jnp.arange(model.config.vocab_size) < vocab_limit

    def of_pack(pack: LabelPacks) -> jax.Array:
        position = by_depth[:, :, pack.depth[:, None], pack.depth[None, :]]
        bias = AttentionBias(jnp.where(pack.visible[None, None], position, MASKED), None)
        logits = model.logits(_decoded(model, jnp.asarray(pack.input_ids), bias, cache, encoded.shape[0]))
        logits = jnp.where(in_vocabulary[None, None, :], logits, -jnp.inf)
        of_tokens = logits[:, pack.positions, pack.targets]
        of_tokens -= jax.nn.logsumexp(logits, axis=-1)[:, pack.positions]
        there = jnp.arange(pack.targets.shape[-1])[None, :] < pack.lengths[:, None]
        return jnp.sum(jnp.where(there[None], of_tokens, 0.0), axis=-1)

    names = [field.name for field in dataclasses.fields(packs) if field.name != "slots"]
    arrays = {name: jnp.asarray(getattr(packs, name)) for name in names}
    found = jax.lax.map(lambda one: of_pack(LabelPacks(**one, slots=packs.slots)), arrays)
    return found.swapaxes(0, 1).reshape(encoded.shape[0], -1)[:, packs.slots]


def _decoded(
    model: T5, input_ids: jax.Array, bias: AttentionBias, cache: DecodeCache, rows: int
) -> jax.Array:
    """The decoder's output [B, P, D] at the positions of one pack, the same for all rows."""
    x = model.embed(jnp.broadcast_to(input_ids[None, :], (rows, input_ids.shape[0])))
    off = RowDropout.of(None, 0.0)
    for block, layer in zip(model.decoder.blocks, cache.layers, strict=True):
        self_kv = block.self_attention.keys_values(block.self_norm(x))
        x = block(x, self_kv, bias, layer.cross_kv, cache.cross_bias, off)
    return model.decoder.final_norm(x)


@functools.lru_cache(maxsize=16)
def packs_of(label_token_ids: tuple[tuple[int, ...], ...], positions: int) -> LabelPacks:
    """The packs of a label set, built once for each number of positions."""
    return LabelPacks.of(label_token_ids, positions)
