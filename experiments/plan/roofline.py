"""Seconds that a program must take at least, by what its devices can do."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.devices import Device
from experiments.plan.compiling import Compiled


@dataclass(frozen=True)
class Roofline:
    """Seconds of one run if each of the three were all that it does (Williams et al.,
    "Roofline")."""

    products: float
    """Matrix products at the device's peak."""
    memory: float
    """Bytes from and to the device's memory, at its bandwidth."""
    interconnect: float
    """Bytes from other devices, over all links."""

    @property
    def least(self) -> float:
        """Where all three go on beside each other."""
        return max(self.products, self.memory, self.interconnect)

    @property
    def apart(self) -> float:
        """Where nothing does."""
        return self.products + self.memory + self.interconnect


def roofline(found: Compiled, flops: float, rate: float, device: Device) -> Roofline:
    """Of a program with so many FLOPs a device, at a rate of operations a second."""
    received = sum(each.times * each.received for each in found.collectives)
    return Roofline(flops / rate, found.memory_bytes / device.bandwidth, received / device.links)


def compilers_seconds(found: Compiled, device: Device) -> float | None:
    """By the compiler's own estimate of its fusions; None where it gives none."""
    if found.cycles is None or device.clock is None:
        return None
    return found.cycles / device.clock
