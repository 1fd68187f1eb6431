"""One update: AdamW as its authors wrote it, on replicates that know nothing of each other."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wsdjax import models
from wsdjax.config import CNN, AdamW
from wsdjax.training import optim
from wsdjax.training import state as states
from wsdjax.training.step import make_evaluate, make_step

pytestmark = pytest.mark.usefixtures("full_precision")
MODEL = models.build(CNN(widths=(4, 4)))
STEP = make_step(MODEL)
LOSS_AND_GRADIENT = jax.jit(jax.value_and_grad(MODEL.loss))
CONFIG = AdamW(peak_value=1e-2, weight_decay=0.3, clip_norm=0.5, b1=0.8, b2=0.95)


def created(*seeds, dtype=jnp.float32):
    """The initial state of these seeds, whose numbers are of `dtype`."""
    state = jax.jit(lambda: states.create(MODEL, seeds))()
    return jax.tree.map(as_float64, state) if dtype == jnp.float64 else state


def batches(count, replicates, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(9), count)
    for key in keys:
        inputs = jax.random.normal(key, (replicates, 8, 32, 32, 3), dtype)
        yield {"inputs": inputs, "targets": jax.random.randint(key, (replicates, 8), 0, 10)}


def hypers(rates, replicates):
    for rate in rates:
        yield jax.tree.map(
            lambda v: jnp.full(replicates, v, jnp.float32), optim.hyper(CONFIG, rate)
        )


def test_adamw_is_optaxs():
    """Over ten updates, with clipping, and the decay on kernels only."""
    params = states.replicate(created(0), 0).params
    rates = np.linspace(1e-2, 1e-3, 10)
    reference = optax.chain(
        optax.clip_by_global_norm(CONFIG.clip_norm),
        optax.adamw(
            lambda count: jnp.asarray(rates)[count],
            CONFIG.b1,
            CONFIG.b2,
            CONFIG.eps,
            weight_decay=CONFIG.weight_decay,
            mask=lambda tree: {n: {k: k == "kernel" for k in layer} for n, layer in tree.items()},
        ),
    )
    ours, theirs = (params, optim.init(params)), (params, reference.init(params))
    for rate, batch in zip(rates, batches(10, 1), strict=True):
        batch = jax.tree.map(lambda leaf: leaf[0], batch)
        updates, state = optim.adamw(optim.hyper(CONFIG, rate)).update(
            LOSS_AND_GRADIENT(ours[0], batch)[1], ours[1], ours[0]
        )
        ours = optax.apply_updates(ours[0], updates), state
        gradient = LOSS_AND_GRADIENT(theirs[0], batch)[1]
        updates, state = reference.update(gradient, theirs[1], theirs[0])
        theirs = optax.apply_updates(theirs[0], updates), state
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), ours[0], theirs[0])


def test_the_first_update_by_hand():
    """theta - eta (g / (|g| + eps) + lambda theta) on kernels; no decay on biases."""
    config = dataclasses.replace(CONFIG, clip_norm=float("inf"))
    params = states.replicate(created(0), 0).params
    batch = jax.tree.map(lambda leaf: leaf[0], next(batches(1, 1)))
    gradients = LOSS_AND_GRADIENT(params, batch)[1]
    updates, _ = optim.adamw(optim.hyper(config, 0.01)).update(
        gradients, optim.init(params), params
    )
    for layer, gradient in gradients.items():
        for name, g in gradient.items():
            decay = 0.3 * params[layer][name] if name == "kernel" else 0.0
            expected = -0.01 * (g / (np.abs(g) + 1e-8) + decay)
            np.testing.assert_allclose(updates[layer][name], expected, rtol=1e-4, atol=1e-7)


def test_replicates_are_as_alone_in_float64():
    """Three seeds in one program equal each seed alone, over fifty updates."""
    with jax.enable_x64(True):
        state = created(0, 1, 2, dtype=jnp.float64)
        alone = [created(i, dtype=jnp.float64) for i in range(3)]
        rates = np.linspace(1e-2, 0, 50)
        data = [jax.tree.map(as_float64, b) for b in batches(50, 3)]
        for batch, hyper in zip(data, hypers(rates, 3), strict=True):
            state, _ = STEP(state, batch, hyper)
        for i in range(3):
            for batch, hyper in zip(data, hypers(rates, 1), strict=True):
                mine = jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], batch)
                alone[i], _ = STEP(alone[i], mine, hyper)
            together = states.section(state, i, i + 1).params
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9),
                together,
                alone[i].params,
            )


def as_float64(leaf):
    return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def test_metrics_belong_to_before_the_update():
    """Loss, gradient and parameter norm of theta_n-1 on batch n; the update's own norm."""
    state = created(0, 1)
    before = jax.tree.map(np.asarray, state.params)
    batch, hyper = next(batches(1, 2)), next(hypers([0.01], 2))
    after, metrics = STEP(state, batch, hyper)
    assert int(after.step) == 1
    for i in range(2):
        params, mine = jax.tree.map(lambda leaf, i=i: leaf[i], (before, batch))
        loss, gradient = LOSS_AND_GRADIENT(params, mine)
        moved = jax.tree.map(lambda a, b, i=i: a[i] - b, after.params, params)
        for name, expected in (
            ("loss", loss),
            ("grad_norm", optax.tree.norm(gradient)),
            ("param_norm", optax.tree.norm(params)),
            ("update_norm", optax.tree.norm(moved)),
        ):
            np.testing.assert_allclose(metrics[name][i], expected, rtol=2e-4)


def test_other_hyperparameters_compile_nothing_new():
    traced = []

    def metrics(params, batch):
        traced.append(1)
        return MODEL.metrics(params, batch)

    step, state = make_step(dataclasses.replace(MODEL, metrics=metrics)), created(0)
    batch = next(batches(1, 1))
    for rate in (0.1, 0.01):
        state, _ = step(state, batch, next(hypers([rate], 1)))
    other = optim.hyper(AdamW(b1=0.1, weight_decay=0.0), 0.1)
    step(state, batch, jax.tree.map(lambda v: jnp.full(1, v), other))
    assert len(traced) == 1


def test_an_evaluation_weighs_a_batch_by_its_examples():
    """A ragged last batch changes nothing: the mean is over examples, not over batches."""
    state = created(0, 1)
    batch = jax.tree.map(lambda leaf: leaf[0], next(batches(1, 1)))
    ragged = [jax.tree.map(lambda leaf, s=s: leaf[s], batch) for s in (slice(5), slice(5, 8))]
    evaluate = make_evaluate(MODEL)
    whole, parts = evaluate(state.params, [batch]), evaluate(state.params, ragged)
    for name in ("loss", "accuracy"):
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-6)
    params = states.replicate(state, 1).params
    loss = LOSS_AND_GRADIENT(params, batch)[0]
    np.testing.assert_allclose(whole["loss"][1], loss, rtol=1e-6)
    right = jax.jit(MODEL.apply)(params, batch["inputs"]).argmax(-1) == batch["targets"]
    assert whole["accuracy"][1] == pytest.approx(float(right.mean()))


def test_micro_batches_are_the_large_batch():
    """State and metrics after three updates of two replicates, in float64."""
    with jax.enable_x64(True):
        data = [jax.tree.map(as_float64, b) for b in batches(3, 2)]
        found = []
        for accumulate in (1, 4):
            state = created(0, 1, dtype=jnp.float64)
            step = make_step(MODEL, accumulate=accumulate)
            for batch, hyper in zip(data, hypers([1e-2, 1e-2, 1e-3], 2), strict=True):
                state, metrics = step(state, batch, hyper)
            found.append((state, metrics))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-12), *found)


def test_micro_batches_bound_what_is_in_memory_at_a_time():
    """No array of the program has the activations of the whole batch, which is so large that
    the 32 MiB of its own that a GPU's library may ask for do not count."""
    state = jax.eval_shape(lambda: states.create(MODEL, [0]))
    batch = {
        "inputs": jax.ShapeDtypeStruct((1, 4_096, 32, 32, 3), jnp.float32),
        "targets": jax.ShapeDtypeStruct((1, 4_096), jnp.int32),
    }
    hyper = next(hypers([1e-3], 1))
    temporary = [
        make_step(MODEL, accumulate=n).lower(state, batch, hyper).compile().memory_analysis()
        for n in (1, 8)
    ]
    assert temporary[1].temp_size_in_bytes < temporary[0].temp_size_in_bytes / 4


def test_the_state_is_donated():
    """Its memory becomes the new state's."""
    state = created(0)
    new, _ = STEP(state, next(batches(1, 1)), next(hypers([1e-3], 1)))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(new))
