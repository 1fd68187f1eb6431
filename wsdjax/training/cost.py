"""The cost of training a model, from its trace: nothing is computed or allocated."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.extend.core import Jaxpr, JaxprEqn, Literal, jaxprs_in_params

from wsdjax import models
from wsdjax.config import Averages, DataConfig, ModelConfig
from wsdjax.config.json import key
from wsdjax.models import Batch, Params
from wsdjax.models.convolutions import convolve_p, correlate_p
from wsdjax.placement import mesh
from wsdjax.training import averages
from wsdjax.tree.branch import ResolvedBranch

Shapes = dict[str, jax.ShapeDtypeStruct]


class Cost(NamedTuple):
    """The cost of one replicate."""

    parameters: int
    flops: int
    """FLOPs of the matrix products of one update: three times those of the loss, one for the
    forward pass and two for the backward pass. What rematerialisation repeats is not in it, so
    that utilisation by it is the model's own (Chowdhery et al.)."""
    state_bytes: int
    """Parameters, gradients, both moments of Adam, averages of the weights."""
    activation_bytes: int
    """Arrays that the forward pass leaves for the backward pass of one micro-batch, with
    attention and convolutions as they are on the devices that are here. What the backward pass
    makes itself comes on top: with `remat` a layer's own activations, of plain attention the
    scores too."""

    def bytes_of_device(self, replicates: int, along: mesh.Shape) -> float:
        """On each device, for so many replicates: states are shared along `replica` and `fsdp`,
        activations along all axes."""
        each = self.state_bytes / along.fsdp + self.activation_bytes / along.parts
        return replicates / along.replica * each


def of_update(
    config: ModelConfig,
    batch: Batch | Shapes,
    accumulate: int = 1,
    averaged: Averages | None = None,
) -> Cost:
    """The cost of one update of a model, by its whole batch, or the shapes of it, which is cut
    into `accumulate` micro-batches."""
    model = models.build(config, training=True)
    params, state_bytes = of_state(config, averaged)
    part = jax.eval_shape(lambda b: jax.tree.map(lambda leaf: leaf[::accumulate], b), batch)
    # Of the plain model: the products inside a fused kernel cannot be seen.
    loss = jax.make_jaxpr(models.build(config).loss)(params, part)
    return Cost(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        flops=3 * accumulate * _flops(loss.jaxpr),
        state_bytes=state_bytes,
        activation_bytes=_left_behind(model, params, part),
    )


def of_state(config: ModelConfig, averaged: Averages | None = None) -> tuple[Params, int]:
    """(the shapes of a model's parameters, the `state_bytes` of one replicate)."""
    model = models.build(config)
    params = jax.eval_shape(model.init, jax.random.key(0))
    kept = jax.eval_shape(lambda p: averages.init(averaged or Averages(), p), params)
    return params, 4 * _bytes(params) + _bytes(kept)


def flops_of(function: Callable, *arguments: Any) -> int:
    """FLOPs of the matrix products of ``function(*arguments)``, those that rematerialisation
    repeats included; of the arguments the shapes are enough."""
    return _flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def of_branch(branch: ResolvedBranch) -> Cost:
    """The cost of one update of a branch, from its config alone; traced once for all alike."""
    program = key(
        *(branch.model, branch.data.shapes, branch.batch_size, branch.accumulate, branch.averages)
    )
    if program not in _TRACED:
        batch = batch_shapes(branch.data, branch.batch_size)
        _TRACED[program] = of_update(branch.model, batch, branch.accumulate, branch.averages)
    return _TRACED[program]


_TRACED: dict[str, Cost] = {}


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _left_behind(model: models.Model, params: Params, batch: Batch) -> int:
    def forward(params, batch):
        _, backward = jax.vjp(lambda p: model.loss(p, batch), params)
        return jax.tree.leaves(backward)

    jaxpr = jax.make_jaxpr(forward)(params, batch).jaxpr
    given = {*jaxpr.invars, *jaxpr.constvars}
    made = {var for var in jaxpr.outvars if not isinstance(var, Literal)} - given
    return _bytes([var.aval for var in made])


def batch_shapes(data: DataConfig, batch_size: int) -> Shapes:
    """Shapes of a data set's batch, from its config alone: the data need not be there."""
    return {
        name: jax.ShapeDtypeStruct((batch_size, *shape), dtype)
        for name, (shape, dtype) in data.shapes.items()
    }


def _flops(jaxpr: Jaxpr) -> int:
    """FLOPs of the matrix products and convolutions of a trace; a loop of unknown length counts
    once."""
    total = 0
    for equation in jaxpr.eqns:
        if contracted := _contracted(equation):
            out: Any = equation.outvars[0].aval
            total += 2 * math.prod(out.shape) * contracted
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        total += times * sum(map(_flops, jaxprs_in_params(equation.params)))
    return total


def _contracted(equation: JaxprEqn) -> int:
    """How many products are summed in one entry of what an equation gives, 0 where it is no
    product; of a convolution those with its padding count too."""
    name = equation.primitive.name
    shapes: list[Any] = [getattr(var.aval, "shape", ()) for var in equation.invars]
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return math.prod(shapes[0][i] for i in contracted)
    if name == "conv_general_dilated":
        features = equation.params["dimension_numbers"].rhs_spec[0]
        return math.prod(shapes[1]) // shapes[1][features]
    if equation.primitive is convolve_p:
        return math.prod(shapes[1][:-1])
    return math.prod(shapes[0][:-1]) if equation.primitive is correlate_p else 0
