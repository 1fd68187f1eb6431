"""Convolutions are the product with patches, and so are their derivatives of every order."""

import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from wsdjax.config import CNN
from wsdjax.models.convolutions import by_library, by_patches, on_cpu

X, KERNEL = (2, 6, 4, 8), (3, 3, 8, 8)


def arrays(seed, *more, dtype=np.float32):
    random = np.random.default_rng(seed)
    return tuple(jnp.asarray(random.normal(size=(*more, *s)), dtype) for s in (X, KERNEL))


def deep(convolve):
    """A loss of which every derivative has products of both kinds."""

    def loss(x, kernel):
        return jnp.sum(jnp.tanh(convolve(jnp.tanh(convolve(x, kernel)), kernel)) ** 2)

    return loss


def gradient(loss):
    return jax.grad(loss, (0, 1))


def inner(one, other):
    return sum(map(jnp.vdot, one, other))


def forward_over_reverse(loss):
    return lambda *at: jax.jvp(gradient(loss), at, arrays(1))[1]


def reverse_over_reverse(loss):
    return gradient(lambda *at: inner(gradient(loss)(*at), arrays(1)))


def reverse_over_forward(loss):
    return gradient(lambda *at: jax.jvp(loss, at, arrays(1))[1])


def third(loss):
    return lambda *at: jax.jvp(reverse_over_reverse(loss), at, arrays(2))[1]


DERIVATIVES = [
    lambda loss: loss,
    gradient,
    forward_over_reverse,
    reverse_over_reverse,
    reverse_over_forward,
    third,
]


def assert_equal(found, expected):
    def close(a, b):
        np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max())

    jax.tree.map(close, found, expected)


@pytest.mark.usefixtures("full_precision")
@pytest.mark.parametrize("derivative", DERIVATIVES)
@pytest.mark.parametrize("convolve", [by_library, on_cpu])
def test_derivatives_of_every_order_are_those_of_the_product_with_patches(convolve, derivative):
    at = arrays(0)
    found = jax.jit(derivative(deep(convolve)))(*at)
    assert_equal(found, jax.jit(derivative(deep(by_patches)))(*at))


@pytest.mark.usefixtures("full_precision")
@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0), (1, 2), (-1, None)])
def test_several_at_once_are_each_on_its_own(axes):
    several, one = arrays(3, 3), arrays(0)
    given = tuple(
        o if axis is None else jnp.moveaxis(s, 0, axis)
        for s, o, axis in zip(several, one, axes, strict=True)
    )
    found = jax.jit(jax.vmap(forward_over_reverse(deep(on_cpu)), axes))(*given)
    for i in range(3):
        own = (o if axis is None else s[i] for s, o, axis in zip(several, one, axes, strict=True))
        alone = forward_over_reverse(deep(by_patches))(*own)
        assert_equal(jax.tree.map(lambda leaf, i=i: leaf[i], found), alone)


@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_every_derivative_is_in_the_form_that_a_cpu_has_code_for(derivative):
    """In loops too, where XLA does not bring JAX's own transposes into it."""
    text = str(jax.make_jaxpr(derivative(deep(on_cpu)))(*arrays(0)))
    assert "convolve_3x3" in text
    assert "concatenate" not in text  # as of patches
    lowered = jax.jit(derivative(deep(on_cpu))).lower(*arrays(0)).as_text()
    ways = {re.search(r"dim_numbers = .*?reverse = .*?}", line) for line in lowered.splitlines()}
    assert {found[0] for found in ways if found} == {
        "dim_numbers = [b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f], window = {stride = [1, 1], "
        "pad = [[1, 1], [1, 1]], lhs_dilate = [1, 1], rhs_dilate = [1, 1], "
        "reverse = [false, false]}"
    }


def test_few_channels_and_float64_are_products_with_patches():
    with jax.enable_x64(True):
        assert "dot_general" in str(jax.make_jaxpr(on_cpu)(*arrays(0, dtype=np.float64)))
    x, kernel = arrays(0)
    assert "dot_general" in str(jax.make_jaxpr(on_cpu)(x[..., :3], kernel[:, :, :3]))
    assert "dot_general" in str(jax.make_jaxpr(on_cpu)(x.astype(jnp.bfloat16), kernel))
    assert "dot_general" not in str(jax.make_jaxpr(on_cpu)(*arrays(0, dtype=jnp.bfloat16)))


def test_other_devices_have_products_with_patches():
    """Which are the ones that were measured there."""
    for platform, form in (("cpu", on_cpu), ("gpu", by_patches), ("tpu", by_patches)):
        module, _ = CNN().module(False, SimpleNamespace(platform=platform))
        assert form in module.args


def test_what_shard_map_keeps_track_of_is_not_lost():
    """The slope of a kernel that all devices have is the sum of theirs."""
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    specs = PartitionSpec("data"), PartitionSpec()

    def loss(convolve):
        def local(x, kernel):
            return jax.lax.psum(jnp.sum(convolve(x, kernel) ** 2), "data")

        return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=PartitionSpec())

    at = arrays(0)
    assert_equal(gradient(loss(on_cpu))(*at), gradient(loss(by_library))(*at))
