"""A recurrent language model, of LSTM (Hochreiter and Schmidhuber) or GRU (Cho et al.) cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx

from wsdjax.models.cnn import uniform
from wsdjax.models.language import Compute, Language, Linear

if TYPE_CHECKING:
    from wsdjax import config


class RNN(Language):
    """Layers of cells between an embedding and a head."""

    def __init__(self, config: config.RNN, rngs: nnx.Rngs, dtype: Compute):
        layer = {"lstm": LSTM, "gru": GRU}[config.cell]
        super().__init__(config, rngs, dtype, lambda rngs: layer(config.width, rngs, dtype))

    def features(self, tokens_BxL: jax.Array) -> jax.Array:
        # Cells carry at least float32; so does what they hand to the next layer.
        x_BxLxD = self.embedded(tokens_BxL)
        x_BxLxD = x_BxLxD.astype(jnp.promote_types(x_BxLxD.dtype, jnp.float32))
        return self.through_layers(x_BxLxD.swapaxes(0, 1)).swapaxes(0, 1)


class Cells(nnx.Module):
    """Cells of one layer, with the parameters, the order of gates and the initialisation of
    PyTorch: uniform within 1/sqrt(width)."""

    gates: int
    states: int

    def __init__(self, width: int, rngs: nnx.Rngs, dtype: Compute):
        self.input, self.recurrent = (
            Linear(width, self.gates * width, dtype=dtype, rngs=rngs, **uniform(width))
            for _ in range(2)
        )

    def __call__(self, x_LxBxD: jax.Array) -> jax.Array:
        zeros = jnp.zeros_like(x_LxBxD[0])
        from_input = self.input(x_LxBxD).astype(zeros.dtype)
        return jax.lax.scan(self.step, (zeros,) * self.states, from_input)[1]

    def step(self, carry, from_input):
        """From a tuple of `states` arrays to the next, and h."""
        raise NotImplementedError


class LSTM(Cells):
    gates, states = 4, 2

    def step(self, carry, from_input):
        h, c = carry
        i, f, g, o = jnp.split(from_input + self.recurrent(h), 4, axis=-1)
        c = nnx.sigmoid(f) * c + nnx.sigmoid(i) * nnx.tanh(g)
        h = nnx.sigmoid(o) * nnx.tanh(c)
        return (h, c), h


class GRU(Cells):
    gates, states = 3, 1

    def step(self, carry, from_input):
        (h,) = carry
        r_in, z_in, n_in = jnp.split(from_input, 3, axis=-1)
        r_re, z_re, n_re = jnp.split(self.recurrent(h), 3, axis=-1)
        z = nnx.sigmoid(z_in + z_re)
        n = nnx.tanh(n_in + nnx.sigmoid(r_in + r_re) * n_re)
        h = (1 - z) * n + z * h
        return (h,), h
