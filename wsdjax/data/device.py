"""Splits that stay in device memory, where a batch is made or gathered: no host pipeline can
feed many seeds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wsdjax.data.augment import crop_and_flip
from wsdjax.data.split import Batch, Traced

TEST_SEED = 2**31
"""Examples that are made for testing have keys of their own; the training set's are of seed 0."""
# What a seed is used for: a key of its own for each, apart from those of the initialisation.
_ORDER, _AUGMENT = 2**31, 2**31 + 1


@dataclass(frozen=True, eq=False)
class DeviceSplit:
    """`size` examples, each a pure function of its index."""

    size: int
    arrays: Any
    """A pytree of arrays that `examples` reads, an argument of compiled functions."""
    examples: Callable[[Any, jax.Array], Batch]
    """``examples(arrays, indices [B]) -> {"inputs": [B, ...], "targets": [B, ...]}``."""
    together: int = 250

    def batches(
        self, batch_size: int, seeds: np.ndarray, augment: bool
    ) -> Callable[[int, int, int], Batch]:
        _, make, order = _programs(self, batch_size, augment, many := bool(seeds.ndim))
        # A function of (seed, epoch), kept because many steps share it.
        order_of = functools.lru_cache(maxsize=2)(functools.partial(order, seeds))
        per_epoch = self.size // batch_size

        def rows(t: int, start: int, stop: int) -> Batch:
            whole = make(self.arrays, (seeds, order_of(t // per_epoch)), t)
            if stop - start == batch_size:
                return whole
            # By no program of its own, which would round otherwise.
            mine = np.s_[:, start:stop] if many else np.s_[start:stop]
            return jax.tree.map(lambda leaf: leaf[mine], whole)

        return rows

    def traced(self, batch_size: int, seeds: np.ndarray, augment: bool) -> Traced:
        batch, _, order = _programs(self, batch_size, augment, True)
        per_epoch = self.size // batch_size

        def own(t: int) -> Any:
            return seeds, order(seeds, t // per_epoch)

        return Traced(batch, self.arrays, own, per_epoch)

    def take(self, indices: np.ndarray) -> Batch:
        return jax.jit(self.examples)(self.arrays, jnp.asarray(indices, jnp.int32))


@functools.lru_cache(maxsize=8)
def _programs(
    split: DeviceSplit, batch_size: int, augment: bool, many: bool
) -> tuple[Callable[..., Batch], Callable[..., Batch], Callable[..., jax.Array]]:
    """(batch, batch, order), one function for all streams of a split, so that branches share their
    compilation; the last two are jitted."""

    def batch(arrays, own, t):
        seed, order = own
        at = t % (split.size // batch_size) * batch_size
        made = split.examples(arrays, jax.lax.dynamic_slice(order, (at,), (batch_size,)))
        if augment:
            key = jax.random.fold_in(_key(seed, _AUGMENT), t)
            made["inputs"] = crop_and_flip(key, made["inputs"])
        return made

    def order(seed, epoch):
        key = jax.random.fold_in(_key(seed, _ORDER), epoch)
        return jax.random.permutation(key, split.size).astype(jnp.int32)

    if many:
        batch = jax.vmap(batch, in_axes=(None, 0, None))
        order = jax.vmap(order, in_axes=(0, None))
    return batch, jax.jit(batch), jax.jit(order)


def _key(seed: Any, use: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), np.uint32(use))
