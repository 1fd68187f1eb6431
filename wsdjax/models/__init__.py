"""Models as three pure functions: `build` gives `init`, `apply` and `loss` for a config.

flax stays behind `build`: parameters are plain nested dicts of arrays. Those of language models are
stacked over layers; `by_layer` gives the same model with a tree for each layer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from wsdjax.models.layers import STACK, by_layer, stacked, unstacked
from wsdjax.models.spread import Spread, gathered, of_one_layer

if TYPE_CHECKING:
    from wsdjax.config import ModelConfig

__all__ = [
    "Batch",
    "Model",
    "Params",
    "Spread",
    "build",
    "by_layer",
    "for_probes",
    "stacked",
    "unstacked",
]

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


def for_probes(config: ModelConfig, spread: Spread | None = None) -> Model:
    """The model of a config as probes of much memory take it, with derivatives of every order, in
    the dtype of its parameters. A transformer's layers are computed again in the backward pass and
    attend by blocks, since a Hessian-vector product would else keep the scores of them all.

    Its parameters are stacked: `by_layer` costs a copy of them, another of a product's vector, and
    as much time again to compile.
    """
    again: Any = config
    if hasattr(config, "remat"):
        again = dataclasses.replace(again, remat="layers", attention="blocks")
    return build(again, spread=spread)


def build(config: ModelConfig, training: bool = False, spread: Spread | None = None) -> Model:
    """The model of a config, such as ``get_config().model``; needs no data.

    By default it computes in the dtype of its parameters and has derivatives of every order,
    as probes need. With `training` it is as fast as its config allows: in the config's compute
    dtype, with fused attention and losses that have a first derivative in reverse mode alone.
    Parameters are the same.

    With `spread` the loss is for parameters that are divided among devices, and divides each batch
    among them. It is equal to the other, and has its derivatives, up to rounding.
    """
    # A device that is described and not here has to be told; a model need not ask for others.
    described = spread is not None and spread.device not in jax.devices()
    told = {"device": spread.device} if spread and described else {}
    module, metrics = config.module(training, **told)
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

    def of_examples(params, batch):
        return metrics(bind(params), batch)

    if spread is None or spread.mesh.size == 1:
        return Model(config, init, apply, of_examples)

    shapes = nnx.to_pure_dict(abstract)
    specs = spread.specs(shapes)
    stack = specs.get(STACK)

    def of_divided(params, batch):
        outside = {name: part for name, part in params.items() if name != STACK}
        params = {**params, **gathered(outside, {name: specs[name] for name in outside})}
        bound = bind(params)
        if stack:
            bound.gather = partial(of_one_layer, stack)
        return metrics(bound, batch)

    return Model(config, init, apply, spread.mean(of_divided, specs))
