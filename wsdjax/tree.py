"""The tree of branches, resolved: each `Edge` says all that decides its numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import optax

from wsdjax import schedules
from wsdjax.config import (
    AdamW,
    Averages,
    Branch,
    ConfigError,
    Constant,
    Cooldown,
    Experiment,
    Hold,
    InverseSqrt,
    Rewarm,
    WarmupCosine,
    from_json,
    to_json,
)
from wsdjax.length import Length, updates


@dataclass(frozen=True)
class Edge:
    """One branch with everything it inherits made explicit; `branch.json` holds it."""

    name: str
    parent: str
    """Empty for a root."""
    start: int
    """Completed updates at the fork: the node it starts from is (parent, start)."""
    end: int
    schedule: Any
    optimizer: AdamW
    model: Any
    data: Any
    batch_size: int
    seed: int
    """Of the first replicate's initialisation; the next ones have seed + 1, ..."""
    seeds: int
    data_seed: int
    """Of the first replicate's stream of batches."""
    data_start: int
    """Where that stream began: update n sees its batch n - 1 - data_start."""
    reset_optimizer: bool
    averages: Averages

    def to_json(self) -> dict[str, Any]:
        return {f.name: to_json(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Edge:
        """Of a record of this format or of format 1, whose branches all went on with their
        parent's batches and moments and averaged nothing."""
        first_format = {
            "data_seed": fields["seed"],
            "data_start": 0,
            "reset_optimizer": False,
            "averages": to_json(Averages()),
        }
        return cls(**from_json(first_format | fields))

    @property
    def replicate_seeds(self) -> tuple[int, ...]:
        return tuple(range(self.seed, self.seed + self.seeds))

    @property
    def stream_seeds(self) -> tuple[int, ...]:
        return tuple(range(self.data_seed, self.data_seed + self.seeds))


def resolve(experiment: Experiment) -> dict[str, Edge]:
    """The edges of a config's tree by name, parents before their children.

    Raises:
      ConfigError: for a parent that does not exist, a cycle, a fork outside its parent, or a
        schedule that does not fit its branch.
    """
    origin = Edge(
        name="",
        parent="",
        start=0,
        end=0,
        schedule=None,
        optimizer=experiment.optimizer,
        model=experiment.model,
        data=experiment.data,
        batch_size=experiment.batch_size,
        seed=experiment.seed,
        seeds=experiment.seeds,
        data_seed=experiment.seed,
        data_start=0,
        reset_optimizer=False,
        averages=experiment.averages,
    )
    edges: dict[str, Edge] = {}
    waiting = dict(experiment.tree)
    while waiting:
        known = ("", *edges)
        ready = next((name for name, b in waiting.items() if _parent_of(b)[0] in known), None)
        if ready is None:
            name, branch = next(iter(waiting.items()))
            parent = _parent_of(branch)[0]
            why = "is its own ancestor" if parent in experiment.tree else "does not exist"
            raise ConfigError(
                f"tree.{name}.parent = {branch.parent!r}: {parent!r} {why}; "
                f"the branches are {', '.join(experiment.tree)}"
            )
        branch = waiting.pop(ready)
        above = edges.get(_parent_of(branch)[0], origin)
        edges[ready] = grow(ready, branch, above, edges, experiment.length)
    return edges


def grow(
    name: str,
    branch: Branch,
    parent: Edge,
    edges: Mapping[str, Edge],
    length: Length | None = None,
) -> Edge:
    """The edge that `branch` makes, with what it inherits from `parent`.

    Args:
      name: the new edge's.
      branch: what it is and what it changes.
      parent: the edge that it forks from.
      edges: the tree so far; it holds the parent's ancestors.
      length: the run's, for lengths in percent.

    Raises:
      ConfigError: for a fork outside the parent, a length that means nothing here, classes
        that are not the data's, or a schedule that does not fit.
    """
    where = f"tree.{name}"
    data = branch.data or parent.data
    if parent.model.classes != data.classes:
        raise ConfigError(
            f"{where}: the model has {parent.model.classes} classes, "
            f"{type(data).__name__} has {data.classes}"
        )
    one = units(data, parent.batch_size, length)
    start = parent.end
    if at := _parent_of(branch)[1]:
        start = _updates(f"{where}.parent = {branch.parent!r}: the step", at, one)
        if not parent.start < start <= parent.end:
            raise ConfigError(
                f"{where}.parent = {branch.parent!r}: {parent.name} has the steps "
                f"{parent.start + 1} to {parent.end}"
            )
    steps = _updates(f"{where}.steps", branch.steps, one)
    if steps < 1:
        raise ConfigError(f"{where}.steps = {branch.steps!r}: comes to {steps}, must be >= 1")
    if isinstance(branch.schedule, Cooldown | Hold) and branch.optimizer.peak_value is not None:
        raise ConfigError(
            f"{where}.optimizer.peak_value = {branch.optimizer.peak_value}: a "
            f"{type(branch.schedule).__name__} starts from its parent's rate and has no peak"
        )
    changed = {k: v for k, v in dataclasses.asdict(branch.optimizer).items() if v is not None}
    new_stream = branch.data is not None or branch.data_seed is not None
    edge = Edge(
        name=name,
        parent=parent.name,
        start=start,
        end=start + steps,
        schedule=_with_updates(f"{where}.schedule", branch.schedule, one),
        optimizer=dataclasses.replace(parent.optimizer, **changed),
        model=parent.model,
        data=data,
        batch_size=parent.batch_size,
        seed=parent.seed,
        seeds=parent.seeds,
        data_seed=parent.data_seed if branch.data_seed is None else branch.data_seed,
        data_start=start if new_stream else parent.data_start,
        reset_optimizer=branch.reset_optimizer,
        averages=branch.averages or parent.averages,
    )
    try:
        schedule_of(edge, edges)
    except ValueError as error:
        raise ConfigError(f"{where}.schedule: {error}") from None
    return edge


def _parent_of(branch: Branch) -> tuple[str, str]:
    name, _, step = branch.parent.partition("@")
    return name, step


def units(data: Any, batch_size: int, length: Length | None = None) -> dict[str, float]:
    """What one epoch, one token and one percent of `length` are worth, in updates."""
    one: dict[str, float] = {"epochs": data.examples // batch_size}
    if tokens := getattr(data, "tokens_per_example", 0):
        one["tokens"] = 1 / (batch_size * tokens)
    if length is not None:
        one["%"] = _updates("length", length, one) / 100
    return one


def every(experiment: Experiment, field: str) -> int:
    """The experiment's `eval_every` or `checkpoint_every` in updates.

    Raises:
      ConfigError: for a length that means nothing here, or comes to nothing.
    """
    one = units(experiment.data, experiment.batch_size, experiment.length)
    count = _updates(field, getattr(experiment, field), one)
    if count < 1:
        raise ConfigError(f"{field} = {getattr(experiment, field)!r}: comes to {count} updates")
    return count


def _updates(path: str, length: Length, one: Mapping[str, float]) -> int:
    try:
        return updates(length, one)
    except ValueError as error:
        raise ConfigError(f"{path} = {error}") from None


def _with_updates(path: str, schedule: Any, one: Mapping[str, float]) -> Any:
    """The schedule with its lengths in updates."""
    lengths = [f.name for f in dataclasses.fields(schedule) if f.type is Length]
    counts = {n: _updates(f"{path}.{n}", getattr(schedule, n), one) for n in lengths}
    return dataclasses.replace(schedule, **counts)


def schedule_of(edge: Edge, edges: Mapping[str, Edge]) -> optax.Schedule:
    """eta(t), t the absolute number of the update; `edges` holds the ancestors.

    Raises:
      ValueError: if the schedule does not fit the branch.
    """
    peak = edge.optimizer.peak_value
    steps = edge.end - edge.start
    match edge.schedule:
        case Constant(warmup_steps=int(warmup)):
            if warmup > edge.end:
                raise ValueError(
                    f"warmup_steps={warmup} is longer than the branch, which ends at {edge.end}"
                )
            return schedules.wsd(peak, warmup, edge.end, 0)
        case InverseSqrt(warmup_steps=int(warmup), timescale=timescale):
            return schedules.inverse_sqrt(peak, warmup, edge.end, 0, timescale)
        case WarmupCosine(warmup_steps=int(warmup), end_value=end_value):
            return schedules.warmup_cosine(peak, warmup, edge.end, end_value)
        case Hold():
            if not edge.parent:
                raise ValueError(f"Hold keeps its parent's rate, and {edge.name} has no parent")
            return schedules.constant(_rate_left(edge, edges))
        case Cooldown(shape=shape, end_value=end_value):
            begin = _rate_left(edge, edges) if edge.parent else peak
            return schedules.cooldown(begin, edge.start, steps, shape, end_value)
        case Rewarm(warmup_steps=int(warmup), shape=shape, end_value=end_value):
            begin = rate_at_fork(edge, edges)
            return schedules.rewarm(begin, peak, edge.start, warmup, edge.end, shape, end_value)
    raise TypeError(f"no schedule: {edge.schedule!r}")


def rate_at_fork(edge: Edge, edges: Mapping[str, Edge]) -> float:
    """The rate of the parent's update number `edge.start`; 0 for a root."""
    return float(schedule_of(edges[edge.parent], edges)(edge.start)) if edge.parent else 0.0


def _rate_left(edge: Edge, edges: Mapping[str, Edge]) -> float:
    rate = rate_at_fork(edge, edges)
    if rate == 0:
        raise ValueError(f"the rate of {edge.parent!r} is 0 at {edge.start}: none is left")
    return rate


def jump(edge: Edge, edges: Mapping[str, Edge]) -> tuple[float, float] | None:
    """(the parent's rate at the fork, the rate that the branch begins with) where the two are
    not one: by design, as when WSD-S goes back to the peak. None if nothing jumps.

    The schedule is a function of a real t; it is asked just after the fork, so that a cooldown
    whose first step is steep is none.
    """
    if not edge.parent:
        return None
    before = rate_at_fork(edge, edges)
    after = float(schedule_of(edge, edges)(edge.start + 4 * np.spacing(float(edge.start))))
    peak = max(edge.optimizer.peak_value, before)
    return None if abs(after - before) <= 1e-3 * peak else (before, after)


def at_the_fork(edge: Edge, edges: Mapping[str, Edge]) -> dict[str, str]:
    """In words: what becomes of the data, of the optimizer's state and of the rate; {} for a
    root."""
    if not edge.parent:
        return {}
    parent = edges[edge.parent]
    if edge.data != parent.data:
        data = f"another data set, seed {edge.data_seed}: {edge.data}"
    elif (edge.data_seed, edge.data_start) != (parent.data_seed, parent.data_start):
        data = f"fresh: a new stream, seed {edge.data_seed}"
    else:
        data = "continue: the batches that the parent would have seen"
    rate = rate_at_fork(edge, edges)
    jumped = jump(edge, edges)
    return {
        "data": data,
        "optimizer": "reset" if edge.reset_optimizer else "kept",
        "rate": f"jumps from {jumped[0]:.3e} to {jumped[1]:.3e}"
        if jumped
        else f"goes on from {rate:.3e}",
    }


def rates(edge: Edge, edges: Mapping[str, Edge]) -> np.ndarray:
    """float32 [end - start]: the rates of the updates start + 1, ..., end."""
    updates = np.arange(edge.start + 1, edge.end + 1)
    return np.asarray(schedule_of(edge, edges)(updates), np.float32)


def groups(edges: Mapping[str, Edge]) -> list[list[Edge]]:
    """The edges that train together, in an order in which parents come first.

    Branches that fork at the same node and are equally long differ in arrays only, so they
    are replicates of one program.
    """
    together: dict[tuple, list[Edge]] = {}
    for edge in edges.values():
        program = (
            *(repr(edge.model), repr(edge.data), repr(edge.averages)),
            *(edge.batch_size, edge.data_start),
        )
        together.setdefault((edge.parent, edge.start, edge.end, *program), []).append(edge)
    return list(together.values())
