"""The cross-entropy that computes logits once against the plain one, in whole models too."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import jaxprs_in_params

from wsdjax import families, models
from wsdjax.config import RNN
from wsdjax.models.cross_entropy import cross_entropy

TOKENS, WIDTH, CLASSES = 13, 5, 11


def plain(features, kernel, targets):
    logits = features @ kernel
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return losses.mean(), (logits.argmax(-1) == targets).mean(dtype=logits.dtype)


@pytest.mark.usefixtures("full_precision")
@pytest.mark.parametrize("chunk", [1, 5, 12, 100])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-12)])
def test_loss_accuracy_and_gradients_are_the_plain_ones(chunk, dtype, tolerance):
    """For chunks that divide 13 tokens and do not; with and without differentiation."""
    with jax.enable_x64(dtype == "float64"):
        keys = jax.random.split(jax.random.key(0), 3)
        features = jax.random.normal(keys[0], (TOKENS, WIDTH), dtype)
        kernel = jax.random.normal(keys[1], (WIDTH, CLASSES), dtype)
        targets = jax.random.randint(keys[2], (TOKENS,), 0, CLASSES)
        targets = targets.at[:6].set((features @ kernel).argmax(-1)[:6])

        def chunked(features, kernel, targets):
            return cross_entropy(features, kernel, targets, chunk, dtype)

        def all_of(function):
            # The slope of the loss is not 1, as that of micro-batches and of a mesh's parts.
            def scaled(features, kernel):
                loss, accuracy = function(features, kernel, targets)
                return 0.3 * loss, accuracy

            derived = jax.value_and_grad(scaled, (0, 1), has_aux=True)
            return jax.jit(derived)(features, kernel), function(features, kernel, targets)

        found, expected = all_of(chunked), all_of(plain)
        assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype(dtype)}
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance),
            found,
            expected,
        )


def test_of_equal_logits_the_first_is_the_prediction():
    features, kernel = jnp.ones((3, 1)), jnp.array([[0.0, 1.0, 1.0, -1.0]])
    for targets, right in (([1, 1, 1], 1), ([2, 2, 2], 0), ([1, 2, 0], 1 / 3)):
        _, accuracy = cross_entropy(features, kernel, jnp.array(targets), 2, "float32")
        assert accuracy == pytest.approx(right)


@pytest.mark.usefixtures("full_precision")
@pytest.mark.parametrize("chunk", [1, 5, 1_024])
@pytest.mark.parametrize(
    "config",
    [
        families.pythia("160M", vocabulary=29, width=16, layers=1, heads=2, hidden=16),
        families.llama(vocabulary=29, width=16, layers=1, heads=2, hidden=16, tied=True),
        RNN(29, 16, 1),
        RNN(29, 16, 1, "gru", tied=True),
    ],
    ids=["neox", "llama, tied", "lstm", "gru, tied"],
)
def test_training_has_the_gradients_of_the_plain_model(config, chunk):
    """Of two replicates at once, as a step has them."""
    config = dataclasses.replace(config, loss_chunk=chunk)
    tokens = jax.random.randint(jax.random.key(1), (2, 3, 8), 0, 29)
    batch = {"inputs": tokens[..., :-1], "targets": tokens[..., 1:]}
    params = jax.vmap(models.build(config).init)(jax.random.split(jax.random.key(0), 2))
    params = jax.tree.map(lambda leaf: 10 * leaf, params)

    def of(training):
        model = models.build(config, training=training)
        derived = jax.jit(jax.vmap(jax.value_and_grad(model.loss)))
        return derived(params, batch), jax.jit(jax.vmap(model.metrics))(params, batch)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6), of(True), of(False)
    )


def products_with(vocabulary, function, *arguments):
    """How many products of a program have the vocabulary along an axis."""

    def count(jaxpr):
        return sum(
            sum(map(count, jaxprs_in_params(equation.params)))
            + (
                equation.primitive.name == "dot_general"
                and any(vocabulary in v.aval.shape for v in (*equation.invars, *equation.outvars))
            )
            for equation in jaxpr.eqns
        )

    return count(jax.make_jaxpr(function)(*arguments).jaxpr)


def test_logits_are_computed_once_and_no_slopes_without_need():
    config = families.pythia("160M", vocabulary=37, width=16, layers=1, heads=2, hidden=16)
    model = models.build(dataclasses.replace(config, loss_chunk=6), training=True)
    params = jax.eval_shape(model.init, jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((3, 8), jnp.int32)
    batch = {"inputs": tokens, "targets": tokens}
    assert products_with(37, jax.value_and_grad(model.loss), params, batch) == 3
    assert products_with(37, model.metrics, params, batch) == 1


def test_in_bfloat16_the_sums_are_float32():
    """Logits are rounded and their softmax is not; a gradient over many chunks goes on growing."""
    keys = jax.random.split(jax.random.key(0), 3)
    features = 1 + jax.random.normal(keys[0], (2_048, 8))
    kernel = jax.random.normal(keys[1], (8, 33))
    targets = jax.random.randint(keys[2], (2_048,), 0, 3)
    rounded = [np.asarray(x.astype(jnp.bfloat16), np.float64) for x in (features, kernel)]
    with jax.enable_x64(True):

        def exact(features, kernel):
            products = features @ kernel
            logits = products.astype(jnp.bfloat16).astype(jnp.float64)  # rounded, in value alone
            logits = products + jax.lax.stop_gradient(logits - products)
            return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

        loss, slopes = jax.value_and_grad(exact, (0, 1))(*map(jnp.asarray, rounded))

    def chunked(features, kernel):
        return cross_entropy(features, kernel, targets, 8, jnp.bfloat16)[0]

    found, ours = jax.jit(jax.value_and_grad(chunked, (0, 1)))(features, kernel)
    np.testing.assert_allclose(found, loss, rtol=1e-4)
    for mine, theirs in zip(ours, slopes, strict=True):
        assert mine.dtype == jnp.float32
        assert np.linalg.norm(mine - theirs) < 4e-3 * np.linalg.norm(theirs)
