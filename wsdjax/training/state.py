"""The state of R replicates as one pytree: all leaves but `step` are [R, ...]."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.extend.core import Literal

from wsdjax.compiling import for_once
from wsdjax.config import Averages
from wsdjax.models import Model, Params
from wsdjax.placement.mesh import Shardings
from wsdjax.training import averages, optim


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """Training after `step` completed updates; `step` is the only clock."""

    step: Any
    """Scalar int32."""
    params: Params
    opt_state: optax.OptState = field(default_factory=dict)
    """Empty in a snapshot, which has the parameters alone."""
    averages: Any = field(default_factory=dict)
    """Averages of the weights (`wsdjax.training.averages`); empty without any."""


Place = Callable[[State], State]
"""Gives the sharding of each leaf of a state, of which it gets the shapes."""


def create(model: Model, seeds: Sequence[int], config: Averages | None = None) -> State:
    """The initial state of one replicate for each seed, with the averages of `config`."""
    params = jax.vmap(lambda seed: model.init(jax.random.key(seed)))(jnp.asarray(seeds, jnp.uint32))
    state = State(jnp.int32(0), params, jax.vmap(optim.init)(params))
    return state if config is None else with_new_averages(state, config)


def with_new_averages(state: State, config: Averages) -> State:
    """The state with the averages of `config`, which begin here."""
    new = jax.vmap(lambda params: averages.init(config, params))(state.params)
    return dataclasses.replace(state, averages=new)


def with_new_moments(state: State) -> State:
    """The state with the optimizer as at the start of training."""
    return dataclasses.replace(state, opt_state=jax.vmap(optim.init)(state.params))


def abstract(params: Params, averages: Any) -> State:
    """The state that goes with both, which are shapes and dtypes [R, ...], as is the result."""
    opt_state = jax.eval_shape(jax.vmap(optim.init), params)
    return State(jax.ShapeDtypeStruct((), jnp.int32), params, opt_state, averages)


def parameters_alone(state: State) -> State:
    """The state as a snapshot holds it."""
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


def made(make: Callable[..., State], placed: Shardings, *arguments: Any) -> State:
    """``make(*arguments)``, each leaf of which is made where it is to live, and nowhere else.

    It is equal to the bit to what `make` gives outside of `jit`.
    """
    return maker(make, placed, *arguments)(*arguments)


def maker(make: Callable[..., State], placed: Shardings, *arguments: Any) -> jax.stages.Wrapped:
    """The jitted function of `made`; of the arguments the shapes are enough."""
    where = placed.of(jax.eval_shape(make, *arguments))
    once = for_once(placed.spread.device)
    return jax.jit(_one_by_one(make, where), out_shardings=where, compiler_options=once)


def _one_by_one(make: Callable[..., State], like: State) -> Callable[..., State]:
    # XLA multiplies the constants of an initialisation, such as sqrt(2) and a standard deviation,
    # into one: other last bits than those of operations that are compiled one by one.
    def run(*arguments):
        closed = jax.make_jaxpr(make)(*arguments)
        known = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
        known |= zip(closed.jaxpr.invars, jax.tree.leaves(arguments), strict=True)

        def value(of):
            return of.val if isinstance(of, Literal) else known[of]

        for equation in closed.jaxpr.eqns:
            out = equation.primitive.bind(*map(value, equation.invars), **equation.params)
            out = out if equation.primitive.multiple_results else [out]
            known |= zip(equation.outvars, map(_apart, out), strict=True)
        return jax.tree.unflatten(jax.tree.structure(like), map(value, closed.jaxpr.outvars))

    return run


def _apart(value: jax.Array) -> jax.Array:
    is_key = jnp.issubdtype(value.dtype, jax.dtypes.extended)
    return value if is_key else jax.lax.optimization_barrier(value)
