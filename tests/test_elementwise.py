"""What training keeps less of on accelerators has the values and the gradients of what is plain."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wsdjax import families, models
from wsdjax.models import elementwise

NEOX = families.pythia("160M", vocabulary=29, width=16, layers=2, heads=2, hidden=24)
LLAMA = families.llama(vocabulary=29, width=16, layers=2, heads=2, hidden=24)


def like(shape, seed=0):
    return 2 * jax.random.normal(jax.random.key(seed), shape, jnp.float64)


def same(found, expected, tolerance=1e-11):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance),
        found,
        expected,
    )


def slopes(function, *arguments):
    """Value, and gradients of a sum with weights that are not 1."""

    def weighed(*arguments):
        value = function(*arguments)
        return (value * jnp.cos(jnp.arange(value.size)).reshape(value.shape)).sum(), value

    numbers = tuple(range(len(arguments)))
    return jax.jit(jax.value_and_grad(weighed, numbers, has_aux=True))(*arguments)


@pytest.mark.parametrize("kind", ["layer", "layer without bias", "rms"])
def test_a_norm_is_the_plain_one(kind):
    with jax.enable_x64(True):
        x, params = like((3, 4, 8)), {"scale": like((8,), 1), "bias": like((8,), 2)}
        biased = kind == "layer"
        name = "RMSNorm" if kind == "rms" else "LayerNorm"
        bias = {} if kind == "rms" else {"use_bias": biased}
        plain, lean = (
            getattr(kinds, name)(8, epsilon=1e-3, rngs=nnx.Rngs(0), **bias)
            for kinds in (nnx, elementwise)
        )
        params = params if biased else {"scale": params["scale"]}

        def of(norm):
            graph, state = nnx.split(norm)

            def apply(x, params):
                nnx.replace_by_pure_dict(state, params)
                return nnx.merge(graph, state)(x)

            return slopes(apply, x, params)

        same(of(lean), of(plain))


def test_activations_are_the_plain_ones():
    with jax.enable_x64(True):
        x, y, bias = like((3, 4, 8)), like((3, 4, 8), 1), like((8,), 2)

        def gelu(x, bias):
            return nnx.gelu(x + bias[None, None], approximate=False)

        same(slopes(elementwise.gelu, x, bias), slopes(gelu, x, bias))
        same(
            slopes(lambda x: elementwise.gelu(x, None), x),
            slopes(lambda x: gelu(x, jnp.zeros(8)), x),
        )
        same(slopes(elementwise.gated, x, y), slopes(elementwise.plainly_gated, x, y))


@pytest.mark.parametrize(
    ("config", "remat", "backend"),
    [(NEOX, "none", "gpu"), (LLAMA, "none", "tpu"), (LLAMA, "dots", "gpu")],
    ids=["neox", "llama", "llama, dots"],
)
def test_training_as_on_an_accelerator_is_the_plain_model(config, remat, backend, monkeypatch):
    """From the same initialisation, too."""
    with jax.enable_x64(True):
        tokens = jax.random.randint(jax.random.key(1), (3, 8), 0, 29)
        batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}
        plain = models.build(config)
        monkeypatch.setattr(jax, "default_backend", lambda: backend)
        lean = models.build(dataclasses.replace(config, remat=remat), training=True)
        params, begun = (model.init(jax.random.key(0)) for model in (plain, lean))
        jax.tree.map(np.testing.assert_array_equal, params, begun)
        params = jax.tree.map(lambda leaf: 10 * leaf.astype(jnp.float64), params)
        found, expected = (
            jax.jit(jax.value_and_grad(model.loss))(params, batch) for model in (lean, plain)
        )
        same(found, expected, 1e-9)


def test_a_layer_keeps_less_of_what_is_element_wise(monkeypatch):
    """Of arrays of the MLP's width what GELU takes and what it gives, and no more."""
    config = dataclasses.replace(NEOX, hidden=77, layers=1)
    tokens = jax.ShapeDtypeStruct((3, 8), jnp.int32)
    batch = {"inputs": tokens, "targets": tokens}

    def kept():
        model = models.build(config, training=True)
        params = jax.eval_shape(model.init, jax.random.key(0))
        leaves = jax.eval_shape(
            lambda p, b: jax.vjp(lambda q: model.loss(q, b), p)[1], params, batch
        )
        return sum(
            leaf.shape[-1:] == (77,) and leaf.size >= 24 * 77 for leaf in jax.tree.leaves(leaves)
        )

    everything = kept()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert kept() == 2 < everything


def test_in_bfloat16_they_are_float32_inside():
    """Against float64 of the same rounded numbers: a sum over tokens has the digits of float32,
    everything else is rounded once."""
    x, slope = (2 * jax.random.normal(jax.random.key(i), (512, 32)) + 1 for i in (0, 1))
    scale, bias = (1 + jax.random.normal(jax.random.key(i), (32,)) for i in (2, 3))
    low = jnp.bfloat16

    def slopes_of(norm, gelu, x, slope, scale, bias):
        def both(x, scale, bias):
            graph, state = nnx.split(norm)
            nnx.replace_by_pure_dict(state, {"scale": scale, "bias": bias})
            return nnx.merge(graph, state)(x), gelu(x, bias)

        return jax.vjp(both, x, scale, bias)[1]((slope, slope))

    lean = elementwise.LayerNorm(32, dtype=low, rngs=nnx.Rngs(0))
    found = slopes_of(lean, elementwise.gelu, x.astype(low), slope.astype(low), scale, bias)
    with jax.enable_x64(True):
        given = [jnp.asarray(np.asarray(v.astype(low), np.float64)) for v in (x, slope)]
        exact = slopes_of(
            nnx.LayerNorm(32, use_fast_variance=False, rngs=nnx.Rngs(0)),
            lambda x, bias: nnx.gelu(x + bias[None], approximate=False),
            *given,
            *(jnp.asarray(np.asarray(v, np.float64)) for v in (scale, bias)),
        )
    for mine, theirs, bound in zip(found, exact, (4e-3, 1e-5, 1e-3), strict=True):
        error = np.asarray(mine, np.float64) - theirs
        assert np.linalg.norm(error) < bound * np.linalg.norm(theirs)
