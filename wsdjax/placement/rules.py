"""Which mesh axes divide which parameters: one table, and nothing else decides it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from jax.sharding import PartitionSpec

RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"embedding$", (None, "fsdp")),
    (r"kernel$", ("fsdp", None)),
    (r"", ()),
)
"""Regular expressions of paths, such as `params/layers/mlp/up/kernel` or `opt_state/1/mu/fc1/bias`,
and the mesh axes of the last dimensions of what they are found in, None for one that is whole. The
first that is found counts. Moments and averages have their parameter's name, and so its rule.
Biases and gains are whole everywhere: they are a thousandth of a model."""


def spec(
    path: str, shape: tuple[int, ...], sizes: Mapping[str, int], first: str | None = None
) -> PartitionSpec:
    """How a leaf of this shape is divided; replicates, which come first, by `first`. A dimension
    that the devices of an axis, of which there are `sizes`, do not divide evenly stays whole."""
    axes = next((axes for pattern, axes in RULES if re.search(pattern, path)), ())
    axes = tuple(
        axis if axis is None or (sizes[axis] > 1 and size % sizes[axis] == 0) else None
        for axis, size in zip(axes, shape[len(shape) - len(axes) :], strict=True)
    )
    before = (first, *[None] * len(shape))[: len(shape) - len(axes)] if shape else ()
    return PartitionSpec(*before, *axes)
