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
    Branch,
    ConfigError,
    Constant,
    Cooldown,
    Experiment,
    WarmupCosine,
    from_json,
    to_json,
)


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
    seeds: int

    def to_json(self) -> dict[str, Any]:
        return {f.name: to_json(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Edge:
        return cls(**from_json(fields))

    @property
    def replicate_seeds(self) -> tuple[int, ...]:
        return tuple(range(self.seed, self.seed + self.seeds))


def resolve(experiment: Experiment) -> dict[str, Edge]:
    """The edges of a config's tree by name, parents before their children.

    Raises:
      ConfigError: for a parent that does not exist, a cycle, a fork outside its parent, or a
        schedule that does not fit its branch.
    """
    edges: dict[str, Edge] = {}
    waiting = dict(experiment.tree)
    while waiting:
        ready = next((name for name, b in waiting.items() if _node(b)[0] in ("", *edges)), None)
        if ready is None:
            name, branch = next(iter(waiting.items()))
            parent = _node(branch)[0]
            why = "is its own ancestor" if parent in experiment.tree else "does not exist"
            raise ConfigError(
                f"tree.{name}.parent = {branch.parent!r}: {parent!r} {why}; "
                f"the branches are {', '.join(experiment.tree)}"
            )
        edges[ready] = _resolve_one(ready, waiting.pop(ready), edges, experiment)
    return edges


def _node(branch: Branch) -> tuple[str, str]:
    name, _, step = branch.parent.partition("@")
    return name, step


def _resolve_one(
    name: str, branch: Branch, edges: Mapping[str, Edge], experiment: Experiment
) -> Edge:
    parent_name, step = _node(branch)
    parent = edges.get(parent_name)
    start = parent.end if parent else 0
    if parent and step:
        if not step.isdecimal() or not parent.start < int(step) <= parent.end:
            raise ConfigError(
                f"tree.{name}.parent = {branch.parent!r}: {parent_name} has the steps "
                f"{parent.start + 1} to {parent.end}"
            )
        start = int(step)
    if isinstance(branch.schedule, Cooldown) and branch.optimizer.peak_value is not None:
        raise ConfigError(
            f"tree.{name}.optimizer.peak_value = {branch.optimizer.peak_value}: a Cooldown starts "
            "from its parent's rate and has no peak"
        )
    changed = {k: v for k, v in dataclasses.asdict(branch.optimizer).items() if v is not None}
    edge = Edge(
        name=name,
        parent=parent_name,
        start=start,
        end=start + branch.steps,
        schedule=branch.schedule,
        optimizer=dataclasses.replace(
            parent.optimizer if parent else experiment.optimizer, **changed
        ),
        model=experiment.model,
        data=experiment.data,
        batch_size=experiment.batch_size,
        seed=experiment.seed,
        seeds=experiment.seeds,
    )
    try:
        schedule_of(edge, edges)
    except ValueError as error:
        raise ConfigError(f"tree.{name}.schedule: {error}") from None
    return edge


def schedule_of(edge: Edge, edges: Mapping[str, Edge]) -> optax.Schedule:
    """eta(t), t the absolute number of the update; `edges` holds the ancestors.

    Raises:
      ValueError: if the schedule does not fit the branch.
    """
    peak = edge.optimizer.peak_value
    match edge.schedule:
        case Constant(warmup_steps=warmup):
            return schedules.wsd(peak, warmup, edge.end, 0)
        case Cooldown(shape=shape, end_value=end_value):
            begin = peak
            if edge.parent:
                # From the rate that the parent had, so that nothing jumps at the fork.
                begin = float(schedule_of(edges[edge.parent], edges)(edge.start))
            if begin == 0:
                raise ValueError(f"the rate of {edge.parent!r} is 0 at {edge.start}: none is left")
            return schedules.cooldown(begin, edge.start, edge.end - edge.start, shape, end_value)
        case WarmupCosine(warmup_steps=warmup, end_value=end_value):
            return schedules.warmup_cosine(peak, warmup, edge.end, end_value)
    raise TypeError(f"no schedule: {edge.schedule!r}")


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
        program = (repr(edge.model), repr(edge.data), edge.batch_size)
        together.setdefault((edge.parent, edge.start, edge.end, *program), []).append(edge)
    return list(together.values())


# Plans: plain functions that return branches.


def wsd(
    total_steps: int,
    warmup_steps: int,
    decay_steps: int,
    shape: str = "linear",
    end_value: float = 0.0,
) -> dict[str, Branch]:
    """`trunk` and `decay`; along them the rate is ``schedules.wsd`` over `total_steps`."""
    return {
        "trunk": Branch(steps=total_steps - decay_steps, schedule=Constant(warmup_steps)),
        "decay": Branch(steps=decay_steps, parent="trunk", schedule=Cooldown(shape, end_value)),
    }


def cosine(total_steps: int, warmup_steps: int, end_value: float = 0.0) -> dict[str, Branch]:
    """`cosine`, one branch from the initialisation; its rate is ``schedules.warmup_cosine``."""
    return {"cosine": Branch(steps=total_steps, schedule=WarmupCosine(warmup_steps, end_value))}
