"""The cost of a run, told before it starts: parameters, tokens, FLOPs, memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax

from wsdjax import tree
from wsdjax.config import Mesh
from wsdjax.placement import mesh
from wsdjax.training import cost
from wsdjax.tree.branch import ResolvedBranch


def estimate(branches: Mapping[str, ResolvedBranch], asked: Mesh | None = None) -> list[str]:
    """Lines of text about the branches that are to be trained, on devices shared as `asked`.

    The memory is that of the group of siblings that takes most, on each of the devices that are
    here, without what the backward pass makes (`wsdjax.training.cost`); FLOPs are those of
    matrix products.
    """
    if not branches:
        return []
    first, updates, flops, count = next(iter(branches.values())), 0, 0, 0
    for branch in branches.values():
        updates += branch.end - branch.start
        replicated = branch.seeds * (branch.end - branch.start)
        flops += replicated * cost.of_branch(branch).flops
        count += replicated * branch.batch_size * branch.data.units
    memory = max(
        cost.of_branch(group[0]).bytes_of_device(*_shared(group, asked or Mesh()))
        for group in tree.groups(branches)
    )
    names = ", ".join(branches) if len(branches) <= 6 else f"{len(branches)} branches"
    plain = getattr(first.model, "attention", "") == "fused" and jax.default_backend() == "cpu"
    missing = dict.fromkeys(branch.data.not_there() for branch in branches.values())
    return [
        model_of(first),
        f"{names}: {updates:,} updates of {batch_of(first)}, {count:.3g} {first.data.unit} in all",
        f"about {flops:.2g} FLOPs, and at least {memory / 2**30:.2g} GiB of each device's memory"
        + (" with plain attention" if plain else ""),
        *(f"not there yet: {why}" for why in missing if why),
    ]


def _shared(group: Sequence[ResolvedBranch], asked: Mesh) -> tuple[int, mesh.Shape]:
    """(siblings' replicates, how the devices share them)."""
    replicates = sum(branch.seeds for branch in group)
    return replicates, mesh.shape(asked, group[0].model, replicates, jax.device_count())


def model_of(branch: ResolvedBranch) -> str:
    """A branch's model and replicates in words."""
    kind, compute = type(branch.model).__name__, getattr(branch.model, "compute", "float32")
    parameters, seeds = cost.of_branch(branch).parameters, branch.seeds
    said = f"{kind}: {parameters:,} parameters, computed in {compute}"
    return f"{said}, {seeds} seed{'s' * (seeds > 1)}"


def batch_of(branch: ResolvedBranch) -> str:
    """A replicate's batch in words, such as "8 x 16 tokens in 2 micro-batches"."""
    each = f" x {branch.data.units:,}" if branch.data.units > 1 else ""
    parts = f" in {branch.accumulate} micro-batches" if branch.accumulate > 1 else ""
    return f"{branch.batch_size:,}{each} {branch.data.unit}{parts}"
