"""No draw goes by a flag of the process: with JAX's 64 bits enabled all is the same to the bit."""

import jax
import numpy as np
import pytest
from helpers import same
from losses import mlp, mlp_loss

from wsdjax import data, models, probes
from wsdjax.config import CNN, RNN, AdamW, Averages, Bigram, Photos, Transformer
from wsdjax.data import synthetic
from wsdjax.probes import vectors
from wsdjax.training import averages, optim, state, step

MODELS = {
    "cnn": CNN(widths=(4, 8)),
    "transformer": Transformer(61, 32, 2, 4),
    "rnn": RNN(61, 16),
}


@pytest.mark.parametrize(
    "config",
    [
        Photos(size=300, eval_size=20),
        Photos(size=300, eval_size=20, augment=True),
        Bigram(size=300, eval_size=20, vocabulary=32, length=16),
    ],
    ids=["photos", "augmented", "bigram"],
)
def test_batches_are_the_same(config):
    def found():
        loaded = data.load(config)
        streams = [
            data.Stream(loaded.train, 16, seed, augment=config.augment) for seed in (3, [0, 2**31])
        ]
        batches = [stream[t] for stream in streams for t in (0, 1, 40)]
        return batches, data.in_order(loaded.test, 16)

    narrow = found()
    with jax.enable_x64(True):
        assert same(found(), narrow)


@pytest.mark.parametrize("kind", ["normal", "rademacher"])
def test_random_vectors_are_the_same(kind):
    """Which a density, a trace and a start are made of."""
    tree = {"w": np.zeros((5, 7), np.float32), "b": np.zeros(7, np.float32)}

    def found():
        return vectors.random_like(jax.random.key(3), tree, kind)

    narrow = found()
    with jax.enable_x64(True):
        assert same(found(), narrow)


def test_a_language_is_the_same():
    config = Bigram(vocabulary=64, language=5)
    narrow = synthetic.make_language(config)
    with jax.enable_x64(True):
        assert same(synthetic.make_language(config), narrow)


@pytest.mark.parametrize("name", MODELS)
def test_the_initial_state_is_the_same(name):
    averaged = Averages(ema=0.9, window=2, window_every=1)

    def found():
        return state.create(models.build(MODELS[name]), [0, 2**32 - 1], averaged)

    narrow = found()
    assert narrow.step.dtype == np.int32
    with jax.enable_x64(True):
        assert same(found(), narrow)


def test_a_step_and_its_averages_have_the_same_types():
    """And, but for what the compiler does with sums, values."""
    averaged = Averages(ema=0.999, window=2, window_every=1)
    model = models.build(MODELS["cnn"])
    batch = data.Stream(data.load(Photos(size=300)).train, 16, [0, 3])[0]
    hyper = jax.tree.map(lambda x: np.repeat(x, 2), optim.hyper(AdamW(), 1e-3))

    def found():
        start = state.create(model, [0, 3], averaged)
        after, metrics = step.make_step(model, averaged=averaged)(start, batch, hyper)
        return jax.device_get((after, metrics, step.make_average(averaged)(after)))

    narrow = found()
    with jax.enable_x64(True):
        wide = found()
    for a, b in zip(jax.tree.leaves(wide), jax.tree.leaves(narrow), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


def test_an_average_is_the_same():
    averaged = Averages(ema=0.9999)
    params = {"w": np.linspace(-1, 1, 7, dtype=np.float32)}

    def found():
        kept = averages.init(averaged, params)
        for _ in range(3):
            kept = averages.update(averaged, kept, params, np.int32(1))
        return averages.values(averaged, kept, params)

    narrow = found()
    with jax.enable_x64(True):
        assert same(found(), narrow)


def test_what_is_said_to_be_in_float64_is():
    """Eigenvalues of float32 parameters, computed in float64 where that is asked for."""
    with jax.enable_x64(True):
        params, batches = mlp()
        exact = probes.sharpness(mlp_loss, params, batches, tol=1e-9)
        assert exact.computed_in == "float64"
        lower = jax.tree.map(lambda leaf: leaf.astype(np.float32), params)
        found = probes.sharpness(mlp_loss, lower, batches, tol=1e-6, dtype="float64")
        assert found.computed_in == "float64"
        np.testing.assert_allclose(found.eigenvalues, exact.eigenvalues, rtol=1e-5)
        narrow = probes.sharpness(mlp_loss, params, batches, tol=1e-4, dtype="float32")
        assert narrow.computed_in == "float32"
        np.testing.assert_allclose(narrow.eigenvalues, exact.eigenvalues, rtol=1e-4)
