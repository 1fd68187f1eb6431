"""Several updates as one compiled call, so that no device waits for the host between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from wsdjax.data import Batch
from wsdjax.placement.mesh import Shardings
from wsdjax.training.optim import Hyper
from wsdjax.training.state import State
from wsdjax.training.step import Metrics

Feed = Callable[[Any], Callable[[jax.Array], Batch]]
"""``feed(given)(i)``: of the arrays that a call is given, the batch of its update i; traced."""
Updates = Callable[[State, Any, Hyper, Any], tuple[State, Metrics]]


def make_updates(
    step: Callable[[State, Batch, Hyper], tuple[State, Metrics]],
    feed: Feed,
    placed: Shardings,
    where: Any,
) -> Updates:
    """``updates(state, given, hypers, count) -> (state, metrics)``, jitted; `state` is donated.

    Update i of the `count` in a call sees the batch ``feed(given)(i)``, leaves [R, B, ...], and the
    hyperparameters ``hypers[i]``, whose leaves [K, R] have room for the most that a call can be
    asked for. The metrics are those of `step`, [K, R], of which the first `count` are meant; the
    new state lies `where` the old one did. It is one program whatever the count: a run in calls of
    one update is equal to the bit to one in calls of fifty.
    """

    def updates(state: State, given: Any, hypers: Hyper, count: jax.Array):
        batch_of = feed(given)

        def one(state: State, i: Any):
            batch = jax.lax.with_sharding_constraint(batch_of(i), placed.batch)
            return step(state, batch, jax.tree.map(lambda column: column[i], hypers))

        def body(i, carry):
            state, rows = carry
            state, metrics = one(state, i)
            return state, jax.tree.map(lambda row, value: row.at[i].set(value), rows, metrics)

        metrics = jax.eval_shape(one, state, jnp.int32(0))[1]
        most = len(hypers.rate)
        rows = jax.tree.map(lambda of: jnp.zeros((most, *of.shape), of.dtype), metrics)
        return jax.lax.fori_loop(0, count, body, (state, rows))

    before, after = (where, None, placed.table, None), (where, placed.everywhere)
    return jax.jit(updates, donate_argnums=0, in_shardings=before, out_shardings=after)


def stacked(batches: Sequence[Batch]) -> Callable[[jax.Array], Batch]:
    """The feed of a call that is given each update's batch."""
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
    return lambda i: jax.tree.map(lambda leaf: leaf[i], together)
