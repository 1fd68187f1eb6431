"""Claims on synthetic data: where they hold, where they do not, and where nothing can be told."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from experiments import claims
from experiments.claims import Claim, Verdict

HELD, NOT_HELD, NOT_TOLD_APART = Verdict.HELD, Verdict.NOT_HELD, Verdict.NOT_TOLD_APART


def test_an_interval_is_students():
    values = np.array([1.0, 2.0, 4.0])
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    np.testing.assert_allclose(claims.interval(values), tuple(expected))
    assert claims.interval(values[:1]) == (-math.inf, math.inf)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([0.9, 1.0, 1.1], HELD),
        ([-0.9, -1.0, -1.1], NOT_HELD),
        ([-1.0, 0.2, 1.0], NOT_TOLD_APART),
        ([5.0], NOT_TOLD_APART),
    ],
)
def test_a_mean_is_above_or_below_a_bound(values, verdict):
    found = claims.above(np.add(values, 3.0), 3.0)
    assert (found.verdict, found.runs) == (verdict, len(values))
    assert found.value == pytest.approx(3 + np.mean(values))
    mirrored = claims.below(np.subtract(-3.0, values), -3.0)
    assert mirrored.verdict == verdict
    assert mirrored.interval == tuple(-each for each in reversed(found.interval))


def test_pairs_tell_apart_where_means_do_not():
    """Seeds that differ by far more than what is compared."""
    seeds = np.random.default_rng(0).normal(1.6, 0.06, 5)
    one, two = seeds + 0.0128, seeds + np.array([4, -4, 2, -2, 0]) * 1e-4
    assert claims.above(one - two).verdict == HELD
    assert stats.ttest_ind(one, two).pvalue > 0.3  # as though they were other seeds


def test_intervals_cover_as_often_as_they_say():
    draws = np.random.default_rng(0).normal(2.0, 1.0, (4_000, 4))
    found = [claims.interval(values) for values in draws]
    share = np.mean([low < 2 < high for low, high in found])
    assert abs(share - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 4_000)


X = np.linspace(0, 1, 11)


def curves(shape, runs=3, parts=5, noise=1e-4, common=0.1):
    """[R, K, P]: parts differ by far more than points of one part, as samples do."""
    random = np.random.default_rng(1)
    own = random.normal(0, common, (runs, parts, 1))
    return shape(X) + own + random.normal(0, noise, (runs, parts, len(X)))


@pytest.mark.parametrize("runs", [1, 3])
def test_a_valley_is_convex(runs):
    found = claims.convex(X, curves(lambda x: (x - 0.6) ** 2, runs))
    assert (found.verdict, found.runs) == (HELD, runs)
    depth = np.mean([x - 2 * 0.6 * x + 0.36 - (x - 0.6) ** 2 for x in X[1:-1]])
    assert found.value == pytest.approx(depth, abs=1e-3)


def test_a_line_that_is_not_convex():
    assert claims.convex(X, curves(lambda x: -((x - 0.6) ** 2))).verdict == NOT_HELD
    # Below its chord, and yet with a bump.
    bump = curves(lambda x: (x - 0.5) ** 2 + 0.05 * np.exp(-(((x - 0.5) / 0.1) ** 2)))
    assert claims.convex(X, bump).value > 0
    assert claims.convex(X, bump).verdict == NOT_HELD
    noisy = curves(lambda x: 1e-4 * (x - 0.6) ** 2, noise=0.1)
    assert claims.convex(X, noisy).verdict == NOT_TOLD_APART


@pytest.mark.parametrize("runs", [1, 3])
def test_a_loss_that_falls_all_the_way(runs):
    found = claims.descending(X, curves(lambda x: np.exp(-x), runs))
    assert found.verdict == HELD
    assert found.value == pytest.approx(1 - math.exp(-1), abs=1e-3)


def test_a_loss_that_does_not_fall_all_the_way():
    assert claims.descending(X, curves(lambda x: (x - 0.8) ** 2)).verdict == NOT_HELD
    assert claims.descending(X, curves(lambda x: x)).verdict == NOT_HELD
    assert claims.descending(X, curves(lambda x: -1e-5 * x, noise=0.1)).verdict == NOT_TOLD_APART


def test_shapes_are_seldom_denied_where_they_are():
    """All the contrasts at once: a straight descent with noise is called no descent in about one
    case of twenty at most."""
    random = np.random.default_rng(2)
    denied = 0
    for _ in range(300):
        noise = random.normal(0, 0.05, (4, 2, len(X)))
        denied += claims.descending(X, 3 - X + noise).verdict == NOT_HELD
        denied += claims.descending(X, 0 * X + noise).verdict == NOT_HELD
    # The flat one may be denied by its mean too: 2.5% on that side, and 5% by its steps.
    assert denied < 0.1 * 300


def test_the_length_that_matches():
    lengths = np.array([0.05, 0.1, 0.2, 0.35, 0.5])
    excess = np.array([0.3, 0.2, 0.1, -0.05, -0.1])
    runs = excess + np.random.default_rng(0).normal(0, 0.01, (4, 1))
    found = claims.crossing(lengths, runs)
    assert found.verdict == HELD
    low, high = found.interval
    assert 0.2 < low <= found.value <= high < 0.35
    half = stats.t.ppf(1 - 0.025 / 5, 3) * stats.sem(runs)
    for bound, end in ((runs.mean(0) - half, low), (runs.mean(0) + half, high)):
        assert np.interp(end, lengths, bound) == pytest.approx(0, abs=1e-12)
    assert claims.crossing(lengths, [excess]).value == pytest.approx(0.3)
    assert claims.crossing(lengths, [excess]).verdict == NOT_TOLD_APART
    assert claims.crossing(lengths, runs - 1).value == 0.05
    never = claims.crossing(lengths, runs + 1)
    assert (never.value, never.verdict) == (math.inf, NOT_HELD)
    spread = excess[None] + np.array([[-0.3], [0.1], [0.3]])
    assert claims.crossing(lengths, spread).verdict == NOT_TOLD_APART


@pytest.mark.parametrize("runs", [2, 3, 5])
def test_a_length_that_does_not_match_is_seldom_held(runs):
    """Of lengths that all end just above the rival, at most one study in forty says otherwise."""
    random = np.random.default_rng(0)
    excess = random.normal(0.01, 1, (400, runs, 1)) + random.normal(0, 0.3, (400, runs, 5))
    found = [claims.crossing(range(5), each).verdict for each in excess]
    assert found.count(HELD) <= 0.025 * len(found)


def test_what_cannot_be_judged_is_refused():
    for values in ([], [math.nan, 1.0], [[1.0]]):
        with pytest.raises(ValueError, match="value"):
            claims.above(values)
    with pytest.raises(ValueError, match="must ascend"):
        claims.convex(X[::-1], curves(np.exp))
    with pytest.raises(ValueError, match="3 of them or more"):
        claims.convex(X[:2], curves(np.exp)[..., :2])
    with pytest.raises(ValueError, match="must ascend"):
        claims.crossing([1, 2], np.ones((3, 3)))


def test_a_claim_is_plain_json():
    finding = claims.crossing([0.1, 0.2], np.ones((2, 2)))
    row = Claim(
        "Belloni et al.", 5, "CNN", "some length matches cosine", "share", finding
    ).as_json()
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert (row["value"], row["interval"], row["runs"]) == (None, [None, None], 2)
    assert row["verdict"] == "not held"
