"""Seconds that a program must take at least, by what its devices can do."""

from __future__ import annotations

from experiments.devices import Device
from experiments.plan.compiling import Told


def roofline(told: Told, flops: float, rate: float, device: Device) -> tuple[float, dict]:
    """Of one run of a program with so many FLOPs a device, at a rate of operations a second.

    Returns:
      The least, and what it would take for each alone (Williams et al., "Roofline"): its matrix
      `products`, bytes from and to the device's `memory`, and those from other devices over all
      links, `interconnect`. If none goes on beside another it is their sum, `apart`.
    """
    received = sum(each.times * each.received for each in told.collectives)
    seconds = {
        "products": flops / rate,
        "memory": told.memory_bytes / device.bandwidth,
        "interconnect": received / device.links,
    }
    return max(seconds.values()), {**seconds, "apart": sum(seconds.values())}
