"""What a compiled call of several updates is given: its batches, or what they are made of."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from wsdjax.data import Batch, Stream, Traced
from wsdjax.placement import mesh
from wsdjax.placement.mesh import Shardings
from wsdjax.training.updates import Feed, stacked

MOST = 128
"""Updates in a call: enough that what a call costs the host, some milliseconds, is little of it."""
_OF_THE_HOST, _BYTES = 16, 2**26
"""Batches that the host reads for a call, and the most that they may take of the devices."""


class Made:
    """Batches that the devices make."""

    most = MOST

    def __init__(self, traced: Traced, placed: Shardings):
        self.feed = _made_by(traced.make)
        self._placed, self._per_epoch = placed, traced.per_epoch
        self._shared = mesh.put(traced.shared, placed.everywhere)

        @functools.lru_cache(maxsize=2)
        def own(epoch: int) -> Any:
            return mesh.put(traced.own(epoch * traced.per_epoch), placed.replicates)

        self._own = own

    def given(self, t: int, count: int) -> Any:
        """For the batches t, ..., t + count - 1 of the stream, `reach(t)` at most."""
        return self._shared, self._own(t // self._per_epoch), np.int32(t)

    def reach(self, t: int) -> int:
        return min(self.most, self._per_epoch - t % self._per_epoch)


@functools.lru_cache(maxsize=32)
def _made_by(make: Callable[[Any, Any, Any], Batch]) -> Feed:
    def feed(given: Any) -> Callable[[Any], Batch]:
        shared, own, t = given
        return lambda i: make(shared, own, t + i)

    return feed


class Read:
    """Batches that the host reads: those of a call while the call before it runs."""

    feed = staticmethod(stacked)

    def __init__(self, batch: Callable[[int], Batch], bytes_of_one: int):
        self._batch = batch
        self.most = max(1, min(_OF_THE_HOST, _BYTES // bytes_of_one))

    def given(self, t: int, count: int) -> Any:
        batches = [self._batch(t + i) for i in range(count)]
        return [*batches, *batches[-1:] * (self.most - count)]  # as many whatever the count

    def reach(self, t: int) -> int:
        return self.most


Feeding = Made | Read


def of(stream: Stream, placed: Shardings, batch: Callable[[int], Batch], size: int) -> Feeding:
    """Of a stream with a row for each replicate, whose ``batch(t)`` lies where it is to live and
    takes `size` bytes of each device."""
    return Made(stream.traced, placed) if stream.traced else Read(batch, size)
