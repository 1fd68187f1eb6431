"""Parts of all language models: an embedding, a head, and a loss whose logits never exist whole."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.typing import DTypeLike

from wsdjax.models.cross_entropy import cross_entropy
from wsdjax.models.spread import GATHERED

if TYPE_CHECKING:
    from wsdjax import config


NORMAL = nnx.initializers.normal(0.02)
"""N(0, 0.02), the initialisation of all weights but those of output projections."""


Compute = DTypeLike | None
"""The dtype of activations and of the operands of matrix products; None for the parameters' own."""


def computed_in(compute: str, training: bool) -> Compute:
    """The dtype that a `Language` is made with: None but in training."""
    return jnp.bfloat16 if training and compute == "bfloat16" else None


def platform(device: jax.Device | None) -> str:
    """Of a device that is described, or of the default one."""
    return device.platform if device else jax.default_backend()


class Linear(nnx.Linear):
    """A linear layer that adds its bias in the bias's own dtype: of bfloat16 the gradient, a sum
    over all tokens, would stop to grow at 256 of them."""

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        if self.bias is None:
            return super().__call__(inputs, out_sharding)
        product, bias = self.product(inputs, out_sharding), self.bias[...]
        return (product + bias.reshape((1,) * (product.ndim - 1) + (-1,))).astype(product.dtype)

    def product(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        """Without the bias."""
        kernel = self.kernel[...]
        dtype = self.dtype or jnp.promote_types(inputs.dtype, kernel.dtype)
        return jnp.matmul(inputs.astype(dtype), kernel.astype(dtype), out_sharding=out_sharding)


class Language(nnx.Module):
    """An embedding, layers and a head; what is done with them is a subclass's `features`.

    The layers' parameters are stacked, leaves [layers, ...].
    """

    gather: Callable[[nnx.State, Any], nnx.State] | None = None
    """Where parameters are divided among devices: makes those of a layer whole, kernels in some
    dtype (`wsdjax.models.spread`)."""
    kernels_in: Compute = None
    """The dtype in which kernels may travel; None for their own."""

    def __init__(
        self,
        config: config.Transformer | config.RNN,
        rngs: nnx.Rngs,
        dtype: Compute,
        layer: Callable[[nnx.Rngs], nnx.Module],
    ):
        sizes = config.vocabulary, config.width
        self.embed = nnx.Embed(*sizes, embedding_init=NORMAL, rngs=rngs)
        self.embed.dtype = dtype  # its own default is float32, whatever its parameters become
        self.dtype = dtype
        self.tied = config.tied
        if not config.tied:
            self.head = nnx.Linear(
                *sizes[::-1], use_bias=False, kernel_init=NORMAL, dtype=dtype, rngs=rngs
            )
        self.layers = nnx.vmap(layer)(rngs.split(config.layers))

    def embedded(self, tokens_BxL: jax.Array) -> jax.Array:
        """[B, L, D]. Cast after the look-up, so that the gradients of a token's occurrences are
        summed in the table's dtype."""
        found = jnp.take(self.embed.embedding[...], tokens_BxL, axis=0)
        return found if self.dtype is None else found.astype(self.dtype)

    def __call__(self, tokens_BxL: jax.Array) -> jax.Array:
        """Logits [B, L, V]: those at a position are of the token that comes next."""
        return self.logits(self.features(tokens_BxL))

    def features(self, tokens_BxL: jax.Array) -> jax.Array:
        """[B, L, D]; a position depends on no later token."""
        raise NotImplementedError

    def through_layers(
        self, x: jax.Array, wrap: Callable | None = None, unroll: bool = False
    ) -> jax.Array:
        """`x` through each layer in turn by one `scan`, so that depth costs no compilation, or
        `unroll`ed. `wrap` makes of a layer one of which more is computed again in the backward
        pass."""
        graph, stacked = nnx.split(self.layers)

        def layer(x, params):
            if self.gather:
                params = self.gather(params, self.kernels_in)
            return nnx.merge(graph, params)(x), None

        if self.gather and not wrap:
            # Or the gathered weights of all layers would wait for the backward pass.
            kept = jax.checkpoint_policies.save_anything_except_these_names(GATHERED)
            wrap = partial(jax.checkpoint, prevent_cse=False, policy=kept)
        unroll = unroll and not self.gather
        return jax.lax.scan(wrap(layer) if wrap else layer, x, stacked, unroll=unroll)[0]

    @property
    def head_kernel(self) -> jax.Array:
        """[D, V], in its own dtype."""
        return self.embed.embedding[...].T if self.tied else self.head.kernel[...]

    def logits(self, features: jax.Array) -> jax.Array:
        """[..., V] of features [..., D], float32."""
        logits = self.embed.attend(features) if self.tied else self.head(features)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def metrics_of(
    training: bool, chunk: int
) -> Callable[[Language, dict[str, jax.Array]], dict[str, jax.Array]]:
    """`metrics`, or in training what is equal and has a first derivative alone."""
    return partial(_metrics_in_training if training else metrics, chunk=chunk)


def _metrics_in_training(
    model: Language, batch: dict[str, jax.Array], chunk: int
) -> dict[str, jax.Array]:
    features_BxLxD, kernel_DxV = model.features(batch["inputs"]), model.head_kernel
    compute = model.dtype or jnp.promote_types(features_BxLxD.dtype, kernel_DxV.dtype)
    loss, accuracy = cross_entropy(
        features_BxLxD.reshape(-1, features_BxLxD.shape[-1]),
        kernel_DxV,
        batch["targets"].reshape(-1),
        chunk,
        compute,
    )
    return {"loss": loss, "accuracy": accuracy}


def metrics(model: Language, batch: dict[str, jax.Array], chunk: int) -> dict[str, jax.Array]:
    """`loss`, the mean cross-entropy over all tokens in nats, and `accuracy`.

    The logits of about `chunk` tokens exist at a time, and are computed again in the backward
    pass. A chunk is some positions of every example, and not some examples: these may lie on
    many devices.
    """
    tokens, targets = batch["inputs"], batch["targets"]

    @jax.checkpoint
    def at_a_position(features_BxD, targets_B):
        logits = model.logits(features_BxD)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets_B)
        return {"loss": losses.mean(), "accuracy": (logits.argmax(-1) == targets_B).mean()}

    at_every_position = jax.lax.map(
        lambda position: at_a_position(*position),
        (model.features(tokens).swapaxes(0, 1), targets.swapaxes(0, 1)),
        batch_size=max(1, chunk // len(tokens)),
    )
    return jax.tree.map(jnp.mean, at_every_position)
