"""Models as three pure functions: `build` gives `init`, `apply` and `loss` for a config.

flax stays behind `build`: parameters are plain nested dicts of arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from wsdjax import config as configs

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

    def loss(self, params: Params, batch: Batch) -> jax.Array:
        """Mean cross-entropy over the batch's examples, in nats; a float32 scalar.

        `batch` has `inputs`, as `apply` takes them, and `targets`, integer classes.
        """
        return self.metrics(params, batch)["loss"]

    def metrics(self, params: Params, batch: Batch) -> dict[str, jax.Array]:
        """`loss` and `accuracy`, each a mean over the batch's examples."""
        logits, targets = self.apply(params, batch["inputs"]), batch["targets"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        return {"loss": losses.mean(), "accuracy": (logits.argmax(-1) == targets).mean()}


def build(config: Any) -> Model:
    """The model of a config, such as ``get_config().model``; needs no data.

    Raises:
      ValueError: for a config that names no model.
    """
    match config:
        case configs.CNN():
            from wsdjax.models.cnn import CNN

            return _from_module(config, lambda rngs: CNN(config, rngs))
    raise ValueError(f"no model is built from {config!r}")


def _from_module(config: Any, module: Callable[[nnx.Rngs], nnx.Module]) -> Model:
    graph, abstract = nnx.split(nnx.eval_shape(lambda: module(nnx.Rngs(0))))

    def init(key):
        return nnx.to_pure_dict(nnx.state(module(nnx.Rngs(key))))

    def apply(params, inputs):
        state = jax.tree.map(lambda leaf: leaf, abstract)  # a copy: the next line writes to it
        nnx.replace_by_pure_dict(state, params)
        logits = nnx.merge(graph, state)(inputs)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))

    return Model(config, init, apply)
