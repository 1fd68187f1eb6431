"""The recurrent models are PyTorch's."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from jax.extend.core import jaxprs_in_params

from wsdjax import models
from wsdjax.config import RNN

CONFIG = RNN(vocabulary=29, width=16, layers=2, loss_chunk=4)
BATCH = {
    name: jax.random.randint(jax.random.key(i), (3, 7), 0, 29)
    for i, name in enumerate(("inputs", "targets"))
}


@pytest.fixture(scope="module", params=["lstm", "gru"])
def config(request):
    return dataclasses.replace(CONFIG, cell=request.param)


def torch_cells(config, params):
    kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[config.cell]
    cells = kind(config.width, config.width, config.layers, batch_first=True)
    for name, theirs in (("input", "ih"), ("recurrent", "hh")):
        for i in range(config.layers):
            ours = params["layers"][name]
            getattr(cells, f"weight_{theirs}_l{i}").data = torch.tensor(
                np.array(ours["kernel"][i].T)
            )
            getattr(cells, f"bias_{theirs}_l{i}").data = torch.tensor(np.array(ours["bias"][i]))
    return cells


@pytest.mark.parametrize("tied", [False, True])
def test_logits_loss_and_gradients_are_pytorchs(config, tied):
    config = dataclasses.replace(config, tied=tied)
    model = models.build(config)
    params = jax.tree.map(lambda leaf: 3 * leaf, jax.jit(model.init)(jax.random.key(0)))
    cells = torch_cells(config, params)
    embedding = torch.tensor(np.array(params["embed"]["embedding"]), requires_grad=True)
    head = embedding if tied else torch.tensor(np.array(params["head"]["kernel"].T))
    tokens, targets = (torch.tensor(np.array(BATCH[n])).long() for n in ("inputs", "targets"))
    logits = cells(embedding[tokens])[0] @ head.T
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss.backward()

    ours = jax.jit(model.apply)(params, BATCH["inputs"])
    np.testing.assert_allclose(ours, logits.detach(), atol=2e-6)
    value, gradient = jax.jit(jax.value_and_grad(model.loss))(params, BATCH)
    np.testing.assert_allclose(value, loss.item(), rtol=1e-6)
    np.testing.assert_allclose(gradient["embed"]["embedding"], embedding.grad, atol=1e-6)
    np.testing.assert_allclose(
        gradient["layers"]["recurrent"]["kernel"][1].T, cells.weight_hh_l1.grad, atol=1e-6
    )
    count = sum(p.numel() for p in cells.parameters()) + (1 if tied else 2) * 29 * 16
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def test_the_cells_start_as_pytorchs(config):
    """Uniform within 1/sqrt(width), biases too; embedding and head N(0, 0.02)."""
    init = models.build(dataclasses.replace(config, width=64)).init
    params = jax.jit(init)(jax.random.key(0))
    for leaf in jax.tree.leaves(params["layers"]):
        assert jnp.abs(leaf).max() <= 1 / 8
        np.testing.assert_allclose(leaf.std(), 1 / 8 / 3**0.5, rtol=0.1)
    for leaf in jax.tree.leaves((params["embed"], params["head"])):
        np.testing.assert_allclose(leaf.std(), 0.02, rtol=0.1)


def test_hessian_vector_products_of_the_chunked_loss_are_those_of_the_whole(config):
    with jax.enable_x64(True):
        model = models.build(config)
        params = jax.jit(model.init)(jax.random.key(0))
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
        vector = jax.tree.map(jnp.ones_like, params)

        def whole(p):
            logits = model.apply(p, BATCH["inputs"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, BATCH["targets"]).mean()

        def chunked(p):
            return model.loss(p, BATCH)

        products = [
            jax.jit(lambda v, f=f: jax.jvp(jax.value_and_grad(f), (params,), (v,)))(vector)
            for f in (chunked, whole)
        ]
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-13), *products
        )


def test_replicates_are_as_alone_and_no_logit_depends_on_a_later_token(config):
    model = models.build(config)
    together = jax.jit(jax.vmap(lambda i: model.init(jax.random.key(i))))(jnp.arange(2))
    logits = jax.jit(jax.vmap(model.apply, in_axes=(0, None)))(together, BATCH["inputs"])
    apply = jax.jit(model.apply)
    later = BATCH["inputs"].at[:, 4].add(1) % 29
    for i in range(2):
        alone = jax.tree.map(lambda leaf, i=i: leaf[i], together)
        np.testing.assert_allclose(logits[i], apply(alone, BATCH["inputs"]), atol=1e-6)
        changed = apply(alone, later)
        np.testing.assert_allclose(changed[:, :4], logits[i, :, :4], atol=1e-6)
        assert not np.allclose(changed[:, 4:], logits[i, :, 4:], atol=1e-6)


def test_bfloat16_is_close_to_float32(config, compiled_fully):
    config = dataclasses.replace(config, compute="bfloat16")
    exact, model = models.build(config), models.build(config, training=True)
    params = jax.jit(model.init)(jax.random.key(0))
    (loss, gradient), (expected, expected_gradient) = (
        jax.jit(jax.value_and_grad(each.loss))(params, BATCH) for each in (model, exact)
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-3)
    assert loss != expected
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype("float32")}
    apart = optax.tree.norm(optax.tree.sub(gradient, expected_gradient))
    assert apart < 0.05 * optax.tree.norm(expected_gradient)


def test_cells_carry_float32(config):
    """Whatever the products are computed in: a state is a sum over all of the past."""
    config = dataclasses.replace(config, compute="bfloat16")
    model = models.build(config, training=True)
    params = jax.eval_shape(model.init, jax.random.key(0))
    jaxpr = jax.make_jaxpr(model.apply)(params, BATCH["inputs"]).jaxpr
    (over_layers,) = (e for e in jaxpr.eqns if e.primitive.name == "scan")
    (body,) = jaxprs_in_params(over_layers.params)
    (over_time,) = (e for e in body.eqns if e.primitive.name == "scan")
    first, count = over_time.params["num_consts"], over_time.params["num_carry"]
    assert count == {"lstm": 2, "gru": 1}[config.cell]
    carried = over_time.invars[first : first + count]
    assert {variable.aval.dtype for variable in carried} == {jnp.dtype("float32")}
