"""Along a lineage: the rate of every update, and what a fork does to rate, data and moments."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from wsdjax.config.kinds import Rate, Span
from wsdjax.tree.branch import ResolvedBranch


def schedule_of(branch: ResolvedBranch, branches: Mapping[str, ResolvedBranch]) -> Rate:
    """eta(t), t the absolute number of the update, or a `ValueError` if the schedule does not fit
    the branch; `branches` holds the ancestors."""
    return branch.schedule.rate(_span(branch, branches))


def _span(branch: ResolvedBranch, branches: Mapping[str, ResolvedBranch]) -> Span:
    inherited = schedule_of(branches[branch.parent], branches) if branch.parent else None
    return Span(
        *(branch.name, branch.parent, branch.start, branch.end, branch.optimizer.peak_value),
        *(inherited, float(inherited(branch.start)) if inherited else 0.0),
    )


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
    span = _span(branch, branches)
    before, after = span.before, branch.schedule.rate_after(span)
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
    jumped = jump(branch, branches)
    return {
        "data": data,
        "optimizer": "reset" if branch.reset_optimizer else "kept",
        "rate": f"jumps from {jumped[0]:.3e} to {jumped[1]:.3e}"
        if jumped
        else f"goes on from {_span(branch, branches).before:.3e}",
    }


def rates(branch: ResolvedBranch, branches: Mapping[str, ResolvedBranch]) -> np.ndarray:
    """float32 [end - start]: the rates of the updates start + 1, ..., end."""
    updates = np.arange(branch.start + 1, branch.end + 1)
    return np.asarray(schedule_of(branch, branches)(updates), np.float32)
