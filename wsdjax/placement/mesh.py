"""Devices: one mesh with an axis for replicates and one for the examples of a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from wsdjax.placement import rules


@dataclass(frozen=True)
class Shardings:
    """Where things live. State is created, restored and stepped with `of` and no others,
    since a jitted function compiles anew for another placement of its arguments."""

    replicates: NamedSharding
    """Leaves of which each replicate has one, [R]."""
    batch: NamedSharding
    """Leaves [R, B, ...], spread over replicates and over examples."""
    everywhere: NamedSharding
    """Evaluation batches."""
    rules: rules.Rules

    def of(self, state: Any, divide_replicates: bool = True) -> Any:
        """A sharding for each leaf of a state, or of what is like one: arrays or their shapes.
        Too few replicates are not divided."""
        first = "replicate" if divide_replicates else None

        def sharding(path: jax.tree_util.KeyPath, leaf: Any) -> NamedSharding:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            return NamedSharding(
                self.replicates.mesh, rules.spec(self.rules, name, leaf.ndim, first)
            )

        return jax.tree.map_with_path(sharding, state)


def shape(replicates: int) -> tuple[int, int]:
    """How many devices share the replicates, and how many each batch: as many as divide the
    replicates, and the others."""
    along = math.gcd(replicates, jax.device_count())
    return along, jax.device_count() // along


def shardings(replicates: int, batch_size: int, accumulate: int = 1) -> Shardings:
    """All devices, spread over replicates and batches; a `ValueError` if a batch, or each of its
    `accumulate` micro-batches, cannot be divided among the devices that are left for it."""
    along, left = shape(replicates)
    if batch_size % (left * accumulate):
        parts = f" in {accumulate} micro-batches" if accumulate > 1 else ""
        raise ValueError(
            f"batch_size = {batch_size}: must be a multiple of {left * accumulate}, since "
            f"{replicates} replicates on {jax.device_count()} devices leave {left} for each "
            f"batch{parts}"
        )
    # Explicit axes, the default, are refused by embedding look-ups.
    mesh = jax.make_mesh((along, left), ("replicate", "data"), axis_types=(AxisType.Auto,) * 2)
    specs = PartitionSpec("replicate"), PartitionSpec("replicate", "data"), PartitionSpec()
    replicate, batch, everywhere = (NamedSharding(mesh, spec) for spec in specs)
    return Shardings(replicate, batch, everywhere, rules.RULES)
