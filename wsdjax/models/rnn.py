"""A recurrent language model, of LSTM (Hochreiter and Schmidhuber) or GRU (Cho et al.) cells."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from wsdjax.models.language import Language, Linear

if TYPE_CHECKING:
    from wsdjax import config


class RNN(Language):
    """Layers of cells between an embedding and a head; parameters stacked, [layers, ...]."""

    def __init__(self, config: config.RNN, rngs: nnx.Rngs, dtype: Any):
        super().__init__(config, rngs, dtype)
        layer = {"lstm": LSTM, "gru": GRU}[config.cell]
        self.layers = nnx.vmap(lambda rngs: layer(config.width, rngs, dtype))(
            rngs.split(config.layers)
        )

    def features(self, tokens_BxL: jax.Array) -> jax.Array:
        graph, stacked = nnx.split(self.layers)

        def layer(x_LxBxD, params):
            return nnx.merge(graph, params)(x_LxBxD), None

        # Cells carry at least float32; so does what they hand to the next layer.
        x_BxLxD = self.embedded(tokens_BxL)
        x_BxLxD = x_BxLxD.astype(jnp.promote_types(x_BxLxD.dtype, jnp.float32))
        x_LxBxD, _ = jax.lax.scan(layer, x_BxLxD.swapaxes(0, 1), stacked)
        return x_LxBxD.swapaxes(0, 1)


class Cells(nnx.Module):
    """Cells of one layer, with the parameters, the order of gates and the initialisation of
    PyTorch: uniform within 1/sqrt(width)."""

    def __init__(self, width: int, rngs: nnx.Rngs, dtype: Any, gates: int):
        bound = 1 / math.sqrt(width)

        def uniform(key, shape, dtype, **_):
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        self.input, self.recurrent = (
            Linear(
                width, gates * width, kernel_init=uniform, bias_init=uniform, dtype=dtype, rngs=rngs
            )
            for _ in range(2)
        )


class LSTM(Cells):
    def __init__(self, width: int, rngs: nnx.Rngs, dtype: Any):
        super().__init__(width, rngs, dtype, gates=4)

    def __call__(self, x_LxBxD: jax.Array) -> jax.Array:
        def step(carry, from_input):
            h, c = carry
            i, f, g, o = jnp.split(from_input + self.recurrent(h), 4, axis=-1)
            c = nnx.sigmoid(f) * c + nnx.sigmoid(i) * nnx.tanh(g)
            h = nnx.sigmoid(o) * nnx.tanh(c)
            return (h, c), h

        zeros = jnp.zeros_like(x_LxBxD[0])
        return jax.lax.scan(step, (zeros, zeros), self.input(x_LxBxD).astype(zeros.dtype))[1]


class GRU(Cells):
    def __init__(self, width: int, rngs: nnx.Rngs, dtype: Any):
        super().__init__(width, rngs, dtype, gates=3)

    def __call__(self, x_LxBxD: jax.Array) -> jax.Array:
        def step(h, from_input):
            r_in, z_in, n_in = jnp.split(from_input, 3, axis=-1)
            r_re, z_re, n_re = jnp.split(self.recurrent(h), 3, axis=-1)
            z = nnx.sigmoid(z_in + z_re)
            n = nnx.tanh(n_in + nnx.sigmoid(r_in + r_re) * n_re)
            h = (1 - z) * n + z * h
            return h, h

        zeros = jnp.zeros_like(x_LxBxD[0])
        return jax.lax.scan(step, zeros, self.input(x_LxBxD).astype(zeros.dtype))[1]
