"""The convolutional network of Belloni et al., 334,346 parameters at its default widths."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

if TYPE_CHECKING:
    from wsdjax import config


class CNN(nnx.Module):
    """Per width: 3x3 convolution, ReLU, 2x2 max-pooling; then mean over space, linear.

    Initialised as PyTorch's `Conv2d` and `Linear` are.
    """

    def __init__(self, config: config.CNN, rngs: nnx.Rngs):
        channels = 3
        self.depth = len(config.widths)
        for i, width in enumerate(config.widths, start=1):
            given = {"rngs": rngs, **uniform(9 * channels)}
            if config.convolution == "patches":
                given["conv_general_dilated"] = _convolve
            setattr(self, f"conv{i}", nnx.Conv(channels, width, (3, 3), **given))
            channels = width
        self.fc1 = nnx.Linear(channels, config.classes, rngs=rngs, **uniform(channels))

    def __call__(self, x_BxHxWx3: jax.Array) -> jax.Array:
        x = x_BxHxWx3
        for i in range(1, self.depth + 1):
            x = _max_pool(nnx.relu(getattr(self, f"conv{i}")(x)))
        return self.fc1(x.mean((1, 2)))


def uniform(fan_in: int) -> dict[str, Any]:
    """A layer's arguments for PyTorch's initialisation, weights and biases uniform within
    1/sqrt(fan_in): Kaiming-uniform with a = sqrt(5)."""
    bound = 1 / math.sqrt(fan_in)

    def init(key, shape, dtype, **_):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return {"kernel_init": init, "bias_init": init}


def _convolve(x_BxHxWxC, kernel_3x3xCxD, *_, precision=None, **__):
    """A 3x3 convolution of stride 1 and padding 1 as one matrix product.

    XLA's convolution on the CPU is tens of times slower inside `scan`, and several times
    slower under `vmap` over kernels; this has neither fault and is the same function.
    """
    B, H, W, C = x_BxHxWxC.shape
    padded = jnp.pad(x_BxHxWxC, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, i : i + H, j : j + W] for i in range(3) for j in range(3)]
    patches = jnp.concatenate(shifted, axis=-1).reshape(B * H * W, 9 * C)
    product = jnp.matmul(patches, kernel_3x3xCxD.reshape(9 * C, -1), precision=precision)
    return product.reshape(B, H, W, -1)


def _max_pool(x_BxHxWxC):
    """2x2 max-pooling of stride 2; as a maximum over a reshaped axis its gradient is cheap."""
    B, H, W, C = x_BxHxWxC.shape
    return x_BxHxWxC.reshape(B, H // 2, 2, W // 2, 2, C).max((2, 4))


def metrics(module: Callable, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """`loss`, the mean cross-entropy over the examples in nats, and `accuracy`."""
    logits, targets = module(batch["inputs"]), batch["targets"]
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return {"loss": losses.mean(), "accuracy": (logits.argmax(-1) == targets).mean()}
