"""A data set as training sees it: splits that give batches by number.

A split keeps its examples where it suits them: images in device memory (`DeviceSplit`), text in
files that the host reads (`HostSplit`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

Batch = dict[str, Any]
"""`inputs` and `targets`: arrays, of the host or of a device, over examples."""
TOKENS_TOGETHER = 2**15
"""About so many tokens are evaluated at once."""


class Traced(NamedTuple):
    """Shuffled batches that a compiled function makes itself."""

    make: Callable[[Any, Any, Any], Batch]
    """``make(shared, own, t)``: batch t, leaves [R, B, ...]. It is one function for all streams of
    a split, which share what is compiled of it."""
    shared: Any
    """A pytree of arrays."""
    own: Callable[[int], Any]
    """``own(t)``: arrays [R, ...], of each seed, for the batches of t's epoch."""
    per_epoch: int
    """How many batches an epoch has."""


class Split(Protocol):
    """`size` examples, each a pure function of its index.

    One whose examples a device can make has ``traced(batch_size, seeds, augment) -> Traced`` too,
    for seeds [R].
    """

    @property
    def size(self) -> int: ...

    @property
    def together(self) -> int:
        """How many examples to evaluate at once, unless one is told otherwise."""

    def batches(
        self, batch_size: int, seeds: np.ndarray, augment: bool
    ) -> Callable[[int, int, int], Batch]:
        """Shuffled batches, as `Stream` describes them: a function of t and of the first and the
        last example that is asked for, the latter exclusive. `seeds` are uint32, [] for leaves
        [batch_size, ...] or [R] for [R, batch_size, ...]."""

    def take(self, indices: np.ndarray) -> Batch:
        """The examples of these indices, [B], in the order given."""


@dataclass(frozen=True, eq=False)
class Dataset:
    train: Split
    test: Split
