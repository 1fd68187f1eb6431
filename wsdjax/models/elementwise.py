"""Norms and activations for training on accelerators, where memory's speed sets theirs: they are
float32 inside, and keep for the backward pass what they are given and nothing of its size besides.
Norms have no second derivative.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


class LayerNorm(nnx.LayerNorm):
    """Of Ba et al., from the initialisation of flax's."""

    def __call__(self, x: Any, mask: Any = None) -> jax.Array:
        return _norm(self, x, True)


class RMSNorm(nnx.RMSNorm):
    """Of Zhang and Sennrich, from the initialisation of flax's."""

    def __call__(self, x: Any, mask: Any = None) -> jax.Array:
        return _norm(self, x, False)


def _norm(module: Any, x: jax.Array, centred: bool) -> jax.Array:
    scale, bias = module.scale[...], getattr(module, "bias", None)
    dtype = module.dtype or jnp.promote_types(x.dtype, scale.dtype)
    bias = None if bias is None else bias[...]
    return _normalised(x, scale, bias, module.epsilon, centred, dtype)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _normalised(x, scale, bias, eps, centred, dtype):
    return _with_residuals(x, scale, bias, eps, centred, dtype)[0]


def _with_residuals(x, scale, bias, eps, centred, dtype):
    raised = _raised(x)
    mean = raised.mean(-1, keepdims=True) if centred else jnp.zeros_like(raised[..., :1])
    apart = raised - mean
    inverse = jax.lax.rsqrt((apart**2).mean(-1, keepdims=True) + eps)
    found = apart * (inverse * _along(scale, x))
    found = found if bias is None else found + _along(bias, x)
    return found.astype(dtype), (x, mean, inverse, scale, bias)


def _slopes(eps, centred, dtype, kept, slope):
    x, mean, inverse, scale, bias = kept
    slope, unit = _raised(slope), (_raised(x) - mean) * inverse
    scaled = slope * _along(scale, x)
    of_x = scaled - unit * (scaled * unit).mean(-1, keepdims=True)
    if centred:
        of_x -= scaled.mean(-1, keepdims=True)
    tokens = tuple(range(x.ndim - 1))
    of_scale = (slope * unit).sum(tokens).astype(scale.dtype)
    of_bias = None if bias is None else slope.sum(tokens).astype(bias.dtype)
    return (of_x * inverse).astype(x.dtype), of_scale, of_bias


_normalised.defvjp(_with_residuals, _slopes)


@jax.custom_vjp
def gelu(product: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Exact GELU (Hendrycks and Gimpel) of ``product + bias``, by erf, whose absolute error is
    float32's."""
    raised = _biased(product, bias)
    # Apart from the product that takes it, each of whose tiles would compute it again.
    return jax.lax.optimization_barrier((raised * _normal(raised)).astype(product.dtype))


def _gelu_slopes(kept, slope):
    product, bias = kept
    raised = _biased(product, bias)
    density = jnp.exp(-(raised**2) / 2) / math.sqrt(2 * math.pi)
    along = _raised(slope) * (_normal(raised) + raised * density)
    # Else float32 is written for the sum over tokens.
    along = jax.lax.optimization_barrier(along.astype(product.dtype))
    if bias is None:
        return along, None
    return along, _raised(along).sum(tuple(range(along.ndim - 1))).astype(bias.dtype)


gelu.defvjp(lambda product, bias: (gelu(product, bias), (product, bias)), _gelu_slopes)


def _biased(product, bias):
    return _raised(product) if bias is None else _raised(product) + _along(bias, product)


def _normal(x):
    """The cumulative distribution of N(0, 1)."""
    return (1 + jax.lax.erf(x / math.sqrt(2))) / 2


def plainly_gated(gate: jax.Array, up: jax.Array) -> jax.Array:
    """silu(gate) up, with derivatives of every order."""
    return jax.nn.silu(gate) * up


@jax.checkpoint
def gated(gate: jax.Array, up: jax.Array) -> jax.Array:
    return plainly_gated(_raised(gate), _raised(up)).astype(up.dtype)


def _raised(x):
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _along(of_width, x):
    return of_width.reshape((1,) * (x.ndim - 1) + (-1,))
