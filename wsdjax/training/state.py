"""The state of R replicates as one pytree: all leaves but `step` are [R, ...]."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wsdjax.config import Averages
from wsdjax.models import Model
from wsdjax.placement.mesh import Shardings
from wsdjax.training import averages, optim


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """Training after `step` completed updates; `step` is the only clock."""

    step: Any
    """Scalar int32."""
    params: Any
    opt_state: Any = field(default_factory=dict)
    """Empty in a snapshot, which has the parameters alone."""
    averages: Any = field(default_factory=dict)
    """Averages of the weights (`wsdjax.training.averages`); empty without any."""


def create(model: Model, seeds: Sequence[int], config: Averages | None = None) -> State:
    """The initial state of one replicate for each seed, with the averages of `config`."""
    params = jax.vmap(lambda seed: model.init(jax.random.key(seed)))(np.asarray(seeds, np.uint32))
    state = State(jnp.int32(0), params, jax.vmap(optim.init)(params))
    return state if config is None else with_new_averages(state, config)


def with_new_averages(state: State, config: Averages) -> State:
    """The state with the averages of `config`, which begin here."""
    new = jax.vmap(lambda params: averages.init(config, params))(state.params)
    return dataclasses.replace(state, averages=new)


def with_new_moments(state: State) -> State:
    """The state with the optimizer as at the start of training."""
    return dataclasses.replace(state, opt_state=jax.vmap(optim.init)(state.params))


def abstract(params: Any, averages: Any) -> State:
    """The state that goes with both, which are shapes and dtypes [R, ...], as is the result."""
    opt_state = jax.eval_shape(jax.vmap(optim.init), params)
    return State(jax.ShapeDtypeStruct((), jnp.int32), params, opt_state, averages)


def parameters_alone(state: State) -> State:
    """What a snapshot holds."""
    return State(state.step, state.params)


def replicate(state: State, index: int) -> State:
    """One replicate, without the axis: leaves [R, ...] become [...]."""
    return each(lambda leaf: leaf[index], state)


def section(state: State, start: int, stop: int) -> State:
    """The replicates start, ..., stop - 1."""
    return each(lambda leaf: leaf[start:stop], state)


def join(states: Sequence[State]) -> State:
    """The replicates of several states at one step, in order."""
    return each(lambda *leaves: jnp.concatenate(leaves), *states)


def each(change: Callable, *states: State) -> State:
    """`change` of each leaf but `step`, of one state or of several at one step."""
    first = states[0]
    stepless = [dataclasses.replace(state, step=None) for state in states]
    return dataclasses.replace(jax.tree.map(change, *stepless), step=first.step)


def place(state: State, placed: Shardings) -> State:
    """The state where its group is trained."""
    moved = each(lambda leaf: jax.device_put(leaf, placed.replicates), state)
    return dataclasses.replace(moved, step=jax.device_put(state.step, placed.everywhere))
