"""Models as three pure functions: `build` gives `init`, `apply` and `loss` for a config.

flax stays behind `build`: parameters are plain nested dicts of arrays. Those of language models are
stacked over layers; `by_layer` gives the same model with a tree for each layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from wsdjax import config as configs
from wsdjax.models.layers import by_layer, stacked, unstacked

__all__ = ["Batch", "Model", "Params", "build", "by_layer", "stacked", "unstacked"]

Params = Any
Batch = dict[str, jax.Array]


@dataclass(frozen=True, eq=False)
class Model:
    """A model as pure functions, each of them jit-, grad- and vmap-safe."""

    config: Any
    init: Callable[[jax.Array], Params]
    """``init(key) -> params``, a nested dict of float32 arrays."""
    apply: Callable[[Params, jax.Array], jax.Array]
    """``apply(params, inputs) -> logits``, float32 (float64 for parameters in float64)."""

    metrics: Callable[[Params, Batch], dict[str, jax.Array]]
    """``metrics(params, batch)``: `loss` and `accuracy`, each a mean over the batch's targets.

    `batch` has `inputs`, as `apply` takes them, and `targets`, integer classes: one for each
    example, or for each of its tokens [B, L].
    """

    def loss(self, params: Params, batch: Batch) -> jax.Array:
        """Mean cross-entropy over the batch's targets, in nats; a float32 scalar."""
        return self.metrics(params, batch)["loss"]


def build(config: Any, training: bool = False) -> Model:
    """The model of a config, such as ``get_config().model``; needs no data.

    By default it computes in the dtype of its parameters and has derivatives of every order,
    as probes need. With `training` it is as fast as its config allows: in the config's compute
    dtype, with fused attention, which has no second derivative. Parameters are the same.

    Raises:
      ValueError: for a config that names no model.
    """
    dtype = jnp.bfloat16 if training and getattr(config, "compute", "") == "bfloat16" else None
    match config:
        case configs.CNN():
            from wsdjax.models.cnn import CNN

            return _from_module(config, lambda rngs: CNN(config, rngs), _metrics_of_examples)
        case configs.Transformer():
            from wsdjax.models import attention, language
            from wsdjax.models.transformer import Transformer

            fused = training and config.attention == "fused"
            attend = attention.fused if fused else attention.plain
            return _from_module(
                config,
                lambda rngs: Transformer(config, rngs, dtype, attend),
                partial(language.metrics, chunk=config.loss_chunk),
            )
        case configs.RNN():
            from wsdjax.models import language
            from wsdjax.models.rnn import RNN

            return _from_module(
                config,
                lambda rngs: RNN(config, rngs, dtype),
                partial(language.metrics, chunk=config.loss_chunk),
            )
    raise ValueError(f"no model is built from {config!r}")


def _from_module(
    config: Any,
    module: Callable[[nnx.Rngs], nnx.Module],
    metrics: Callable[[nnx.Module, Batch], dict[str, jax.Array]],
) -> Model:
    graph, abstract = nnx.split(nnx.eval_shape(lambda: module(nnx.Rngs(0))))

    def init(key):
        return nnx.to_pure_dict(nnx.state(module(nnx.Rngs(key))))

    def bind(params):
        state = jax.tree.map(lambda leaf: leaf, abstract)  # a copy: the next line writes to it
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(graph, state)

    def apply(params, inputs):
        logits = bind(params)(inputs)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))

    return Model(config, init, apply, lambda params, batch: metrics(bind(params), batch))


def _metrics_of_examples(module: Callable, batch: Batch) -> dict[str, jax.Array]:
    logits, targets = module(batch["inputs"]), batch["targets"]
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return {"loss": losses.mean(), "accuracy": (logits.argmax(-1) == targets).mean()}
