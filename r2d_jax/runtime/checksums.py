"""Checksums and finiteness checks computed on the devices; in: a tree of arrays, out: a checksum, names not finite."""

import functools
import hashlib
import itertools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from r2d_jax.runtime.distributed import sum_over_processes

_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


@jax.jit
def _is_unsound(values: jax.Array) -> jax.Array:
    return ~jnp.isfinite(values).all()


@functools.partial(jax.jit, static_argnames="strides")
def _sum_of_bits(values: jax.Array, start: np.uint32, strides: tuple[int, ...]) -> jax.Array:
    if values.dtype == jnp.bool:
        values = values.astype(jnp.uint8)
    words = lax.bitcast_convert_type(values, _WORDS[values.dtype.itemsize]).astype(jnp.uint32)
    place = start
    for axis, stride in enumerate(strides):
        place += lax.broadcasted_iota(jnp.uint32, values.shape, axis) * jnp.uint32(stride)
    # Times an odd number no bit is lost; by place, so that values that changed places are seen. Whole numbers modulo
    # 2^32 have one sum in any order, so in any layout.
    return jnp.sum(words * (2 * place + 1), dtype=jnp.uint32)


def _parts(array: jax.Array) -> list[jax.Array]:
    sizes = itertools.accumulate(array.shape[:0:-1], operator.mul, initial=1)
    strides = tuple(size % 2**32 for size in sizes)[::-1] if array.ndim else ()
    parts = []
    # Part by part, each on its device: hundreds of sums over all devices would wait for each other.
    for shard in array.addressable_shards:
        if shard.replica_id == 0:
            corner = (part.start or 0 for part in shard.index)
            start = sum(map(operator.mul, corner, strides)) % 2**32
            parts.append(_sum_of_bits(shard.data, np.uint32(start), strides))
    return parts


def checksum(tree: Any) -> str:
    """16 hexadecimal digits over names and bits of all arrays; the same however they are laid out over devices.

    Computed on the devices: only four bytes of a part of an array come to the host. It finds damage, not forgery. All
    processes must call it.

    Args:
        tree: arrays of up to four bytes a value.
    """
    named, parts = [], []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = jnp.asarray(leaf)
        sums = _parts(array)
        named.append(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}")
        # Weights on the host may be more than a device holds: one array after the other.
        parts.append(sums if array is leaf else jax.device_get(sums))
    here = np.array([sum(map(int, of_leaf)) % 2**32 for of_leaf in jax.device_get(parts)], np.uint32)
    digest = hashlib.sha256()
    for name, value in zip(named, sum_over_processes(here), strict=True):
        digest.update(f"{name} {value}\n".encode())
    return digest.hexdigest()[:16]


def not_finite(tree: Any) -> list[str]:
    """Names of the arrays that hold NaN or infinity, such as "encoder/final_norm/scale".

    Computed on the devices: only a byte of each array comes to the host. All processes must call it.

    Args:
        tree: arrays on devices, in any layout.
    """
    # Whole arrays, for which there is a program by shape and not one for each device, too; and each is waited for, as
    # many at once that speak over all devices can lock each other out.
    return [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if bool(_is_unsound(leaf))
    ]
