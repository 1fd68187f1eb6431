"""Data as pure functions of the step: batch t of a stream is ``stream[t]``.

A stream has no position and no state to save: stopped and resumed, alone or beside others,
it gives the same batches. Image sets stay in device memory, where a batch is made or
gathered, since no host pipeline can feed many seeds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wsdjax import config as configs
from wsdjax.data.augment import crop_and_flip

Batch = dict[str, jax.Array]

# What a seed is used for: a key of its own for each, apart from those of the initialisation.
_ORDER, _AUGMENT = 2**31, 2**31 + 1


@dataclass(frozen=True, eq=False)
class Split:
    """`size` examples, each a pure function of its index."""

    size: int
    arrays: Any
    """What `examples` reads: a pytree of arrays, an argument of compiled functions."""
    examples: Callable[[Any, jax.Array], Batch]
    """``examples(arrays, indices [B]) -> {"inputs": [B, 32, 32, 3], "targets": [B]}``."""


@dataclass(frozen=True, eq=False)
class Dataset:
    train: Split
    test: Split
    classes: tuple[str, ...]


class Stream:
    """Shuffled training batches: ``stream[t]`` is batch t, for t = 0, 1, 2, ...

    Each epoch is another permutation of the split, cut into batches; what does not fill a
    batch is left out of that epoch. With an integer seed a batch's leaves are [B, ...]; with
    a sequence of R seeds they are [R, B, ...], row r being the stream of seed r.

    Raises:
      ValueError: for a batch larger than the split.
    """

    def __init__(
        self, split: Split, batch_size: int, seed: int | Sequence[int], augment: bool = False
    ):
        if batch_size > split.size:
            raise ValueError(f"batch_size = {batch_size}: the set has {split.size} examples")
        self.batch_size = batch_size
        self.batches_per_epoch = split.size // batch_size
        self._split = split
        self._seeds = np.asarray(seed, np.uint32)

        self._batch, order = _programs(split, batch_size, augment, bool(self._seeds.ndim))
        # A function of (seed, epoch), kept because many steps share it.
        self._order = functools.lru_cache(maxsize=2)(functools.partial(order, self._seeds))

    def __getitem__(self, t: int) -> Batch:
        order = self._order(t // self.batches_per_epoch)
        return self._batch(self._split.arrays, self._seeds, order, t)


@functools.lru_cache(maxsize=8)
def _programs(
    split: Split, batch_size: int, augment: bool, many: bool
) -> tuple[Callable[..., Batch], Callable[..., jax.Array]]:
    """(batch, order), jitted once for all streams of a split: branches share their compilation."""

    def batch(arrays, seed, order, t):
        at = t % (split.size // batch_size) * batch_size
        made = split.examples(arrays, jax.lax.dynamic_slice(order, (at,), (batch_size,)))
        if augment:
            key = jax.random.fold_in(_key(seed, _AUGMENT), t)
            made["inputs"] = crop_and_flip(key, made["inputs"])
        return made

    def order(seed, epoch):
        key = jax.random.fold_in(_key(seed, _ORDER), epoch)
        return jax.random.permutation(key, split.size)

    if many:
        batch = jax.vmap(batch, in_axes=(None, 0, 0, None))
        order = jax.vmap(order, in_axes=(0, None))
    return jax.jit(batch), jax.jit(order)


def _key(seed: Any, use: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), np.uint32(use))


def load(config: Any) -> Dataset:
    """The data set of a config, such as ``get_config().data``.

    Raises:
      FileNotFoundError: for data that is not prepared, naming the command that prepares it.
      ValueError: for a config that names no data set.
    """
    match config:
        case configs.Photos():
            from wsdjax.data import photos

            return photos.load(config)
        case configs.Cifar10():
            from wsdjax.data import cifar10

            return cifar10.load(config)
    raise ValueError(f"no data set is loaded from {config!r}")


def in_order(split: Split, batch_size: int = 250, examples: int | None = None) -> list[Batch]:
    """The whole split, or its first examples, as batches in order; the last may be smaller."""
    make = jax.jit(split.examples)
    end = split.size if examples is None else min(examples, split.size)
    bounds = range(0, end, batch_size)
    return [make(split.arrays, jnp.arange(at, min(at + batch_size, end))) for at in bounds]
