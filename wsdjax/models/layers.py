"""A tree for each layer, in place of stacked ones: what probes say of leaves is said of layers.

Language models keep the parameters of all layers in one tree under "layers", leaves [layers, ...],
for one `scan` over them. A probe knows no model, and would take such a leaf for one.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from wsdjax.models import Model, Params

STACK = "layers"


def unstacked(params: Params) -> Params:
    """The parameters with ``layers/00``, ``layers/01``, ... in place of stacked ones, as well as
    what is like them: an eigenvector, a second moment. Of a model without a stack, as they are."""
    if STACK not in params:
        return params
    stack = params[STACK]
    count = len(jax.tree.leaves(stack)[0])
    layers = {f"{i:02d}": jax.tree.map(lambda leaf, i=i: leaf[i], stack) for i in range(count)}
    return {**params, STACK: layers}


def stacked(params: Params) -> Params:
    """The inverse of `unstacked`."""
    if STACK not in params:
        return params
    layers = [params[STACK][name] for name in sorted(params[STACK], key=int)]
    return {**params, STACK: jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)}


def by_layer(model: Model) -> Model:
    """The same `Model` of `unstacked` parameters."""
    return dataclasses.replace(
        model,
        init=lambda key: unstacked(model.init(key)),
        apply=lambda params, inputs: model.apply(stacked(params), inputs),
        metrics=lambda params, batch: model.metrics(stacked(params), batch),
    )
