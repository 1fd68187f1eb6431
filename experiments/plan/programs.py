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
from wsdjax.config import DataConfig, ModelConfig
from wsdjax.data.device import DeviceSplit
from wsdjax.data.split import TOKENS_TOGETHER
from wsdjax.models.layers import STACK
from wsdjax.placement.mesh import Shardings
from wsdjax.probes import hessian
from wsdjax.probes.groups import Groups
from wsdjax.training import cost
from wsdjax.training import state as states
from wsdjax.training.compiled import Compiled
from wsdjax.training.optim import Hyper
from wsdjax.training.updates import stacked
from wsdjax.tree.branch import ResolvedBranch

Siblings = Sequence[ResolvedBranch]
"""Branches that train together."""


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
        paths = ("accumulate", "model.remat")
        changes = zip(paths, self, given, strict=True)
        return " ".join(f"--config.{path}={to}" for path, to, was in changes if to != was)

    def __str__(self) -> str:
        remat = "" if self.remat is None else f", remat {self.remat}"
        return f"{self.accumulate} micro-batch{'es' * (self.accumulate > 1)}{remat}"


def changed(siblings: Siblings, to: Settings) -> list[ResolvedBranch]:
    """The siblings with other settings."""

    def model(config: Any) -> ModelConfig:
        return config if to.remat is None else dataclasses.replace(config, remat=to.remat)

    return [
        dataclasses.replace(branch, accumulate=to.accumulate, model=model(branch.model))
        for branch in siblings
    ]


def replicates(siblings: Siblings) -> int:
    return sum(branch.seeds for branch in siblings)


def update(siblings: Siblings, compiled: Compiled) -> Callable[[], Any]:
    """Lowers the step that trains siblings, or the loop of steps, which is given two batches."""
    first, count, placed = siblings[0], replicates(siblings), compiled.placed(siblings)
    program = compiled.program(first, placed)
    step: Any = program.step
    create = partial(states.create, program.model, config=first.averages)
    state = jax.eval_shape(create, np.zeros(count, np.uint32))
    batch = {
        name: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype, sharding=placed.batch)
        for name, leaf in cost.batch_shapes(first.data, first.batch_size).items()
    }
    state = _placed(state, program.where)
    if not compiled.loops:
        one = jax.ShapeDtypeStruct((count,), np.float32, sharding=placed.replicates)
        return lambda: step.lower(state, batch, Hyper(*[one] * len(Hyper._fields)))
    two = jax.ShapeDtypeStruct((2, count), np.float32, sharding=placed.table)
    updates: Any = compiled.updates(first, placed, stacked)
    number = jax.ShapeDtypeStruct((), np.int32)
    return lambda: updates.lower(state, [batch] * 2, Hyper(*[two] * len(Hyper._fields)), number)


def initialisation(siblings: Siblings, compiled: Compiled) -> Callable[[], Any]:
    """Lowers what makes the first state where it is to live."""
    first, placed = siblings[0], compiled.placed(siblings)
    seeds = jax.ShapeDtypeStruct((replicates(siblings),), np.uint32, sharding=placed.everywhere)
    return lambda: compiled.creation(first, placed, replicates(siblings)).lower(seeds)


def product(
    siblings: Siblings, placed: Shardings, examples: int, at_a_time: int, again: bool
) -> Callable[[], Any]:
    """Lowers the product of the Hessian and a vector as `experiments.probe` has it, on parameters
    that live as in training; with layers computed `again` as on all devices but CPUs."""
    config = siblings[0].model
    model = (models.for_probes if again else models.build)(config, spread=placed.spread)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = _placed(shapes, placed.of_one(shapes))
    batch = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed.examples(examples))
        for name, leaf in cost.batch_shapes(siblings[0].data, examples).items()
    }
    groups = Groups(at_a_time, placed.spread.parts)
    return lambda: hessian.batch_product.lower(model.loss, params, batch, params, groups)


def probed_together(data: DataConfig, parts: int) -> int:
    """The most examples that a probe's batches have (`wsdjax.data.sample`)."""
    tokens = data.unit == "tokens"
    size = max(1, TOKENS_TOGETHER // data.units) if tokens else DeviceSplit.together
    return max(parts, size - size % parts)


def update_flops(siblings: Siblings) -> float:
    """Of all replicates' matrix products in one update, attention's as if it were plain, and what
    is rematerialised counted as often as it is computed."""
    first = siblings[0]
    config: Any = first.model
    if hasattr(config, "attention"):
        config = dataclasses.replace(config, attention="plain")
    model = models.build(config, training=True)
    part = cost.batch_shapes(first.data, first.batch_size // first.accumulate)
    params = jax.eval_shape(model.init, jax.random.key(0))
    each = cost.flops_of(jax.value_and_grad(model.loss), params, part)
    return float(replicates(siblings) * first.accumulate * each)


def product_flops(siblings: Siblings, examples: int) -> float:
    """Of one Hessian-vector product's matrix products."""
    model = models.for_probes(siblings[0].model)
    params = jax.eval_shape(model.init, jax.random.key(0))
    batch = cost.batch_shapes(siblings[0].data, examples)
    return float(cost.flops_of(partial(hessian.batch_product, model.loss), params, batch, params))


def layer(siblings: Siblings, placed: Shardings) -> int:
    """Numbers in a layer, or the embedding or the head if those have more, of the replicates that
    a device has."""
    shapes = jax.eval_shape(
        models.by_layer(models.build(siblings[0].model)).init, jax.random.key(0)
    )
    parts = [*shapes.pop(STACK, {}).values(), *shapes.values()]
    most = max(sum(leaf.size for leaf in jax.tree.leaves(part)) for part in parts)
    return replicates(siblings) // placed.mesh.shape["replica"] * most


def _placed(shapes: Any, shardings: Any) -> Any:
    def one(shape, sharding):
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

    return jax.tree.map(one, shapes, shardings)
