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


def shardings(replicates: int, batch_size: int) -> Shardings:
    """All devices: as many along the replicates as divide them, the others along the batch.

    Raises:
      ValueError: if the batch cannot be divided among the devices that are left for it.
    """
    devices = jax.device_count()
    along = math.gcd(replicates, devices)
    if batch_size % (devices // along):
        raise ValueError(
            f"batch_size = {batch_size}: must be a multiple of {devices // along}, since "
            f"{replicates} replicates on {devices} devices leave that many for each batch"
        )
    # Explicit axes, the default, are refused by embedding look-ups.
    mesh = jax.make_mesh(
        (along, devices // along), ("replicate", "data"), axis_types=(AxisType.Auto,) * 2
    )
    return _shardings(mesh)


def _shardings(mesh: Mesh) -> Shardings:
    def spec(*axes):
        return NamedSharding(mesh, PartitionSpec(*axes))

    return Shardings(spec("replicate"), spec("replicate", "data"), spec())
