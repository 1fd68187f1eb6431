"""Along a lineage: the rate of every update, and what a fork does to rate, data and moments."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import optax

from wsdjax import schedules
from wsdjax.config import Constant, Continued, Cooldown, Hold, InverseSqrt, Rewarm, WarmupCosine
from wsdjax.schedules.cooldowns import factor_of
from wsdjax.tree.branch import ResolvedBranch


def schedule_of(branch: ResolvedBranch, branches: Mapping[str, ResolvedBranch]) -> optax.Schedule:
    """eta(t), t the absolute number of the update; `branches` holds the ancestors.

    Raises:
      ValueError: if the schedule does not fit the branch.
    """
    peak = branch.optimizer.peak_value
    steps = branch.end - branch.start
    match branch.schedule:
        case Constant(warmup_steps=int(warmup)):
            if warmup > branch.end:
                raise ValueError(
                    f"warmup_steps={warmup} is longer than the branch, which ends at {branch.end}"
                )
            return schedules.constant(peak, warmup)
        case InverseSqrt(warmup_steps=int(warmup), timescale=timescale):
            return schedules.inverse_sqrt(peak, warmup, branch.end, 0, timescale)
        case WarmupCosine(warmup_steps=int(warmup), end_value=end_value):
            return schedules.warmup_cosine(peak, warmup, branch.end, end_value)
        case Continued():
            if not branch.parent:
                raise ValueError(
                    f"Continued goes on with its parent's, and {branch.name} has no parent"
                )
            return schedule_of(branches[branch.parent], branches)
        case Hold():
            if not branch.parent:
                raise ValueError(f"Hold keeps its parent's rate, and {branch.name} has no parent")
            return schedules.constant(_rate_left(branch, branches))
        case Cooldown(shape=shape, end_value=end_value):
            begin = _rate_left(branch, branches) if branch.parent else peak
            return schedules.cooldown(begin, branch.start, steps, shape, end_value)
        case Rewarm(warmup_steps=int(warmup), shape=shape, end_value=end_value):
            begin = rate_at_fork(branch, branches)
            return schedules.rewarm(begin, peak, branch.start, warmup, branch.end, shape, end_value)
    raise TypeError(f"no schedule: {branch.schedule!r}")


def rate_at_fork(branch: ResolvedBranch, branches: Mapping[str, ResolvedBranch]) -> float:
    """The rate of the parent's update number `branch.start`; 0 for a root."""
    return (
        float(schedule_of(branches[branch.parent], branches)(branch.start))
        if branch.parent
        else 0.0
    )


def _rate_left(branch: ResolvedBranch, branches: Mapping[str, ResolvedBranch]) -> float:
    rate = rate_at_fork(branch, branches)
    if rate == 0:
        raise ValueError(
            f"the rate of {branch.parent!r} is 0 at {branch.start}: none is left to go on from; "
            "use Constant or Rewarm, or fork from where it is above 0"
        )
    return rate


def jump(
    branch: ResolvedBranch, branches: Mapping[str, ResolvedBranch]
) -> tuple[float, float] | None:
    """(the parent's rate at the fork, the rate that the branch begins with) where the two are
    not one: by design, as when WSD-S goes back to the peak. None if nothing jumps.

    A schedule is a function of a real t; what counts is its limit just after the fork, so that
    a cooldown whose first step is steep is no jump.
    """
    if not branch.parent:
        return None
    before = rate_at_fork(branch, branches)
    match branch.schedule:
        case Cooldown(shape=shape, end_value=end_value):
            after = before * float(factor_of(shape, end_value)(1e-300, end_value / before))
        case _:
            just_after = branch.start + 4 * np.spacing(float(branch.start))
            after = float(schedule_of(branch, branches)(just_after))
    least = max(1e-3 * max(after, before), 1e-9 * branch.optimizer.peak_value)
    return (before, after) if abs(after - before) > least else None


def at_the_fork(branch: ResolvedBranch, branches: Mapping[str, ResolvedBranch]) -> dict[str, str]:
    """In words: what becomes of the data, of the optimizer's state and of the rate; {} for a
    root."""
    if not branch.parent:
        return {}
    parent = branches[branch.parent]
    if branch.data != parent.data:
        data = f"another data set, seed {branch.data_seed}: {branch.data}"
    elif (branch.data_seed, branch.data_start) != (parent.data_seed, parent.data_start):
        data = f"fresh: a new stream, seed {branch.data_seed}"
    else:
        data = "continue: the batches that the parent would have seen"
    rate = rate_at_fork(branch, branches)
    jumped = jump(branch, branches)
    return {
        "data": data,
        "optimizer": "reset" if branch.reset_optimizer else "kept",
        "rate": f"jumps from {jumped[0]:.3e} to {jumped[1]:.3e}"
        if jumped
        else f"goes on from {rate:.3e}",
    }


def rates(branch: ResolvedBranch, branches: Mapping[str, ResolvedBranch]) -> np.ndarray:
    """float32 [end - start]: the rates of the updates start + 1, ..., end."""
    updates = np.arange(branch.start + 1, branch.end + 1)
    return np.asarray(schedule_of(branch, branches)(updates), np.float32)
