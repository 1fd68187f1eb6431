"""The convex bound: its formula term by term, its identities, and its accuracy."""

from fractions import Fraction

import jax
import numpy as np
import pytest

from wsdjax import schedules
from wsdjax.theory import best_base_rate, convex_bound, implied_distance


def omega(rates, norms, distance, T):
    """Theorem 10 of arXiv 2310.07831 in rational arithmetic, sum by sum."""
    eta = [Fraction(float(x)) for x in rates[:T]]
    square = [
        Fraction(float(x)) ** 2 * Fraction(float(g)) ** 2 for x, g in zip(rates, norms, strict=True)
    ]
    total = sum(eta)
    value = (Fraction(float(distance)) ** 2 + sum(square[:T])) / (2 * total)
    for k in range(T - 1):
        value += eta[k] / sum(eta[k + 1 :]) * sum(square[k:T]) / sum(eta[k:]) / 2
    return float(value)


@pytest.fixture(scope="module")
def noisy():
    random = np.random.default_rng(0)
    rates = schedules.wsd(0.7, 4, 40, 15, "sqrt", 1e-9)(np.arange(1, 41))
    return rates, random.uniform(0.5, 2, 40)


def test_it_is_the_theorem_at_every_step(noisy):
    """To 14 digits, a decay over nine orders of magnitude included."""
    rates, norms = noisy
    expected = [omega(rates, norms, 1.3, T) for T in range(1, 41)]
    bound = convex_bound(rates, norms, 1.3)
    assert bound.dtype == np.float64
    np.testing.assert_allclose(bound, expected, rtol=1e-14)


def test_one_step_by_hand():
    """D^2 / (2 eta) + eta g^2 / 2, and the second step of equal rates."""
    bound = convex_bound([2.0, 2.0], [3.0, 3.0], 4.0)
    assert bound.tolist() == [16 / 4 + 9, 16 / 8 + 72 / 8 + (72 / 4) / 2]


def test_updates_of_rate_zero_change_nothing(noisy):
    """At the end they leave the bound; anywhere they are as though they were not there."""
    rates, norms = noisy
    bound = convex_bound(rates, norms, 1.0)
    padded = convex_bound(np.append(rates, [0, 0]), np.append(norms, [5, 5]), 1.0)
    np.testing.assert_array_equal(padded, [*bound, bound[-1], bound[-1]])
    inside = convex_bound(np.insert(rates, 7, 0), np.insert(norms, 7, 9), 1.0)
    np.testing.assert_array_equal(np.delete(inside, 7), bound)
    led = convex_bound(np.insert(rates, 0, 0), np.insert(norms, 0, 9), 1.0)
    assert led[0] == np.inf
    np.testing.assert_array_equal(led[1:], bound)


def test_units(noisy):
    """Rates in units c, distances and gradients in theirs: Omega(c eta, g / c, D) = Omega / c."""
    rates, norms = noisy
    np.testing.assert_allclose(
        convex_bound(8 * rates, norms / 8, 1.0), convex_bound(rates, norms, 1.0) / 8, rtol=1e-14
    )


def test_the_best_base_rate_is_the_least_of_a_fine_grid(noisy):
    rates, norms = noisy
    best = best_base_rate(rates, norms, 2.0)
    grid = best.gamma * np.linspace(0.9, 1.1, 201)
    bounds = [convex_bound(gamma * rates, norms, 2.0, [40])[0] for gamma in grid]
    assert np.argmin(bounds) == 100
    assert bounds[100] == pytest.approx(best.bound, rel=1e-14)
    distance = implied_distance(rates, norms)
    assert best_base_rate(rates, norms, distance).gamma == pytest.approx(1, rel=1e-14)


def test_some_steps_are_those_of_all(noisy):
    rates, norms = noisy
    at = [40, 3, 3, 17]
    np.testing.assert_array_equal(
        convex_bound(rates, norms, 1.0, at), convex_bound(rates, norms, 1.0)[np.array(at) - 1]
    )


def test_a_cooldown_brings_the_bound_down_at_once():
    """Schaipp et al.: under WSD the bound drops in the cooldown and ends near the cosine's, both
    below that of a constant rate, each at its best base rate."""
    t = np.arange(1, 401)
    ends = {}
    for name, schedule in {
        "wsd": schedules.wsd(1.0, 0, 400, 80),
        "cosine": schedules.warmup_cosine(1.0, 0, 400),
        "constant": schedules.constant(1.0),
    }.items():
        rates = schedule(t)
        gamma = best_base_rate(rates, 1.0, 1.0).gamma
        ends[name] = convex_bound(gamma * rates, 1.0, 1.0)
    assert ends["wsd"][-1] < ends["wsd"][319] * 0.8
    assert ends["wsd"][-1] < 1.1 * ends["cosine"][-1]
    assert ends["wsd"][-1] < 0.85 * ends["constant"][-1]


def test_it_is_in_float64_whatever_jax_computes_in(noisy):
    rates, norms = noisy
    arrays = jax.numpy.asarray(rates), jax.numpy.asarray(norms)
    assert arrays[0].dtype == np.float32
    as_float64 = [np.asarray(each, np.float64) for each in arrays]
    np.testing.assert_array_equal(convex_bound(*arrays, 1.0), convex_bound(*as_float64, 1.0))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([], 1.0, 1.0), "must be"),
        (([1.0, 2.0], [1.0], 1.0), r"got \(2,\) and \(1,\)"),
        (([1.0, -2.0], 1.0, 1.0), "learning_rates must be finite and >= 0"),
        (([1.0], np.nan, 1.0), "grad_norms must be finite"),
        (([1.0], 1.0, -1.0), "distance must be finite and >= 0"),
        (([1.0], 1.0, 1.0, [2]), "at must lie in 1, ..., 1"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        convex_bound(*arguments)
    with pytest.raises(ValueError, match="no best base rate"):
        best_base_rate([0.0, 0.0], 1.0, 1.0)
