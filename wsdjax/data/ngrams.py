"""Predictions of n-grams alone: the baseline that a language model's loss is held against.

Interpolated Kneser-Ney (Chen and Goodman, "An empirical study of smoothing techniques for language
modeling", 1999, section 3.2), with one discount for each order and a uniform distribution below
the unigrams:

    p(w | h) = (max(c(hw) - D, 0) + D types(h) p(w | h')) / c(h),   D = n1 / (n1 + 2 n2)

h' is h without its oldest token, types(h) how many tokens follow h, n1 and n2 how many n-grams are
seen once and twice. c counts occurrences at the highest order; below it, how many tokens
precede hw.
"""

from __future__ import annotations

import numpy as np


def ngram_loss(train: np.ndarray, test: np.ndarray, order: int, vocabulary: int) -> float:
    """Mean loss of an n-gram model on the tokens of a text, in nats a token.

    Args:
      train: [..., N] tokens that are counted, of one text or of windows of it.
      test: [..., M] tokens, predicted one by one from the order - 1 before them; the first
        order - 1 of a text or window have no full context and are left out.
      order: n: 1 for unigrams, 2 for bigrams, ...
      vocabulary: tokens are 0, ..., vocabulary - 1.

    Raises:
      ValueError: if an n-gram does not fit 63 bits, or a text has none.
    """
    if test.shape[-1] < order:
        raise ValueError(f"order = {order}: the test text has {test.shape[-1]} tokens")
    grams = np.lib.stride_tricks.sliding_window_view(test, order, axis=-1).reshape(-1, order)
    return float(-np.log(ngram_probabilities(train, grams, vocabulary)).mean())


def ngram_probabilities(train: np.ndarray, grams: np.ndarray, vocabulary: int) -> np.ndarray:
    """[M] float64: how likely the last token of each n-gram, [M, n], is after its first n - 1;
    `train` and `vocabulary` as for `ngram_loss`."""
    order = grams.shape[1]
    if vocabulary**order >= 2**63:
        raise ValueError(f"order = {order}: n-grams of {vocabulary} tokens do not fit 63 bits")
    if train.shape[-1] < order:
        raise ValueError(f"order = {order}: the training text has {train.shape[-1]} tokens")
    windows = np.lib.stride_tricks.sliding_window_view(train, order, axis=-1).reshape(-1, order)
    keys, counts = np.unique(_keys(windows, vocabulary), return_counts=True)
    levels = [(keys, counts)]
    for length in range(order - 1, 0, -1):
        # Each distinct longer n-gram is one token that precedes the shorter one.
        keys, counts = np.unique(levels[-1][0] % vocabulary**length, return_counts=True)
        levels.append((keys, counts))
    probabilities = np.full(len(grams), 1 / vocabulary)
    for length, (keys, counts) in enumerate(reversed(levels), 1):
        asked = _keys(grams[:, order - length :], vocabulary)
        probabilities = _interpolated(keys, counts, asked, probabilities, vocabulary)
    return probabilities


def _interpolated(keys, counts, asked, shorter, vocabulary) -> np.ndarray:
    """p(w | h) of the n-grams `asked`, from the counts of one order and `shorter`, p(w | h')."""
    once, twice = (counts == 1).sum(), (counts == 2).sum()
    # Without a rare n-gram the estimate would be 0, and an unseen token impossible.
    discount = once / (once + 2 * twice) if once else 0.5
    first = np.flatnonzero(np.diff(keys // vocabulary, prepend=-1))
    contexts = keys[first] // vocabulary
    total, types = np.add.reduceat(counts, first), np.diff(first, append=len(keys))
    count = np.maximum(_looked_up(keys, counts, asked) - discount, 0)
    total_h = _looked_up(contexts, total, asked // vocabulary)
    left_over = discount * _looked_up(contexts, types, asked // vocabulary)
    seen = total_h > 0  # after an unseen context the shorter one decides
    mixed = (count + left_over * shorter) / np.where(seen, total_h, 1)
    return np.where(seen, mixed, shorter)


def _keys(grams: np.ndarray, vocabulary: int) -> np.ndarray:
    """[M] int64: n-grams as numbers in base `vocabulary`, so that a context's stand together."""
    return grams @ vocabulary ** np.arange(grams.shape[1], dtype=np.int64)[::-1]


def _looked_up(keys: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The value at each key that is asked for, 0 where it is none of `keys`, which are sorted."""
    at = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return np.where(keys[at] == asked, values[at], 0)
