"""Devices: one mesh with an axis for replicates and one for the examples of a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


@dataclass(frozen=True)
class Shardings:
    """Where things live. State is created, restored and stepped with these and no others,
    since a jitted function compiles anew for another placement of its arguments."""

    replicates: NamedSharding
    """Leaves [R, ...], spread over replicates."""
    batch: NamedSharding
    """Leaves [R, B, ...], spread over replicates and over examples."""
    everywhere: NamedSharding
    """Scalars and evaluation batches."""


def shape(replicates: int) -> tuple[int, int]:
    """How many devices share the replicates, and how many each batch: as many as divide the
    replicates, and the others."""
    along = math.gcd(replicates, jax.device_count())
    return along, jax.device_count() // along


def shardings(replicates: int, batch_size: int, accumulate: int = 1) -> Shardings:
    """All devices, spread over replicates and batches.

    Raises:
      ValueError: if a batch, or each of its `accumulate` micro-batches, cannot be divided among
        the devices that are left for it.
    """
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
    return _shardings(mesh)


def _shardings(mesh: Mesh) -> Shardings:
    def spec(*axes):
        return NamedSharding(mesh, PartitionSpec(*axes))

    return Shardings(spec("replicate"), spec("replicate", "data"), spec())
