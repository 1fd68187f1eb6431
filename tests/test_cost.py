"""What an update costs, against closed forms and what XLA allocates."""

import jax
import jax.numpy as jnp
import pytest

from wsdjax import models
from wsdjax.config import CNN, Averages, Photos, Stdlib, Transformer
from wsdjax.families import pythia
from wsdjax.training import cost


@pytest.mark.parametrize("convolution", ["patches", "library", "by_device"])
def test_the_flops_of_a_cnn_are_those_of_its_products(convolution):
    """2 B H W (9 C) D a convolution, 2 B C K the head, three times."""
    B, size, channels, forward = 128, 32, 3, 0
    for width in (32, 128, 128, 128):
        forward += 2 * B * size**2 * 9 * channels * width
        size, channels = size // 2, width
    forward += 2 * B * channels * 10
    found = cost.of_update(CNN(convolution=convolution), cost.batch_shapes(Photos(), B))
    assert found.flops == 3 * forward
    assert found.parameters == 334_346
    assert found.state_bytes == 4 * 4 * 334_346


def test_the_flops_of_derivatives_are_the_same_in_every_form():
    """A slope of the kernel is a product with as many terms."""
    batch = cost.batch_shapes(Photos(), 4)

    def of(convolution):
        model = models.build(CNN(widths=(8, 16), convolution=convolution))
        params = jax.eval_shape(model.init, jax.random.key(0))

        def product(params, vector, batch):
            slope = jax.grad(lambda params: model.loss(params, batch))
            return jax.jvp(slope, (params,), (vector,))

        gradient = cost.flops_of(jax.grad(model.loss), params, batch)
        return gradient, cost.flops_of(product, params, params, batch)

    assert of("by_device") == of("patches") == of("library")


def transformer_flops(c: Transformer, B: int, L: int) -> int:
    """2 for each weight of a product and token, and 4 L D a token and layer for attention."""
    mlp = (3 if c.gated else 2) * c.width * c.hidden
    weights = c.layers * (4 * c.width**2 + mlp) + c.width * c.vocabulary
    return B * L * (2 * weights + 4 * c.layers * L * c.width)


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("remat", ["none", "dots", "layers"])
def test_the_flops_of_a_transformer_are_the_models_own(remat, accumulate):
    """Whatever is computed again, and in however many parts; layers are counted under scan."""
    config = Transformer(96, 32, 3, 4, hidden=64, remat=remat, loss_chunk=16)
    found = cost.of_update(config, cost.batch_shapes(Stdlib(length=16), 8), accumulate)
    assert found.flops == 3 * transformer_flops(config, 8, 16)


def test_rematerialisation_and_micro_batches_save_activations():
    batch = cost.batch_shapes(Stdlib(length=64), 8)

    def bytes_of(remat, accumulate=1):
        config = Transformer(96, 32, 6, 4, hidden=64, remat=remat)
        return cost.of_update(config, batch, accumulate).activation_bytes

    assert bytes_of("none") > bytes_of("dots") > bytes_of("layers")
    assert bytes_of("none") == pytest.approx(4 * bytes_of("none", 4), rel=0.1)


def test_the_paper_s_model():
    """162,322,944 parameters; the FLOPs of their products and of attention."""
    shapes = {"inputs": jax.ShapeDtypeStruct((256, 2_048), jnp.int32)}
    found = cost.of_update(pythia(), shapes | {"targets": shapes["inputs"]}, accumulate=16)
    assert found.parameters == 162_322_944
    assert found.flops == 3 * transformer_flops(pythia(), 256, 2_048)


def test_activations_are_about_what_xla_allocates():
    """Within a fifth, for a CNN and a transformer; averages of the weights are counted too."""
    for config, batch in (
        (CNN(widths=(16, 32)), cost.batch_shapes(Photos(), 64)),
        (Transformer(96, 64, 2, 4, hidden=128), cost.batch_shapes(Stdlib(length=64), 16)),
    ):
        model = models.build(config, training=True)
        params = jax.eval_shape(model.init, jax.random.key(0))
        compiled = jax.jit(jax.grad(model.loss)).lower(params, batch).compile()
        found = cost.of_update(config, batch)
        allocated = compiled.memory_analysis().temp_size_in_bytes
        assert found.activation_bytes == pytest.approx(allocated, rel=1 / 5)
    averaged = cost.of_update(config, batch, averaged=Averages(ema=0.9))
    assert averaged.state_bytes - found.state_bytes == pytest.approx(4 * found.parameters, abs=64)
