"""The programs of a run, lowered for devices that are not here: an update, the initialisation, and
a Hessian-vector product."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from wsdjax import models
from wsdjax.config import ModelConfig
from wsdjax.placement.mesh import Shardings
from wsdjax.probes import hessian
from wsdjax.training import cost
from wsdjax.training import state as states
from wsdjax.training.optim import Hyper
from wsdjax.training.step import make_step
from wsdjax.tree.branch import ResolvedBranch

Group = Sequence[ResolvedBranch]
"""Siblings, which train together."""


class Settings(NamedTuple):
    """What may change in a config without another meaning."""

    accumulate: int
    remat: str | None
    """None for a model that has no such field."""

    @classmethod
    def of(cls, branch: ResolvedBranch) -> Settings:
        return cls(branch.accumulate, getattr(branch.model, "remat", None))

    def flags(self, given: Settings) -> str:
        """What sets them on a command line where `given` is in the config."""
        fields = [("accumulate", "accumulate"), ("remat", "model.remat")]
        return " ".join(
            f"--config.{path}={getattr(self, name)}"
            for name, path in fields
            if getattr(self, name) != getattr(given, name)
        )


def changed(group: Group, to: Settings) -> list[ResolvedBranch]:
    """The siblings with other settings."""

    def model(config: ModelConfig) -> ModelConfig:
        # A config's classes are dataclasses, which its base class does not tell.
        with_remat: Any = config
        return config if to.remat is None else dataclasses.replace(with_remat, remat=to.remat)

    return [
        dataclasses.replace(branch, accumulate=to.accumulate, model=model(branch.model))
        for branch in group
    ]


def replicates(group: Group) -> int:
    return sum(branch.seeds for branch in group)


def update(group: Group, placed: Shardings) -> Callable[[], Any]:
    """Lowers the step that trains siblings, as `wsdjax.training.compiled` makes it."""
    first, count = group[0], replicates(group)
    model = models.build(first.model, training=True, spread=placed.spread)
    step: Any = make_step(model, placed, first.averages, first.accumulate)
    state = jax.eval_shape(
        lambda seeds: states.create(model, seeds, first.averages), np.zeros(count, np.uint32)
    )
    batch = {
        name: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype, sharding=placed.batch)
        for name, leaf in cost.batch_shapes(first.data, first.batch_size).items()
    }
    one = jax.ShapeDtypeStruct((count,), np.float32, sharding=placed.replicates)
    hyper = Hyper(*[one] * len(Hyper._fields))
    return lambda: step.lower(_placed(state, placed.of(state)), batch, hyper)


def initialisation(group: Group, placed: Shardings) -> Callable[[], Any]:
    """Lowers what makes the first state where it is to live."""
    first, count = group[0], replicates(group)
    model = models.build(first.model, training=True, spread=placed.spread)
    seeds = jax.ShapeDtypeStruct((count,), np.uint32, sharding=placed.everywhere)
    make = partial(_create, model, averages=first.averages)
    return lambda: states.maker(make, placed, seeds).lower(seeds)


def _create(model: models.Model, seeds: Any, averages: Any) -> states.State:
    return states.create(model, seeds, averages)


def product(group: Group, placed: Shardings, windows: int) -> Callable[[], Any]:
    """Lowers the product of the Hessian and a vector on so many examples for each device, as
    `wsdjax.probes` makes it of parameters that live as in training."""
    model = models.for_probes(group[0].model, placed.spread)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = _placed(shapes, placed.of(shapes, divide_replicates=False))
    examples = windows * placed.spread.parts
    batch = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed.examples(examples))
        for name, leaf in cost.batch_shapes(group[0].data, examples).items()
    }
    return lambda: hessian._product.lower(model.loss, params, batch, params)


def update_flops(group: Group) -> float:
    """Of all replicates' matrix products in one update, attention's as if it were plain, and what
    is rematerialised counted as often as it is computed."""
    first = group[0]
    config: Any = first.model
    if hasattr(config, "attention"):
        config = dataclasses.replace(config, attention="plain")
    model = models.build(config, training=True)
    part = cost.batch_shapes(first.data, first.batch_size // first.accumulate)
    params = jax.eval_shape(model.init, jax.random.key(0))
    each = cost.flops_of(jax.value_and_grad(model.loss), params, part)
    return float(replicates(group) * first.accumulate * each)


def product_flops(group: Group, examples: int) -> float:
    """Of one Hessian-vector product's matrix products."""
    model = models.for_probes(group[0].model)
    params = jax.eval_shape(model.init, jax.random.key(0))

    def of(params, vector, batch):
        return jax.jvp(jax.grad(lambda p: model.loss(p, batch)), (params,), (vector,))[1]

    batch = cost.batch_shapes(group[0].data, examples)
    return float(cost.flops_of(of, params, params, batch))


def _placed(shapes: Any, shardings: Any) -> Any:
    def one(shape, sharding):
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

    return jax.tree.map(one, shapes, shardings)
