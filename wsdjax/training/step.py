"""One update, and one evaluation, of R replicates: pure functions of arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from wsdjax.compiling import Program, of_convolutions
from wsdjax.config import Averages
from wsdjax.models import Batch, Model, Params
from wsdjax.placement.mesh import Shardings
from wsdjax.training import averages, optim
from wsdjax.training import state as states
from wsdjax.training.optim import Hyper
from wsdjax.training.state import State

Metrics = dict[str, jax.Array]


def make_step(
    model: Model,
    placed: Shardings | None = None,
    averaged: Averages | None = None,
    accumulate: int = 1,
) -> Callable[[State, Batch, Hyper], tuple[State, Metrics]]:
    """``step(state, batch, hyper) -> (state, metrics)``, jitted; `state` is donated.

    Leaves of `batch` are [R, B, ...], of `hyper` [R]. The metrics are [R]: `loss`,
    `grad_norm` (before clipping) and `param_norm` belong to the parameters before the
    update, `update_norm` to the update itself. With `placed` the new state lies where the
    old one did, so that the next step does not compile again; `model` is one that is spread over
    the same devices, and the metrics are on all of them. `averaged` tells which averages
    of the weights the state holds. The gradient is that of the whole batch, computed in
    `accumulate` parts.
    """
    averaged = averaged or Averages()
    loss_and_gradients = _accumulated(jax.value_and_grad(model.loss), accumulate)

    def one(params, opt_state, averages_, step, batch, hyper):
        loss, gradients = loss_and_gradients(params, batch)
        updates, opt_state = optim.adamw(hyper).update(gradients, opt_state, params)
        metrics = {
            "loss": loss,
            "grad_norm": optax.tree.norm(gradients),
            "param_norm": optax.tree.norm(params),
            "update_norm": optax.tree.norm(updates),
        }
        params = optax.apply_updates(params, updates)
        averages_ = averages.update(averaged, averages_, params, step)
        return params, opt_state, averages_, metrics

    def step(state: State, batch: Batch, hyper: Hyper):
        n = state.step + 1
        each = _of_replicates(one, (0, 0, 0, None, 0, 0), placed)
        *new, metrics = each(state.params, state.opt_state, state.averages, n, batch, hyper)
        return State(n, *new), metrics

    if placed is None:
        return _compiled(step, model, placed, donate_argnums=0)
    state = placed.of(jax.eval_shape(lambda: states.create(model, [0], averaged)))
    given, new = (state, placed.batch, placed.replicates), (state, placed.everywhere)
    where = {"in_shardings": given, "out_shardings": new}
    return _compiled(step, model, placed, donate_argnums=0, **where)


def _compiled(
    function: Callable, model: Model, placed: Shardings | None, **options: Any
) -> Callable[..., Any]:
    if not model.config.convolves:
        return jax.jit(function, **options)
    return Program(function, of_convolutions, placed and placed.spread.device, **options)


def _of_replicates(
    of_one: Callable[..., Any], in_axes: Sequence[int | None], placed: Shardings | None
) -> Callable[..., Any]:
    """``of_one(...)`` for all replicates, of the arguments with the axis 0: at once, but on a
    single CPU one after the other, which is no slower there, and convolutions of several kernels at
    once are."""
    platform = placed.spread.device.platform if placed else jax.default_backend()
    if platform != "cpu" or (placed and placed.mesh.size > 1):
        along = "replica" if placed else None
        return jax.vmap(of_one, in_axes=tuple(in_axes), spmd_axis_name=along)

    def in_turn(*arguments):
        def of(own):
            rest = iter(own)
            return of_one(
                *(a if x is None else next(rest) for a, x in zip(arguments, in_axes, strict=True))
            )

        own = [a for a, x in zip(arguments, in_axes, strict=True) if x == 0]
        if len(jax.tree.leaves(own)[0]) > 1:
            return jax.lax.map(of, own)
        alone = of(jax.tree.map(lambda leaf: leaf[0], own))
        return jax.tree.map(lambda leaf: leaf[None], alone)

    return in_turn


def _accumulated(
    of_batch: Callable[[Params, Batch], Any], parts: int
) -> Callable[[Params, Batch], Any]:
    """The mean of ``of_batch(params, part)`` over equal parts of a batch, one after the other."""
    if parts == 1:
        return of_batch

    def of_parts(params, batch):
        # Part i has the examples i, i + parts, ...: each device then has a share of every part.
        batches = jax.tree.map(
            lambda leaf: leaf.reshape(-1, parts, *leaf.shape[1:]).swapaxes(0, 1), batch
        )

        def add(sums, part):
            return jax.tree.map(jnp.add, sums, of_batch(params, part)), None

        first = jax.tree.map(lambda leaf: leaf[0], batches)
        zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(of_batch, params, first))
        sums, _ = jax.lax.scan(add, zeros, batches)
        return jax.tree.map(lambda total: total / parts, sums)

    return of_parts


def make_evaluate(
    model: Model, placed: Shardings | None = None
) -> Callable[[Params, Sequence[Batch]], Metrics]:
    """``evaluate(params, batches) -> metrics``: means over all examples of all batches, [R].

    Every replicate sees the same batches; a batch weighs as many as its examples. `placed` is as
    for `make_step`.
    """
    of_each = _of_replicates(model.metrics, (0, None), placed)

    def total(params, batch):
        examples = len(jax.tree.leaves(batch)[0])
        metrics = of_each(params, batch)
        return {name: value * examples for name, value in metrics.items()}, jnp.float32(examples)

    total_of = _compiled(total, model, placed, out_shardings=placed and placed.everywhere)

    def evaluate(params, batches):
        totals = [total_of(params, batch) for batch in batches]
        sums, examples = jax.tree.map(lambda *values: sum(values), *totals)
        return {name: value / examples for name, value in sums.items()}

    return evaluate


def make_average(
    averaged: Averages, placed: Shardings | None = None
) -> Callable[[State], dict[str, Params]]:
    """``average(state) -> {name: params}``, jitted: the averaged weights, leaves [R, ...], which
    lie where the parameters do."""

    def average(state: State) -> dict[str, Params]:
        found = jax.vmap(lambda a, params: averages.values(averaged, a, params))(
            state.averages, state.params
        )
        return jax.lax.with_sharding_constraint(found, placed.of(found)) if placed else found

    return jax.jit(average)
