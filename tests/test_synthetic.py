"""The synthetic language: its samples follow the matrix, whose entropies are in closed form."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wsdjax import data, tree
from wsdjax.config import Bigram
from wsdjax.data import synthetic

CONFIG = Bigram(vocabulary=12, length=50, ambiguous=0.5, choices=3, skew=0.5, size=4_000)


@pytest.fixture(scope="module")
def sequences():
    """[4000, 51] tokens."""
    split = data.load(CONFIG).train
    batch = split.take(np.arange(split.size))
    inputs, targets = np.asarray(batch["inputs"]), np.asarray(batch["targets"])
    np.testing.assert_array_equal(inputs[:, 1:], targets[:, :-1])
    return np.concatenate([inputs, targets[:, -1:]], axis=1)


def test_each_row_is_determined_or_has_the_known_distribution():
    """p_k in proportion to skew^k, in some order; half of the tokens are ambiguous."""
    matrix = synthetic.transition_matrix(CONFIG)
    rows = np.sort(matrix)[:, ::-1]
    ambiguous = rows[:, 0] < 1
    assert ambiguous.sum() == 6
    np.testing.assert_allclose(rows[ambiguous, :4], [[4 / 7, 2 / 7, 1 / 7, 0]] * 6)
    np.testing.assert_allclose(matrix.sum(1), 1)


def test_the_entropies_are_in_closed_form():
    """log 2 ... of the few probabilities, zero where the next token is determined."""
    p = np.array([4, 2, 1]) / 7
    h = synthetic.entropy(CONFIG)
    np.testing.assert_allclose(np.sort(h), [0] * 6 + [-(p * np.log(p)).sum()] * 6)
    uniform = dataclasses.replace(CONFIG, skew=1.0, ambiguous=1.0, choices=5)
    assert synthetic.entropy_rate(uniform) == pytest.approx(np.log(5))
    assert synthetic.entropy_rate(dataclasses.replace(CONFIG, ambiguous=0.0)) == 0


@pytest.mark.parametrize(("skew", "choices"), [(0.6, 5), (1.0, 6), (1.0, 10), (0.3, 4)])
def test_a_determined_token_has_no_entropy_at_all(skew, choices):
    """Whatever the rounding: a loss is split by it."""
    config = Bigram(20, ambiguous=0.35, choices=choices, skew=skew)
    h, matrix = synthetic.entropy(config), synthetic.transition_matrix(config)
    assert (h > 0).sum() == 7
    assert (matrix[h == 0].max(1) == 1).all()
    assert (matrix[h == 0] > 0).sum() == 13


def test_the_stationary_distribution_is_kept_by_the_matrix():
    pi, matrix = synthetic.stationary_distribution(CONFIG), synthetic.transition_matrix(CONFIG)
    np.testing.assert_allclose(pi @ matrix, pi, atol=1e-14)
    assert pi.sum() == pytest.approx(1)
    assert (pi > 0).all()
    determined = dataclasses.replace(CONFIG, ambiguous=0.0)
    np.testing.assert_allclose(synthetic.stationary_distribution(determined), 1 / 12)


def test_samples_follow_the_transition_matrix(sequences):
    """Over 200,000 of them, within 5 standard errors; what is impossible is absent."""
    matrix = synthetic.transition_matrix(CONFIG)
    counts = np.zeros_like(matrix)
    np.add.at(counts, (sequences[:, :-1], sequences[:, 1:]), 1)
    total = counts.sum(1, keepdims=True)
    error = 5 * np.sqrt(matrix * (1 - matrix) / total)
    assert (np.abs(counts / total - matrix) <= error).all()


@pytest.mark.parametrize("place", [0, 1, 25, 50])
def test_every_place_of_a_sequence_has_the_stationary_distribution(sequences, place):
    pi = synthetic.stationary_distribution(CONFIG)
    frequency = np.bincount(sequences[:, place], minlength=12) / 4_000
    assert (np.abs(frequency - pi) <= 5 * np.sqrt(pi * (1 - pi) / 4_000)).all()


def test_the_true_model_has_the_entropy_as_its_loss_split_by_kind(sequences):
    """On determined targets 0, on ambiguous ones their entropy; together the entropy rate."""
    matrix, h = synthetic.transition_matrix(CONFIG), synthetic.entropy(CONFIG)
    inputs, targets = sequences[:, :-1], sequences[:, 1:]
    losses, ambiguous = -np.log(matrix[inputs, targets]), h[inputs] > 0
    assert (losses[~ambiguous] == 0).all()
    assert losses[ambiguous].mean() == pytest.approx(h.max(), abs=0.01)
    assert losses.mean() == pytest.approx(synthetic.entropy_rate(CONFIG), abs=0.01)


def test_a_loss_is_split_exactly(sequences):
    """Of the true model: nothing on determined targets, the entropy on the others, to the
    sampling; of any model the two parts add up to the loss."""
    batch = {"inputs": jnp.asarray(sequences[:, :-1]), "targets": jnp.asarray(sequences[:, 1:])}
    true = jnp.log(jnp.asarray(synthetic.transition_matrix(CONFIG)) + 1e-30)[batch["inputs"]]
    found = synthetic.split_loss(CONFIG, true, batch)
    assert abs(found.determined) < 1e-6
    assert found.ambiguous == pytest.approx(float(found.entropy), abs=0.005)
    other = jnp.cos(jnp.arange(12.0))[None, None] + true / 50
    parts = synthetic.split_loss(CONFIG, other, batch)
    losses = optax.softmax_cross_entropy_with_integer_labels(other, batch["targets"])
    assert parts.determined + parts.ambiguous == pytest.approx(float(losses.mean()), rel=1e-5)
    assert parts.determined > 0.1
    assert parts.entropy == found.entropy


def test_a_sequence_is_a_function_of_its_index_and_split(sequences):
    train, test = data.load(CONFIG).train, data.load(CONFIG).test
    some = train.examples(train.arrays, jnp.array([7, 3, 3_999]))
    np.testing.assert_array_equal(some["inputs"], sequences[[7, 3, 3_999], :-1])
    assert some["inputs"].dtype == some["targets"].dtype == jnp.int32
    other = np.asarray(test.take(np.arange(100))["inputs"])
    assert not (other == sequences[:100, :-1]).all(1).any()
    batch = data.Stream(train, 16, [0, 1])[5]
    assert batch["targets"].shape == (2, 16, 50)


def test_languages_differ_by_their_seed():
    other = dataclasses.replace(CONFIG, language=1)
    assert not np.array_equal(
        synthetic.transition_matrix(other), synthetic.transition_matrix(CONFIG)
    )


def test_tokens_are_a_unit_of_length():
    assert tree.units(CONFIG, 10) == {"epochs": 400, "tokens": 1 / 500}
