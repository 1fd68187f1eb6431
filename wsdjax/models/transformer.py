"""One transformer for two families: GPT-NeoX (Pythia) and LLaMA differ in its options."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx

from wsdjax.models import elementwise
from wsdjax.models.attention import Attention
from wsdjax.models.language import NORMAL, Compute, Language, Linear, platform

if TYPE_CHECKING:
    from wsdjax import config


class Transformer(Language):
    """Pre-norm layers between an embedding and a head."""

    def __init__(
        self,
        config: config.Transformer,
        rngs: nnx.Rngs,
        dtype: Compute,
        attention: Attention,
        device: jax.Device | None = None,
        lean: bool = False,
    ):
        def layer(rngs):
            return Layer(config, rngs, dtype, attention, lean)

        super().__init__(config, rngs, dtype, layer)
        self.final_norm = _norm(config, rngs, dtype, lean)
        self.remat = config.remat
        self.platform = platform(device)
        self.kernels_in = dtype  # each is used once, so that no sum is in it

    def features(self, tokens_BxL: jax.Array) -> jax.Array:
        # On CPUs XLA's loops cost a tenth of a step, on GPUs they copy what all layers keep; but
        # what is to be computed again is kept apart from its first computation by the loop alone.
        unroll = self.platform in ("cpu", "gpu", "cuda") and self.remat == "none"
        x_BxLxD = self.embedded(tokens_BxL)
        return self.final_norm(self.through_layers(x_BxLxD, _WRAPPED.get(self.remat), unroll))


class Layer(nnx.Module):
    """Attention and MLP, each on a normalised input and added to the residual stream."""

    def __init__(
        self,
        config: config.Transformer,
        rngs: nnx.Rngs,
        dtype: Compute,
        attention: Attention,
        lean: bool,
    ):
        self.parallel = config.parallel_residual
        self.attention_norm = _norm(config, rngs, dtype, lean)
        self.attention = SelfAttention(config, rngs, dtype, attention)
        self.mlp_norm = _norm(config, rngs, dtype, lean)
        self.mlp = MLP(config, rngs, dtype, lean)

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        attended = x_BxLxD + self.attention(self.attention_norm(x_BxLxD))
        read = x_BxLxD if self.parallel else attended
        return attended + self.mlp(self.mlp_norm(read))


class SelfAttention(nnx.Module):
    """Causal attention with rotary positions, and with grouped queries if kv_heads < heads."""

    def __init__(
        self, config: config.Transformer, rngs: nnx.Rngs, dtype: Compute, attention: Attention
    ):
        self.attend = attention
        self.size = config.width // config.heads
        self.rotated = int(self.size * config.rotary_fraction)
        self.theta = config.rotary_theta
        grouped = (config.kv_heads or config.heads) * self.size
        self.query = _linear(config, config.width, config.width, rngs, dtype)
        self.key = _linear(config, config.width, grouped, rngs, dtype)
        self.value = _linear(config, config.width, grouped, rngs, dtype)
        self.out = _linear(config, config.width, config.width, rngs, dtype, output=True)

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        B, L, D = x_BxLxD.shape
        q, k, v = (
            project(x_BxLxD).reshape(B, L, -1, self.size)
            for project in (self.query, self.key, self.value)
        )
        q, k = (rotate(each, self.rotated, self.theta) for each in (q, k))
        return self.out(self.attend(q, k, v).reshape(B, L, D))


class MLP(nnx.Module):
    """down(gelu(up x)), or down(silu(gate x) up x): SwiGLU (Shazeer)."""

    def __init__(self, config: config.Transformer, rngs: nnx.Rngs, dtype: Compute, lean: bool):
        self.gated = config.gated
        self.lean = lean
        if config.gated:
            self.gate = _linear(config, config.width, config.hidden, rngs, dtype)
        self.up = _linear(config, config.width, config.hidden, rngs, dtype)
        self.down = _linear(config, config.hidden, config.width, rngs, dtype, output=True)

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.gated:
            gated = elementwise.gated if self.lean else elementwise.plainly_gated
            return self.down(gated(self.gate(x), self.up(x)))
        if self.lean:
            bias = None if self.up.bias is None else self.up.bias[...]
            return self.down(elementwise.gelu(self.up.product(x), bias))
        return self.down(nnx.gelu(self.up(x), approximate=False))


def rotate(x_BxLxHxK: jax.Array, rotated: int, theta: float) -> jax.Array:
    """Rotary positions (Su et al.) on the first `rotated` coordinates of each head.

    The pairs (i, i + rotated / 2) turn by the angle position / theta^(2 i / rotated): halves,
    as in Hugging Face's `rotate_half`, and not neighbours as in the paper.
    """
    dtype = jnp.promote_types(x_BxLxHxK.dtype, jnp.float32)
    frequencies = theta ** -(jnp.arange(0, rotated, 2, dtype) / rotated)
    angles = jnp.outer(jnp.arange(x_BxLxHxK.shape[1], dtype=dtype), frequencies)
    cos, sin = (f(angles)[None, :, None] for f in (jnp.cos, jnp.sin))
    first, second, rest = jnp.split(x_BxLxHxK, (rotated // 2, rotated), axis=-1)
    turned = (first * cos - second * sin, second * cos + first * sin, rest)
    return jnp.concatenate(turned, axis=-1).astype(x_BxLxHxK.dtype)


def _norm(config: config.Transformer, rngs: nnx.Rngs, dtype: Compute, lean: bool) -> nnx.Module:
    kinds = elementwise if lean else nnx
    if config.norm == "rms":
        return kinds.RMSNorm(config.width, epsilon=config.norm_eps, dtype=dtype, rngs=rngs)
    return kinds.LayerNorm(
        config.width,
        epsilon=config.norm_eps,
        use_bias=config.biases,
        use_fast_variance=False,  # E[x^2] - E[x]^2 cancels
        dtype=dtype,
        rngs=rngs,
    )


def _linear(
    config: config.Transformer,
    inputs: int,
    outputs: int,
    rngs: nnx.Rngs,
    dtype: Compute,
    output: bool = False,
) -> Linear:
    """Output projections start smaller, so that the residual stream's variance does not grow
    with its 2 x layers summands (Radford et al.)."""
    small = nnx.initializers.normal(0.02 / math.sqrt(2 * config.layers))
    return Linear(
        inputs,
        outputs,
        use_bias=config.biases,
        kernel_init=small if output else NORMAL,
        dtype=dtype,
        rngs=rngs,
    )


_recomputed = partial(jax.checkpoint, prevent_cse=False)
# Not those with a batch axis: attention's scores are what must not be kept.
_DOTS = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
_WRAPPED: dict[str, Callable] = {
    "dots": partial(_recomputed, policy=_DOTS),
    "layers": _recomputed,
}
"""A layer of which as much is computed again as a config's `remat` says."""
