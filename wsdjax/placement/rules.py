"""Which mesh axes divide which parameters: one table, and nothing else decides it."""

from __future__ import annotations

import re

from jax.sharding import PartitionSpec

Rules = tuple[tuple[str, tuple[str | None, ...]], ...]

RULES: Rules = ((r"", ()),)
"""Regular expressions of paths, such as `params/layers/mlp/up/kernel` or `opt_state/1/mu/fc1/bias`,
and the mesh axes of the last dimensions of what they are found in, None for one that is whole. The
first that is found counts. So far all is everywhere."""


def spec(rules: Rules, path: str, ndim: int, first: str | None) -> PartitionSpec:
    """How a leaf of `ndim` dimensions is divided; replicates, which come first, by `first`."""
    axes = next((axes for pattern, axes in rules if re.search(pattern, path)), ())
    before = (first, *[None] * ndim)[: ndim - len(axes)] if ndim else ()
    return PartitionSpec(*before, *axes)
