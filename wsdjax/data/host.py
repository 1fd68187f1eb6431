"""Splits that stay in files, where the host reads the windows of a batch, in grain's order."""

from __future__ import annotations

from collections.abc import Callable

import grain
import numpy as np

from wsdjax.data.split import TOKENS_TOGETHER, Batch
from wsdjax.data.tokens import Windows


class HostSplit(Windows):
    """The windows of a split of token shards; a batch's leaves are int32 arrays of the host,
    [B, L] or [R, B, L]."""

    @property
    def together(self) -> int:
        return max(1, TOKENS_TOGETHER // self.length)

    def batches(
        self, batch_size: int, seeds: np.ndarray, augment: bool
    ) -> Callable[[int, int, int], Batch]:
        if augment:
            raise ValueError("augment = True: there is no augmentation of tokens")
        orders = [_order(self.size, batch_size, int(seed)) for seed in seeds.ravel()]

        def rows(t: int, start: int, stop: int) -> Batch:
            at = [order[t][start:stop] for order in orders]
            return self.take(np.reshape(at, (*seeds.shape, stop - start)))

        return rows


def _order(size: int, batch_size: int, seed: int) -> grain.MapDataset:
    """Item t is batch t's indices, [batch_size]: of each epoch a permutation, cut into batches.

    The permutation is a cipher of the index: it takes no memory, whatever the size. Grain
    shuffles epoch e with seed + e, so that the epochs of neighbouring seeds would be the same
    ones; the seeds are therefore scattered first.
    """
    scattered = int(np.random.SeedSequence(seed).generate_state(1)[0])
    indices = grain.MapDataset.range(size).seed(scattered).shuffle()
    return indices.batch(batch_size, drop_remainder=True).repeat(None)
