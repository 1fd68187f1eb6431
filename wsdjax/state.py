"""The state of R replicates as one pytree: leaves of `params` and `opt_state` are [R, ...]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wsdjax import optim
from wsdjax.models import Model


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """Training after `step` completed updates; `step` is the only clock."""

    step: Any
    """Scalar int32."""
    params: Any
    opt_state: Any


def create(model: Model, seeds: Sequence[int]) -> State:
    """The initial state of one replicate for each seed."""
    params = jax.vmap(lambda seed: model.init(jax.random.key(seed)))(np.asarray(seeds, np.uint32))
    return State(jnp.int32(0), params, jax.vmap(optim.init)(params))


def abstract(params: Any) -> State:
    """The state that goes with `params` [R, ...], both as shapes and dtypes only."""
    return jax.eval_shape(lambda p: State(jnp.int32(0), p, jax.vmap(optim.init)(p)), params)


def replicate(state: State, index: int) -> State:
    """One replicate, without the axis: leaves [R, ...] become [...]."""
    return _each(lambda leaf: leaf[index], state)


def section(state: State, start: int, stop: int) -> State:
    """The replicates start, ..., stop - 1."""
    return _each(lambda leaf: leaf[start:stop], state)


def join(states: Sequence[State]) -> State:
    """The replicates of several states at one step, in order."""
    first = states[0]
    params, opt_state = jax.tree.map(
        lambda *leaves: jnp.concatenate(leaves),
        *[(state.params, state.opt_state) for state in states],
    )
    return State(first.step, params, opt_state)


def _each(change, state: State) -> State:
    params, opt_state = jax.tree.map(change, (state.params, state.opt_state))
    return State(state.step, params, opt_state)
