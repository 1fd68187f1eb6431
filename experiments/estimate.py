"""What a run will cost, told before it starts: parameters, tokens, FLOPs, memory."""

from __future__ import annotations

from collections.abc import Mapping

import jax

from wsdjax import tree
from wsdjax.data.tokens import NotPrepared
from wsdjax.training import cost
from wsdjax.tree.branch import Edge


def estimate(edges: Mapping[str, Edge]) -> list[str]:
    """Lines of text about the branches that are to be trained.

    The memory is that of the group of siblings that takes most, on each of the devices that are
    here, without what the backward pass makes (`wsdjax.training.cost`); FLOPs are those of
    matrix products.
    """
    if not edges:
        return []
    costs = {name: cost.of_branch(edge) for name, edge in edges.items()}
    updates = {name: edge.end - edge.start for name, edge in edges.items()}
    first = next(iter(edges.values()))
    memory = max(
        costs[group[0].name].bytes_of_device(sum(edge.seeds for edge in group))
        for group in tree.groups(edges)
    )
    flops = sum(edges[name].seeds * updates[name] * costs[name].flops for name in edges)
    names = ", ".join(edges) if len(edges) <= 6 else f"{len(edges)} branches"
    lines = [
        f"{type(first.model).__name__}: {costs[first.name].parameters:,} parameters, "
        f"{first.seeds} seed{'s' if first.seeds > 1 else ''}",
        f"{names}: {sum(updates.values()):,} updates of {first.batch_size:,} "
        + _examples(edges, updates),
        f"about {flops:.2g} FLOPs, and at least {memory / 2**30:.2g} GiB of each device's memory",
    ]
    if first.accumulate > 1:
        lines[1] += f", in {first.accumulate} micro-batches"
    if getattr(first.model, "attention", "") == "fused" and jax.default_backend() == "cpu":
        lines[2] += " with plain attention"
    for data in {repr(edge.data): edge.data for edge in edges.values()}.values():
        try:
            data.facts()
        except NotPrepared as error:
            lines.append(f"not there yet: {error}")
    return lines


def _examples(edges: Mapping[str, Edge], updates: Mapping[str, int]) -> str:
    first = next(iter(edges.values()))
    if first.data.unit == "images":
        return "images"
    count = sum(
        edge.seeds * updates[name] * edge.batch_size * edge.data.units
        for name, edge in edges.items()
    )
    return f"x {first.data.units:,} tokens, {count:.3g} tokens in all"
