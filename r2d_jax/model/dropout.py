"""Dropout by row; in: activations [B, ...] and a key for each row, out: the same with a share of elements set to 0."""

import dataclasses
import enum
import math

import jax
import jax.numpy as jnp
import numpy as np

from r2d_jax.runtime.mesh import unfused_on_tpu

# 2**32 / golden ratio, and odd factors that spread every bit over the word (the triple-round hash of Wellons,
# "Prospecting for hash functions", 2018).
_STEP = np.uint32(0x9E3779B9)
_FACTORS = np.array([0xED5AD4BB, 0xAC4C1B51, 0x31848BAB], np.uint32)


def _mixed(x: jax.Array, inner: jax.Array) -> jax.Array:
    # `inner` comes in after the first multiplication: sequences whose counts overlap part there.
    x = (x ^ (x >> 16)) * _FACTORS[0]
    x = (x ^ (x >> 15) ^ inner) * _FACTORS[1]
    x = (x ^ (x >> 15)) * _FACTORS[2]
    return x ^ (x >> 14)


def before_dropout(weights: jax.Array) -> jax.Array:
    """Attention weights [B, H, T, S] that are about to be dropped; the same.

    The TPU compiler would else fuse products, softmax, mask and products into one. It then holds the constants of
    the mask's hash in memory, each of the size of the weights, and its estimate of the cost of what is fused so
    deep overflows the stack of its threads (libtpu 0.0.42.1: a segmentation fault).
    """
    return unfused_on_tpu(weights)


def scaled(x: jax.Array, factor: float) -> jax.Array:
    """Multiply x by a factor; same dtype, rounded once.

    Rounded to bfloat16 before, a factor such as 1 / 0.9 is off by the same 0.16 % wherever it multiplies, which no
    number of elements averages out.
    """
    return (x.astype(jnp.float32) * np.float32(factor)).astype(x.dtype)


class StackSite(enum.IntEnum):
    """Places of dropout in a stack; block i has FIRST_BLOCK + i.

    Here and below, another value changes every mask, so that a resumed run would differ from one without a stop.
    """

    EMBEDDED = 0
    OUTPUT = 1
    FIRST_BLOCK = 2


class EncoderSite(enum.IntEnum):
    """Places of dropout in an encoder block."""

    ATTENTION = 0
    ATTENTION_WEIGHTS = 1
    FEED_FORWARD = 2
    HIDDEN = 3


class DecoderSite(enum.IntEnum):
    """Places of dropout in a decoder block."""

    SELF_ATTENTION = 0
    SELF_WEIGHTS = 1
    CROSS_ATTENTION = 2
    CROSS_WEIGHTS = 3
    FEED_FORWARD = 4
    HIDDEN = 5


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RowDropout:
    """Dropout whose mask is a function of the row's own key and the place in the network only.

    A mask therefore does not depend on the other rows of a batch, on the device layout or on how a
    batch is divided into micro-batches. Elements are counted in the order of the shape, so the mask of
    attention weights [H, T, S] does depend on the widths to which the batch is padded. The bits are a counter, hashed
    with the key: threefry would be the largest single cost of a training step on CPU, and of compiling it.

    Attributes:
        words: uint32 [B, 2], the state of each row; None switches dropout off.
        rate: share of elements set to 0; realised in steps of 2**-32.
    """

    words: jax.Array | None
    rate: float = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, row_keys: jax.Array | None, rate: float) -> "RowDropout":
        """Dropout of rows with typed PRNG keys [B]; None: off."""
        return cls(None if row_keys is None else jax.random.key_data(row_keys), rate)

    def at(self, site: int | jax.Array) -> "RowDropout":
        """The dropout of a place inside this one; `site` is unique among its siblings."""
        if self.words is None:
            return self
        first, second = self.words[:, 0], self.words[:, 1]
        step = (jnp.asarray(site, jnp.uint32) + np.uint32(1)) * _STEP
        low = _mixed(first + step, second)
        high = _mixed(second ^ step, low)
        return RowDropout(jnp.stack([low, high], axis=-1), self.rate)

    def bits(self, shape: tuple[int, ...]) -> jax.Array:
        """uint32 [B, *shape] of random bits; elementwise, so that it is computed where it is used."""
        assert self.words is not None
        counter = jnp.zeros(shape, jnp.uint32)
        for axis in range(len(shape)):
            stride = np.uint32(math.prod(shape[axis + 1 :]) & 0xFFFFFFFF)
            counter += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * stride
        first, second = (self.words[:, word].reshape(-1, *[1] * len(shape)) for word in range(2))
        return _mixed(counter[None] * _STEP + first, second)

    def kept(self, shape: tuple[int, ...]) -> tuple[jax.Array | None, float]:
        """What is not dropped, bool [B, *shape], and the factor that scales it up; (None, 1.0): dropout is off."""
        threshold = min(round(self.rate * 2**32), 2**32 - 1)
        if self.words is None or threshold == 0:
            return None, 1.0
        return self.bits(shape) >= np.uint32(threshold), 2**32 / (2**32 - threshold)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Drop elements of x [B, ...] and scale the others up; same shape and dtype."""
        kept, scale = self.kept(x.shape[1:])
        if kept is None:
            return x
        return jnp.where(kept, scaled(x, scale), jnp.zeros_like(x))
