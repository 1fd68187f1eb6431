"""Which weights a program gathers at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax

from experiments.plan import programs
from experiments.plan.programs import Group
from experiments.plan.traffic import GATHER_BY_SUM, Collective, dimensions
from wsdjax import models
from wsdjax.models.layers import STACK
from wsdjax.placement.mesh import Shardings


class Gather(NamedTuple):
    """The largest of a program's gathers."""

    bytes: int
    of: list[str]
    """The parameters that have its shapes."""
    a_layer: bool
    """Whether it has no more numbers than the weights of one layer, or than the embedding or the
    head."""


def largest(found: Sequence[Collective], group: Group, placed: Shardings) -> Gather | None:
    """Of a program's collectives; None where nothing is gathered."""
    gathers = [each for each in found if each.kind in ("all-gather", GATHER_BY_SUM)]
    if not gathers:
        return None
    shapes = jax.eval_shape(models.build(group[0].model).init, jax.random.key(0))
    together = programs.replicates(group) // placed.mesh.shape["replica"]
    parameters: dict[str, tuple[int, ...]] = {}
    parts: dict[str, int] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        stacked = name.startswith(f"{STACK}/")
        shape = leaf.shape[1:] if stacked else leaf.shape
        parameters[name] = shape
        part = STACK if stacked else name.partition("/")[0]
        parts[part] = parts.get(part, 0) + together * math.prod(shape)
    most = max(gathers, key=lambda each: each.bytes)
    numbers = max(map(_numbers, gathers))
    names = [name for name, shape in parameters.items() if _is_of(most, shape, together)]
    return Gather(most.bytes, names, numbers <= max(parts.values()))


def _numbers(gather: Collective) -> int:
    times = gather.group if gather.kind == "all-gather" else 1
    return times * sum(math.prod(shape) for _, shape in gather.shapes)


def _is_of(gather: Collective, shape: tuple[int, ...], together: int) -> bool:
    """Whether one of the arrays that are gathered is a device's part of such a parameter."""
    whole = (together, *shape)
    if gather.kind == GATHER_BY_SUM:
        parts = [whole]
    else:
        parts = [
            (*whole[:axis], size // gather.group, *whole[axis + 1 :])
            for axis, size in enumerate(whole)
            if size % gather.group == 0
        ]
    wanted = {dimensions(part) for part in parts}
    return any(dimensions(taken) in wanted for _, taken in gather.shapes)
