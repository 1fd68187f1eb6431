"""A synthetic language whose uncertainty is known: the bigram-like source of Wen et al.,
"Understanding Warmup-Stable-Decay Learning Rates: A River Valley Loss Landscape Perspective"
(2024).

A sequence is a stationary Markov chain. All tokens stand on one cycle. A determined token is
always followed by the next on the cycle; an ambiguous one by that or by one of choices - 1 others,
the k-th with a probability in proportion to skew^k. No model's expected loss is below the entropy.
A loss is the sum of what the two kinds of targets contribute: those after a token whose `entropy`
is zero, which are determined, and the others.

As the photographs' crops, a sequence is a pure function of its index, made on the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wsdjax.data.device import TEST_SEED, DeviceSplit
from wsdjax.data.split import TOKENS_TOGETHER, Dataset

if TYPE_CHECKING:
    from wsdjax.config import Bigram


class Language(NamedTuple):
    successors: np.ndarray
    """[V, K] integers: what may follow each token; after a determined one, K times the same."""
    probabilities: np.ndarray
    """[K] float64: of each of them."""

    @property
    def ambiguous(self) -> np.ndarray:
        """[V] bool: whether more than one token may follow."""
        return (self.successors != self.successors[:, :1]).any(1)


def load(config: Bigram) -> Dataset:
    language = make_language(config)
    arrays = (
        jnp.asarray(language.successors, jnp.int32),
        jnp.asarray(np.cumsum(language.probabilities)[:-1], jnp.float32),
        jnp.asarray(np.cumsum(stationary_distribution(config))[:-1], jnp.float32),
    )

    def split(seed, size):
        def examples(arrays, indices):
            keys = jax.vmap(lambda index: jax.random.fold_in(jax.random.key(seed), index))(indices)
            tokens = jax.vmap(_sequence, in_axes=(None, 0, None))(arrays, keys, config.length)
            return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}

        return DeviceSplit(size, arrays, examples, max(1, TOKENS_TOGETHER // config.length))

    return Dataset(split(0, config.size), split(TEST_SEED, config.eval_size))


def _sequence(arrays, key, length):
    """[length + 1] int32: one sequence, whose first token is drawn as all the others are
    distributed."""
    successors, bounds, first_bounds = arrays
    first, rest = jnp.split(jax.random.uniform(key, (length + 1,), jnp.float32), [1])
    # The inverse of a distribution function is the number of its steps that lie below.
    start = (first >= first_bounds).sum()
    chosen = (rest[:, None] >= bounds[None]).sum(1)

    def step(token, choice):
        return successors[token, choice], token

    last, tokens = jax.lax.scan(step, start.astype(jnp.int32), chosen)
    return jnp.append(tokens, last)


def make_language(config: Bigram) -> Language:
    """Draws what may follow what, a function of `config.language` and the language's sizes."""
    v, k = config.vocabulary, config.choices
    order_key, kind_key, other_key = jax.random.split(jax.random.key(config.language), 3)
    cycle = np.asarray(jax.random.permutation(order_key, v), np.int32)
    place = np.argsort(cycle)
    # How far along the cycle the successors of each token stand: 0 for the next on it.
    places = np.asarray(jax.random.uniform(other_key, (v, v - 1), jnp.float32))
    others = np.argsort(places, axis=1)[:, : k - 1]
    steps = np.concatenate([np.zeros((v, 1), int), 1 + others], axis=1)
    ambiguous = np.asarray(jax.random.permutation(kind_key, v)) < round(config.ambiguous * v)
    steps = np.where(ambiguous[:, None], steps, 0)
    weights = config.skew ** np.arange(k, dtype=float)
    return Language(cycle[(place[:, None] + 1 + steps) % v], weights / weights.sum())


def transition_matrix(config: Bigram) -> np.ndarray:
    """[V, V] float64: row i holds the distribution of the token after token i."""
    language = make_language(config)
    matrix = np.zeros((config.vocabulary,) * 2)
    np.add.at(
        matrix, (np.arange(config.vocabulary)[:, None], language.successors), language.probabilities
    )
    # Where all successors are one, their probabilities add up to 1 but for rounding.
    return np.where(language.ambiguous[:, None], matrix, matrix.round())


def stationary_distribution(config: Bigram) -> np.ndarray:
    """[V] float64: how often each token occurs, at every place of a sequence."""
    # The one solution of pi P = pi, sum(pi) = 1: the cycle leads from every token to every other.
    v = config.vocabulary
    equations = transition_matrix(config).T - np.eye(v)
    equations[-1] = 1  # the others add up to minus that one
    return np.linalg.solve(equations, np.eye(v)[-1])


def entropy(config: Bigram) -> np.ndarray:
    """[V] float64, nats: of the token after each token. ``entropy(config)[inputs]`` is the least
    expected loss of each target, and zero where the target is determined."""
    language = make_language(config)
    p = language.probabilities[language.probabilities > 0]
    return np.where(language.ambiguous, -(p * np.log(p)).sum(), 0.0)


def entropy_rate(config: Bigram) -> float:
    """Nats a token: the least expected loss of any model."""
    return float(stationary_distribution(config) @ entropy(config))


class SplitLoss(NamedTuple):
    """The parts of two kinds of targets in a mean loss, which is their sum, in nats a token."""

    determined: jax.Array
    """The part of targets after a token that determines them: 0 at best."""
    ambiguous: jax.Array
    """The part of the others."""
    entropy: jax.Array
    """The least that `ambiguous` can be on such inputs, in expectation."""


def split_loss(config: Bigram, logits: jax.Array, batch: dict[str, jax.Array]) -> SplitLoss:
    """The loss of a model, split by whether its target was uncertain (Wen et al.): of its logits,
    [..., L, V], for the `inputs` of a batch, [..., L]."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"])
    entropies = jnp.asarray(entropy(config), losses.dtype)[batch["inputs"]]
    uncertain = entropies > 0
    return SplitLoss(
        jnp.where(uncertain, 0, losses).mean(),
        jnp.where(uncertain, losses, 0).mean(),
        entropies.mean(),
    )
