"""The CNN is the paper's network, as PyTorch has it; models by layer."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from helpers import same

from wsdjax import models, probes
from wsdjax.config import CNN, RNN, Transformer
from wsdjax.models import cnn


def torch_cnn(params):
    """The same network, written in PyTorch, with the same weights."""
    layers, channels = [], 3
    for name in sorted(name for name in params if name.startswith("conv")):
        kernel = np.asarray(params[name]["kernel"])  # HWIO
        convolution = torch.nn.Conv2d(channels, kernel.shape[-1], 3, padding=1)
        convolution.weight.data = torch.tensor(kernel.transpose(3, 2, 0, 1).copy())
        convolution.bias.data = torch.tensor(np.asarray(params[name]["bias"]).copy())
        layers += [convolution, torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
        channels = kernel.shape[-1]
    linear = torch.nn.Linear(channels, 10)
    linear.weight.data = torch.tensor(np.asarray(params["fc1"]["kernel"]).T.copy())
    linear.bias.data = torch.tensor(np.asarray(params["fc1"]["bias"]).copy())
    return torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), linear)


@pytest.fixture(scope="module", params=[(32, 128, 128, 128), (16, 32, 32, 32), (4, 4)])
def model_and_params(request):
    model = models.build(CNN(widths=request.param))
    return model, jax.jit(model.init)(jax.random.key(1))


def test_the_papers_size_and_names():
    params = jax.eval_shape(models.build(CNN()).init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 334_346
    assert sorted(params) == ["conv1", "conv2", "conv3", "conv4", "fc1"]
    assert params["conv2"]["kernel"].shape == (3, 3, 32, 128)
    assert params["fc1"]["kernel"].shape == (128, 10)


def test_logits_loss_and_gradients_equal_pytorchs(model_and_params):
    """Logits to 1e-5, the cross-entropy and its gradients too."""
    model, params = model_and_params
    random = np.random.default_rng(0)
    images = random.normal(size=(6, 32, 32, 3)).astype(np.float32)
    targets = random.integers(0, 10, 6)
    network = torch_cnn(params)
    logits = network(torch.tensor(images.transpose(0, 3, 1, 2).copy()))
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(targets))
    loss.backward()
    batch = {"inputs": jnp.asarray(images), "targets": jnp.asarray(targets)}
    ours = jax.jit(model.apply)(params, images)
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, logits.detach(), atol=1e-5, rtol=0)
    value, gradients = jax.jit(jax.value_and_grad(model.loss))(params, batch)
    np.testing.assert_allclose(value, loss.item(), atol=1e-6)
    theirs = network[0].weight.grad.numpy().transpose(2, 3, 1, 0)
    np.testing.assert_allclose(gradients["conv1"]["kernel"], theirs, atol=1e-5)


def test_the_initialisation_is_pytorchs():
    """Uniform within 1/sqrt(fan_in), kernels and biases alike: torch's own layers agree."""
    init = jax.jit(models.build(CNN()).init)
    many = [init(jax.random.key(seed)) for seed in range(8)]
    torch.manual_seed(0)
    channels, layers = (3, 32, 128, 128, 128), {}
    for i in range(1, 5):
        layers[f"conv{i}"] = torch.nn.Conv2d(channels[i - 1], channels[i], 3)
    layers["fc1"] = torch.nn.Linear(128, 10)
    for name, theirs in layers.items():
        bound = theirs.weight[0].numel() ** -0.5
        for ours, other in (("kernel", theirs.weight), ("bias", theirs.bias)):
            values = np.concatenate([np.ravel(params[name][ours]) for params in many])
            assert np.abs(values).max() <= bound
            assert np.abs(values).max() > 0.9 * bound
            np.testing.assert_allclose(values.std(), bound / 3**0.5, rtol=0.15)
            assert other.abs().max() <= bound
            np.testing.assert_allclose(other.std().item(), bound / 3**0.5, rtol=0.5)


def test_a_vmap_over_seeds_is_each_seed_alone():
    model = models.build(CNN(widths=(4, 4)))
    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    together = jax.jit(jax.vmap(model.init))(keys)
    images = jax.random.normal(jax.random.key(5), (3, 2, 32, 32, 3))
    logits = jax.jit(jax.vmap(model.apply))(together, images)
    init, apply = jax.jit(model.init), jax.jit(model.apply)
    for i in range(3):
        alone = init(jax.random.key(i))
        jax.tree.map(lambda a, b, i=i: np.testing.assert_array_equal(a[i], b), together, alone)
        np.testing.assert_allclose(logits[i], apply(alone, images[i]), atol=1e-6)


def test_hessian_vector_products_are_differences_of_gradients():
    """Forward over reverse equals a central difference, in float64."""
    with jax.enable_x64(True):
        model = models.build(CNN(widths=(3, 3)))
        params = jax.jit(model.init)(jax.random.key(0))
        params = jax.tree.map(lambda p: p.astype(jnp.float64), params)
        images = jax.random.normal(jax.random.key(1), (4, 32, 32, 3), jnp.float64)
        batch = {"inputs": images, "targets": jnp.arange(4)}

        def loss(p):
            return model.loss(p, batch)

        vector = jax.tree.map(jnp.ones_like, params)
        gradient = jax.jit(jax.grad(loss))
        product = jax.jit(lambda v: jax.jvp(jax.grad(loss), (params,), (v,))[1])(vector)
        h = 1e-6
        plus, minus = (
            gradient(jax.tree.map(lambda p, v, s=s: p + s * h * v, params, vector)) for s in (1, -1)
        )
        jax.tree.map(
            lambda hv, a, b: np.testing.assert_allclose(
                hv, (a - b) / (2 * h), rtol=1e-5, atol=1e-7
            ),
            product,
            plus,
            minus,
        )


@pytest.mark.parametrize(
    "config",
    [
        Transformer(11, 8, 11, 2, hidden=8, rotary_fraction=1.0),
        Transformer(11, 8, 3, 2, hidden=8, rotary_fraction=1.0),
        RNN(11, 8, layers=2),
    ],
    ids=["eleven layers", "transformer", "rnn"],
)
def test_a_model_by_layer_is_the_same_model(config):
    """Logits, losses and products with the Hessian; each layer has leaves of its own. Of eleven
    layers, whose names sort as they follow each other, the product would compile for long."""
    model = models.build(config)
    apart = models.by_layer(model)
    params, params_apart = (jax.jit(each.init)(jax.random.key(1)) for each in (model, apart))
    assert list(models.unstacked(params)["layers"]) == [f"{i:02d}" for i in range(config.layers)]
    assert same(params_apart, models.unstacked(params))
    assert same(models.stacked(models.unstacked(params)), params)
    tokens = jax.random.randint(jax.random.key(0), (2, 8), 0, 11)
    batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}
    near = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    logits, logits_apart = jax.jit(model.apply), jax.jit(apart.apply)
    near(logits_apart(params_apart, tokens), logits(params, tokens))
    near(jax.jit(apart.loss)(params_apart, batch), jax.jit(model.loss)(params, batch))
    if config.layers > 10:
        return
    vector = jax.tree.map(jnp.cos, params)
    product = probes.hvp(model.loss, params, vector, [batch])
    product_apart = probes.hvp(apart.loss, params_apart, models.unstacked(vector), [batch])
    jax.tree.map(near, models.stacked(product_apart), product)


def test_a_model_without_a_stack_is_as_it_was():
    params = jax.jit(models.build(CNN(widths=(4,))).init)(jax.random.key(0))
    assert models.unstacked(params) is params
    assert models.stacked(params) is params


def one_after_another(function):
    return lambda *given: jax.lax.map(lambda own: function(*own), given)


@pytest.mark.usefixtures("full_precision")
@pytest.mark.parametrize("each", [jax.vmap, one_after_another])
def test_every_convolution_is_the_product_with_patches(each):
    """Of two seeds at once or one after the other, as a step has them; the CPU's own is of the
    second layer, whose input has 8 channels."""
    batch = {
        "inputs": jax.random.normal(jax.random.key(1), (2, 3, 8, 8, 3)),
        "targets": jnp.arange(6).reshape(2, 3),
    }

    def of(convolution):
        model = models.build(CNN(widths=(8, 4), convolution=convolution))
        params = jax.vmap(model.init)(jax.random.split(jax.random.key(0), 2))
        return jax.jit(each(jax.value_and_grad(model.loss)))(params, batch)

    for found in (of("library"), of("by_device")):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
            found,
            of("patches"),
        )


@pytest.mark.parametrize("convolution", ["patches", "library", "by_device"])
def test_bfloat16_is_of_the_convolutions_in_training_alone(convolution):
    """Within its eight bits of float32, and not float32, in which gradients are given."""
    random = np.random.default_rng(0)
    inputs = random.normal(size=(64, 16, 16, 3)).astype(np.float32)
    batch = {"inputs": inputs, "targets": np.arange(64) % 10}
    exact = models.build(CNN(widths=(8, 8), convolution=convolution), training=True)
    rough = CNN(widths=(8, 8), convolution=convolution, compute="bfloat16")
    params = exact.init(jax.random.key(0))
    probed = models.build(rough).loss(params, batch)
    assert probed == models.build(CNN(widths=(8, 8), convolution=convolution)).loss(params, batch)
    loss, slope = jax.value_and_grad(exact.loss)(params, batch)
    rough_loss, rough_slope = jax.value_and_grad(models.build(rough, training=True).loss)(
        params, batch
    )
    assert rough_loss == pytest.approx(float(loss), rel=3e-3)
    assert rough_loss != loss

    def alike(a, b):
        assert a.dtype == np.float32
        assert optax.tree.norm(a - b) < 0.2 * optax.tree.norm(b)  # other maxima here and there

    jax.tree.map(alike, rough_slope, slope)


def test_of_equal_maxima_the_first_has_the_pools_gradient():
    """Where PyTorch has it: windows of few values, and of one."""
    random = np.random.default_rng(0)
    x = random.integers(0, 3, (2, 6, 4, 3)).astype(np.float32)
    x[0, :2, :2] = 1
    slope = random.normal(size=(2, 3, 2, 3)).astype(np.float32)
    found, pull_back = jax.vjp(cnn.max_pool, x)
    theirs = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    pooled = torch.nn.functional.max_pool2d(theirs, 2)
    pooled.backward(torch.tensor(slope.transpose(0, 3, 1, 2)))
    np.testing.assert_array_equal(found, pooled.detach().numpy().transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(pull_back(slope)[0], theirs.grad.numpy().transpose(0, 2, 3, 1))
