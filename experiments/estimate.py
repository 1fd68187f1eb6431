"""What a run will cost, told before it starts: parameters, tokens, FLOPs, memory."""

from __future__ import annotations

from collections.abc import Mapping

import jax

from wsdjax import tree
from wsdjax.training import cost
from wsdjax.tree.branch import ResolvedBranch


def estimate(branches: Mapping[str, ResolvedBranch]) -> list[str]:
    """Lines of text about the branches that are to be trained.

    The memory is that of the group of siblings that takes most, on each of the devices that are
    here, without what the backward pass makes (`wsdjax.training.cost`); FLOPs are those of
    matrix products.
    """
    if not branches:
        return []
    costs = {name: cost.of_branch(branch) for name, branch in branches.items()}
    updates = {name: branch.end - branch.start for name, branch in branches.items()}
    first = next(iter(branches.values()))
    memory = max(
        costs[group[0].name].bytes_of_device(sum(branch.seeds for branch in group))
        for group in tree.groups(branches)
    )
    flops = sum(branches[name].seeds * updates[name] * costs[name].flops for name in branches)
    names = ", ".join(branches) if len(branches) <= 6 else f"{len(branches)} branches"
    lines = [
        f"{type(first.model).__name__}: {costs[first.name].parameters:,} parameters, "
        f"{first.seeds} seed{'s' if first.seeds > 1 else ''}",
        f"{names}: {sum(updates.values()):,} updates of {first.batch_size:,} "
        + _examples(branches, updates),
        f"about {flops:.2g} FLOPs, and at least {memory / 2**30:.2g} GiB of each device's memory",
    ]
    if first.accumulate > 1:
        lines[1] += f", in {first.accumulate} micro-batches"
    if getattr(first.model, "attention", "") == "fused" and jax.default_backend() == "cpu":
        lines[2] += " with plain attention"
    missing = dict.fromkeys(branch.data.not_there() for branch in branches.values())
    return lines + [f"not there yet: {why}" for why in missing if why]


def _examples(branches: Mapping[str, ResolvedBranch], updates: Mapping[str, int]) -> str:
    first = next(iter(branches.values()))
    if first.data.unit == "images":
        return "images"
    count = sum(
        branch.seeds * updates[name] * branch.batch_size * branch.data.units
        for name, branch in branches.items()
    )
    return f"x {first.data.units:,} tokens, {count:.3g} tokens in all"
