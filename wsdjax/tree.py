"""The tree of a config, resolved: where each branch starts, ends, and which rates it uses."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

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
    Overrides,
    WarmupCosine,
    to_json,
)


@dataclass(frozen=True)
class Edge:
    """One branch, with everything that it inherits made explicit."""

    name: str
    parent: str
    """Empty for a root."""
    start: int
    """Completed updates at the fork."""
    end: int
    optimizer: AdamW
    schedule: optax.Schedule
    """eta(t), t the absolute number of the update."""
    branch: Branch

    def rates(self) -> np.ndarray:
        """float32 [end - start]: the rates of the updates start + 1, ..., end."""
        return np.asarray(self.schedule(np.arange(self.start + 1, self.end + 1)), np.float32)

    def meaning(self, experiment: Experiment) -> dict:
        """What decides this branch's numbers, as JSON; how it is watched is left out."""
        shared = {name: getattr(experiment, name) for name in ("model", "data", "batch_size")}
        return to_json(
            {
                "parent": self.parent,
                "start": self.start,
                "end": self.end,
                "schedule": self.branch.schedule,
                "optimizer": self.optimizer,
                **shared,
                "seed": experiment.seed,
                "seeds": experiment.seeds,
            }
        )


def resolve(experiment: Experiment) -> dict[str, Edge]:
    """The edges of the tree by name, parents before their children.

    Raises:
      ConfigError: for a parent that does not exist, a cycle, a fork outside its parent, or a
        schedule that does not fit its branch.
    """
    edges: dict[str, Edge] = {}
    waiting = dict(experiment.tree)
    while waiting:
        ready = [n for n, b in waiting.items() if _parent(b)[0] in ("", *edges)]
        if not ready:
            name = next(iter(waiting))
            parent = _parent(waiting[name])[0]
            why = "is its own ancestor" if parent in experiment.tree else "does not exist"
            known = ", ".join(experiment.tree)
            raise ConfigError(
                f"tree.{name}.parent = {waiting[name].parent!r}: {parent!r} {why}; "
                f"the branches are {known}"
            )
        for name in ready:
            edges[name] = _edge(name, waiting.pop(name), edges, experiment)
    return edges


def groups(edges: dict[str, Edge]) -> list[list[Edge]]:
    """The edges that train together, in an order in which parents come first.

    Branches that fork at the same node and are equally long differ in arrays only, so they
    are replicates of one program.
    """
    together: dict[tuple, list[Edge]] = {}
    for edge in edges.values():
        together.setdefault((edge.parent, edge.start, edge.end), []).append(edge)
    return list(together.values())


def _parent(branch: Branch) -> tuple[str, str]:
    name, _, step = branch.parent.partition("@")
    return name, step


def _edge(name: str, branch: Branch, edges: dict[str, Edge], experiment: Experiment) -> Edge:
    parent_name, step = _parent(branch)
    parent = edges.get(parent_name)
    start = 0
    if parent:
        start = parent.end
        if step:
            if not step.isdecimal() or not parent.start < int(step) <= parent.end:
                raise ConfigError(
                    f"tree.{name}.parent = {branch.parent!r}: {parent_name} has the steps "
                    f"{parent.start + 1} to {parent.end}"
                )
            start = int(step)
    changed = {k: v for k, v in dataclasses.asdict(branch.optimizer).items() if v is not None}
    optimizer = dataclasses.replace(parent.optimizer if parent else experiment.optimizer, **changed)
    end = start + branch.steps
    try:
        schedule = _schedule(branch, optimizer.peak_value, start, end, parent)
    except ValueError as error:
        raise ConfigError(f"tree.{name}.schedule: {error}") from None
    return Edge(name, parent_name, start, end, optimizer, schedule, branch)


def _schedule(
    branch: Branch, peak: float, start: int, end: int, parent: Edge | None
) -> optax.Schedule:
    match branch.schedule:
        case Constant(warmup_steps=warmup):
            return schedules.wsd(peak, warmup, end, 0)
        case Cooldown(shape=shape, end_value=end_value):
            # From the rate the parent had, so that nothing jumps at the fork.
            begin = float(parent.schedule(start)) if parent else peak
            if begin == 0:
                raise ValueError(f"{branch.parent!r} ends with the rate 0: no cooldown can follow")
            return schedules.cooldown(begin, start, end - start, shape, end_value)
        case WarmupCosine(warmup_steps=warmup, end_value=end_value):
            return schedules.warmup_cosine(peak, warmup, end, end_value)
    raise TypeError(f"no schedule: {branch.schedule!r}")


# Plans: plain functions that return branches.


def wsd(total_steps: int, warmup_steps: int, decay_steps: int, **cooldown) -> dict[str, Branch]:
    """`trunk` and `decay`, whose lineage is ``schedules.wsd`` over `total_steps`.

    `cooldown` are fields of `Cooldown`: `shape`, `end_value`.
    """
    return {
        "trunk": Branch(steps=total_steps - decay_steps, schedule=Constant(warmup_steps)),
        "decay": Branch(steps=decay_steps, parent="trunk", schedule=Cooldown(**cooldown)),
    }


def cosine(total_steps: int, warmup_steps: int, end_value: float = 0.0) -> dict[str, Branch]:
    """`cosine`, a branch of its own from the initialisation."""
    return {"cosine": Branch(steps=total_steps, schedule=WarmupCosine(warmup_steps, end_value))}


__all__ = ["Edge", "Overrides", "cosine", "groups", "resolve", "wsd"]
