"""Means over a batch's examples, some of them at a time: one group after the other, inside one
compiled function, so that a group's activations alone are in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding


class Groups(NamedTuple):
    """How a batch is cut."""

    size: int
    """Examples at a time, at most."""
    devices: int = 1
    """That share a batch's examples, each of which has its part in every group."""


def mean(of_examples: Callable[[Any], Any], batch: Any, groups: Groups | None) -> Any:
    """``of_examples(batch)``, a mean over examples or a tree of them, as the mean over groups,
    each of which weighs as many as its examples; exact for any number of them."""
    count = examples(batch)
    if groups is None or groups.size >= count:
        return of_examples(batch)
    devices = groups.devices if count % groups.devices == 0 else 1
    each = count // devices
    size = _even(each, max(1, groups.size // devices))
    whole = each // size

    def cut(leaf):
        rows = leaf.reshape(devices, each, *leaf.shape[1:])
        equal = rows[:, : whole * size].reshape(devices, whole, size, *leaf.shape[1:])
        equal = equal.swapaxes(0, 1).reshape(whole, devices * size, *leaf.shape[1:])
        return equal, rows[:, whole * size :].reshape(-1, *leaf.shape[1:])

    pairs = jax.tree.map(cut, jax.tree.map(jnp.asarray, batch))
    equal, rest = jax.tree.transpose(jax.tree.structure(batch), jax.tree.structure((0, 0)), pairs)

    def add(sums, group):
        share = examples(group) / count
        found = of_examples(group)
        return jax.tree.map(lambda t, x: t + share * x.astype(t.dtype), sums, found), None

    shapes = jax.eval_shape(of_examples, jax.tree.map(lambda leaf: leaf[0], equal))
    # In 16 bits a sum over many groups would stop to grow.
    sums = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32)), shapes
    )
    sums, _ = jax.lax.scan(add, sums, equal)
    return add(sums, rest)[0] if each % size else sums


def _even(count: int, most: int) -> int:
    """The size of groups: one that divides the count, if there is one that is not far below
    `most`, since what is left over is a program of its own."""
    divisors = [size for size in range(most // 2 + 1, most + 1) if count % size == 0]
    return max(divisors, default=most)


def examples(batch: Any) -> int:
    """How many a batch has."""
    return jnp.shape(jax.tree.leaves(batch)[0])[0]


def sharing(batch: Any) -> int:
    """How many devices share the examples of a batch."""
    leaf = jax.tree.leaves(batch)[0]
    sharding = getattr(leaf, "sharding", None)
    if not isinstance(sharding, NamedSharding):
        return 1
    return leaf.shape[0] // sharding.shard_shape(leaf.shape)[0]
