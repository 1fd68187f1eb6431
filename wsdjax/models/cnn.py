"""The convolutional network of Belloni et al., 334,346 parameters at its default widths."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.typing import DTypeLike


class CNN(nnx.Module):
    """Per width: 3x3 convolution, ReLU, 2x2 max-pooling; then mean over space, linear.

    Initialised as PyTorch's `Conv2d` and `Linear` are. Convolutions are by ``convolve(x, kernel)``
    in the `dtype`, None for the parameters' own.
    """

    def __init__(
        self,
        widths: Sequence[int],
        classes: int,
        convolve: Callable,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
    ):
        channels, self.convolve, self.dtype = 3, convolve, dtype
        self.depth = len(widths)
        for i, width in enumerate(widths, start=1):
            layer = nnx.Conv(channels, width, (3, 3), rngs=rngs, **uniform(9 * channels))
            setattr(self, f"conv{i}", layer)
            channels = width
        self.fc1 = nnx.Linear(channels, classes, rngs=rngs, **uniform(channels))

    def __call__(self, x_BxHxWx3: jax.Array) -> jax.Array:
        x = x_BxHxWx3
        for i in range(1, self.depth + 1):
            layer = getattr(self, f"conv{i}")
            kernel, bias = layer.kernel[...], layer.bias[...].reshape(1, 1, 1, -1)
            dtype = self.dtype or kernel.dtype
            # The maximum comes first: a bias and ReLU change nothing of which it is, to the bit.
            # The bias is added in its own dtype, in which its gradient then is summed.
            pooled = max_pool(self.convolve(x.astype(dtype), kernel.astype(dtype)))
            x = nnx.relu(pooled + bias)
        return self.fc1(x.mean((1, 2)))


def uniform(fan_in: int) -> dict[str, Any]:
    """A layer's arguments for PyTorch's initialisation, weights and biases uniform within
    1/sqrt(fan_in): Kaiming-uniform with a = sqrt(5)."""
    bound = 1 / math.sqrt(fan_in)

    def init(key, shape, dtype, **_):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return {"kernel_init": init, "bias_init": init}


@jax.custom_jvp
def max_pool(x_BxHxWxC):
    """2x2 max-pooling of stride 2, whose derivative is that of the first maximum of each window,
    as PyTorch's."""
    return _windows(x_BxHxWxC).max((2, 4))


@max_pool.defjvp
def _(primals, tangents):
    (x,), (moved,) = primals, tangents
    windows, found = _windows(x), max_pool(x)
    first = jnp.full(found.shape, 3, jnp.int8)
    for place in (2, 1, 0):
        at = windows[:, :, place // 2, :, place % 2] == found
        first = jnp.where(at, jnp.int8(place), first)
    places = jnp.arange(4, dtype=jnp.int8).reshape(1, 1, 2, 1, 2, 1)
    chosen = first[:, :, None, :, None] == places
    return found, jnp.where(chosen, _windows(moved), 0).sum((2, 4))


def _windows(x_BxHxWxC):
    B, H, W, C = x_BxHxWxC.shape
    return x_BxHxWxC.reshape(B, H // 2, 2, W // 2, 2, C)


def metrics(module: Callable, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """`loss`, the mean cross-entropy over the examples in nats, and `accuracy`."""
    logits, targets = module(batch["inputs"]), batch["targets"]
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return {"loss": losses.mean(), "accuracy": (logits.argmax(-1) == targets).mean()}
