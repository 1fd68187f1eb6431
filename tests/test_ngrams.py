"""N-gram models: distributions, equal to Kneser-Ney's formula counted by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from wsdjax.data.ngrams import ngram_loss, ngram_probabilities

V = 7
RANDOM = np.random.default_rng(0)
# Each token leans on the one before it, so that some n-grams are frequent and many unseen.
TRAIN = np.cumsum(RANDOM.choice(4, 400, p=[0.1, 0.6, 0.2, 0.1])) % V
TEST = np.cumsum(RANDOM.choice(5, 60)) % V


def kneser_ney(order):
    """p(w | h) as the formula says it, with dictionaries."""
    counts = {order: Counter(tuple(TRAIN[i : i + order]) for i in range(len(TRAIN) - order + 1))}
    for n in range(order - 1, 0, -1):
        counts[n] = Counter(gram[1:] for gram in counts[n + 1])

    def p(gram):
        if not gram:
            return 1 / V
        count, shorter = counts[len(gram)], p(gram[1:])
        of_context = {g: c for g, c in count.items() if g[:-1] == gram[:-1]}
        if not of_context:
            return shorter
        once, twice = (sum(c == k for c in count.values()) for k in (1, 2))
        discount = once / (once + 2 * twice) if once else 0.5
        own = max(count[gram] - discount, 0)
        return (own + discount * len(of_context) * shorter) / sum(of_context.values())

    return p


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_the_loss_is_that_of_the_formula(order):
    p = kneser_ney(order)
    grams = [tuple(TEST[i : i + order]) for i in range(len(TEST) - order + 1)]
    expected = -np.mean([np.log(p(gram)) for gram in grams])
    assert ngram_loss(TRAIN, TEST, order, V) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_the_probabilities_after_any_context_add_up_to_one(order):
    """Seen or unseen, and no token is impossible."""
    contexts = RANDOM.integers(0, V, (30, order - 1))
    grams = np.concatenate(
        [np.repeat(contexts, V, axis=0), np.tile(np.arange(V), 30)[:, None]], axis=1
    )
    p = ngram_probabilities(TRAIN, grams, V).reshape(30, V)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-12)
    assert (p > 0).all()


def test_a_source_of_bigrams_is_learnt_to_its_entropy():
    """A Markov chain's bigram loss comes to its entropy rate; a longer context adds nothing."""
    step = RANDOM.choice(2, 200_000, p=[0.25, 0.75])
    chain = np.cumsum(1 + step) % V
    entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    for order in (2, 3):
        loss = ngram_loss(chain[:150_000], chain[150_000:], order, V)
        assert loss == pytest.approx(entropy, abs=5e-3)
    assert ngram_loss(chain[:150_000], chain[150_000:], 1, V) == pytest.approx(np.log(V), abs=1e-3)


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(ValueError, match="n-grams of 50304 tokens do not fit 63 bits"):
        ngram_loss(TRAIN, TEST, 5, 50_304)
    for train, test in ((TRAIN[:2], TEST), (TRAIN, TEST[:2])):
        with pytest.raises(ValueError, match=r"order = 3: the .* text has 2 tokens"):
            ngram_loss(train, test, 3, V)
