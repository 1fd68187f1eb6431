"""Seconds that a program must take at least, by what its devices can do."""

from __future__ import annotations

from experiments.devices import Device
from experiments.plan.compiling import Told


def roofline(told: Told, flops: float, rate: float, device: Device) -> dict[str, float]:
    """Of a program with so many FLOPs a device, at a rate of operations a second: seconds of one
    run if each were all that it does (Williams et al., "Roofline").

    They are of its matrix `products`; of bytes from and to the device's `memory`; of those from
    other devices over all links, `interconnect`; and the sum, where none goes on beside another,
    `apart`. The least that it takes is the largest of the three.
    """
    received = sum(each.times * each.received for each in told.collectives)
    seconds = {
        "products": flops / rate,
        "memory": told.memory_bytes / device.bandwidth,
        "interconnect": received / device.links,
    }
    return {**seconds, "apart": sum(seconds.values())}


def least(seconds: dict[str, float]) -> float:
    """Where all three go on beside each other."""
    return max(seconds["products"], seconds["memory"], seconds["interconnect"])


def compilers_seconds(told: Told, device: Device | None) -> float | None:
    """By the compiler's own estimate of its fusions; None where it gives none."""
    if told.cycles is None or device is None or device.clock is None:
        return None
    return told.cycles / device.clock
