"""Data as pure functions of the step: batch t of a stream is ``stream[t]``.

A stream has no position and no state to save: stopped and resumed, alone or beside others, on one
host or on many, it gives the same batches. JAX is imported by the data sets that need it alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from wsdjax.data.split import Batch, Dataset, Split, Traced

if TYPE_CHECKING:
    from wsdjax.config import DataConfig

__all__ = ["Batch", "Dataset", "Split", "Stream", "Traced", "in_order", "load", "sample"]


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
        given = batch_size, np.asarray(seed, np.uint32), augment
        self._rows = split.batches(*given)
        traced = getattr(split, "traced", None)
        self.traced: Traced | None = traced and traced(*given)
        """The same batches inside of a compiled function; None if the host reads them."""

    def __getitem__(self, t: int) -> Batch:
        return self.rows(t, 0, self.batch_size)

    def rows(self, t: int, start: int, stop: int) -> Batch:
        """The examples start, ..., stop - 1 of batch t, to the bit: those of one process. Of text
        no others are read; images are made as a whole, since XLA rounds by a batch's size."""
        return self._rows(t, start, stop)


def load(config: DataConfig) -> Dataset:
    """The data set of a config, such as ``get_config().data``.

    Raises:
      FileNotFoundError: for data that is not prepared, naming the command that prepares it.
      OSError, UserError: for data that is damaged, naming the file.
    """
    return config.load()


def in_order(
    split: Split, batch_size: int | None = None, examples: int | None = None, parts: int = 1
) -> list[Batch]:
    """The whole split, or its first examples, as batches in order; the last may be smaller. With
    `parts` devices that share a batch all but the last of them are multiples of that.

    Neighbours may have much in common, as the windows of one file do: what is to stand for a
    split is drawn by `sample`. Without a `batch_size` a batch has up to 250 images, or windows of
    some 32,768 tokens together, and all have as many as the first, but for the last and
    what is over of several devices.
    """
    end = split.size if examples is None else min(examples, split.size)
    return _batches(split, np.arange(end), batch_size, parts)


def sample(
    split: Split, examples: int, seed: int = 0, batch_size: int | None = None, parts: int = 1
) -> list[Batch]:
    """Examples drawn without replacement and spread over the split, one from each of as many
    parts of it, in its order; batches as those of `in_order`.

    The draw is a function of the split's size, `examples` and `seed` alone: no flag of the
    process and no machine changes it. Every k-th of a sample is spread over the split as well.

    Raises:
      ValueError: for no example, more than there are, or a negative seed.
    """
    if not 1 <= examples <= split.size:
        raise ValueError(f"examples = {examples}: the split has {split.size}")
    bounds = np.array([i * split.size // examples for i in range(examples + 1)], np.uint64)
    # The bits of a bit generator are the same in every version of NumPy; a Generator's are not.
    bits = np.random.PCG64(seed).random_raw(examples)
    at = (bounds[:-1] + bits % (bounds[1:] - bounds[:-1])).astype(np.int64)
    return _batches(split, at, batch_size, parts)


def _batches(split: Split, indices: np.ndarray, size: int | None, parts: int) -> list[Batch]:
    most, count = size or split.together, len(indices)
    even, each = count - count % parts, max(parts, most - most % parts)
    if size is None and even:
        # Of one size, where the number allows: another would be compiled on its own.
        batches = -(-even // each)
        each = parts * -(-even // (batches * parts))
    starts = [*range(0, even, each), *range(even, count, most), count]
    return [split.take(indices[start:stop]) for start, stop in itertools.pairwise(starts)]
