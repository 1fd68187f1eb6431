"""Along a lineage: the rate of every update, and what a fork does to rate, data and moments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import optax

from wsdjax import schedules
from wsdjax.config import Constant, Continued, Cooldown, Hold, InverseSqrt, Rewarm, WarmupCosine
from wsdjax.schedules.cooldowns import factor_of
from wsdjax.training import optim
from wsdjax.training.optim import Hyper
from wsdjax.tree.branch import Edge


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
            return schedules.constant(peak, warmup)
        case InverseSqrt(warmup_steps=int(warmup), timescale=timescale):
            return schedules.inverse_sqrt(peak, warmup, edge.end, 0, timescale)
        case WarmupCosine(warmup_steps=int(warmup), end_value=end_value):
            return schedules.warmup_cosine(peak, warmup, edge.end, end_value)
        case Continued():
            if not edge.parent:
                raise ValueError(
                    f"Continued goes on with its parent's, and {edge.name} has no parent"
                )
            return schedule_of(edges[edge.parent], edges)
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
        raise ValueError(
            f"the rate of {edge.parent!r} is 0 at {edge.start}: none is left to go on from; use "
            "Constant or Rewarm, or fork from where it is above 0"
        )
    return rate


def jump(edge: Edge, edges: Mapping[str, Edge]) -> tuple[float, float] | None:
    """(the parent's rate at the fork, the rate that the branch begins with) where the two are
    not one: by design, as when WSD-S goes back to the peak. None if nothing jumps.

    A schedule is a function of a real t; what counts is its limit just after the fork, so that
    a cooldown whose first step is steep is no jump.
    """
    if not edge.parent:
        return None
    before = rate_at_fork(edge, edges)
    match edge.schedule:
        case Cooldown(shape=shape, end_value=end_value):
            after = before * float(factor_of(shape, end_value)(1e-300, end_value / before))
        case _:
            just_after = edge.start + 4 * np.spacing(float(edge.start))
            after = float(schedule_of(edge, edges)(just_after))
    least = max(1e-3 * max(after, before), 1e-9 * edge.optimizer.peak_value)
    return (before, after) if abs(after - before) > least else None


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


def hyper_table(group: Sequence[Edge], edges: Mapping[str, Edge]) -> Hyper:
    """Leaves float32 [T, R]: the hyperparameters of every update of every replicate of siblings."""
    columns = []
    for edge in group:
        fixed = optim.hyper(edge.optimizer)
        table = fixed._replace(rate=rates(edge, edges))
        columns += [table] * edge.seeds
    length = len(columns[0].rate)
    return Hyper(
        *[
            np.stack([np.broadcast_to(value, (length,)) for value in values], axis=1)
            for values in zip(*columns, strict=True)
        ]
    )
