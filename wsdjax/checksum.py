"""Checksums of arrays where they lie, since orbax loads a flipped byte without a complaint."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def checksums(tree: Any) -> dict[str, int]:
    """A 32-bit checksum for each leaf by its path, the same however the leaf is sharded.

    The sum of the leaf's words, each scrambled with its position: a change of one word always
    changes it, any other with a chance of 1 - 2^-32.
    """
    paths, leaves = zip(*jax.tree_util.tree_leaves_with_path(tree), strict=True)
    sums = jax.device_get(_sums(list(leaves)))
    return {jax.tree_util.keystr(p): int(s) for p, s in zip(paths, sums, strict=True)}


@jax.jit
def _sums(leaves: list[jax.Array]) -> list[jax.Array]:
    return [jnp.sum(_scrambled(_words(leaf)), dtype=jnp.uint32) for leaf in leaves]


def _words(leaf: jax.Array) -> jax.Array:
    size = min(leaf.dtype.itemsize, 4)
    return jax.lax.bitcast_convert_type(leaf, f"uint{8 * size}").astype(jnp.uint32)


def _scrambled(words: jax.Array) -> jax.Array:
    # The finaliser of MurmurHash3, a bijection of 32-bit words.
    x = words ^ (_positions(words) * np.uint32(0x9E3779B9) + np.uint32(1))
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _positions(words: jax.Array) -> jax.Array:
    """Each word's place in row-major order, modulo 2^32."""
    stride, found = 1, jnp.zeros(words.shape, jnp.uint32)
    for axis in reversed(range(words.ndim)):
        found += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * np.uint32(stride % 2**32)
        stride *= words.shape[axis]
    return found
