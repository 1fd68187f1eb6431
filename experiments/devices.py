"""What devices can do, by their makers: one table, for what is measured and for what is planned."""

from __future__ import annotations

from dataclasses import dataclass

_GIB = 2**30


@dataclass(frozen=True)
class Device:
    """What JAX calls one device. Rates are a second's, dense, of the SXM modules of NVIDIA's."""

    kind: str
    """Found in JAX's `device_kind`."""
    peak: float
    """bfloat16 operations."""
    float32: float
    """Operations of float32 products at JAX's default precision, which on a TPU rounds operands
    to bfloat16 and on NVIDIA's to TF32."""
    highest: float
    """The same at the highest precision, as curvature has it: six passes of bfloat16 on a TPU."""
    memory: float
    """Bytes that a program may use: of a TPU what its compiler says when it refuses one, of
    NVIDIA's the three quarters of the whole that JAX takes unless XLA_PYTHON_CLIENT_MEM_FRACTION
    says otherwise."""
    bandwidth: float
    """Bytes from or to its memory."""
    links: float
    """Bytes that it receives from the other devices over all its links, of which a ring along one
    axis of a torus has two."""
    clock: float | None = None
    """Cycles of a TPU's cores."""


def _tpu(
    kind: str, tera: float, gib: float, memory: float, links: float, clock: float | None
) -> Device:
    return Device(kind, tera * 1e12, tera * 1e12, tera * 1e12 / 6, gib * _GIB, memory, links, clock)


def _nvidia(
    kind: str, tera: float, tf32: float, float32: float, gib: float, memory: float, links: float
) -> Device:
    rates = tera * 1e12, tf32 * 1e12, float32 * 1e12
    return Device(kind, *rates, 0.75 * gib * _GIB, memory, links)


DEVICES = (
    # NVIDIA's data sheets of the A100 80GB, the H100 and the H200 (SXM); NVLink's total counts both
    # directions. Memory as the driver of each reports it.
    _nvidia("A100", 312, 156, 19.5, 79.3, 2.039e12, 300e9),
    _nvidia("H100", 989, 494.7, 67, 79.11, 3.35e12, 450e9),
    _nvidia("H200", 989, 494.7, 67, 140.4, 4.8e12, 450e9),
    # TPU v2, v3: Jouppi et al., "A Domain-Specific Supercomputer for Training Deep Neural
    # Networks", CACM 63(7), 2020: of a chip 46 and 123 TFLOPS, 700 and 900 GB/s, four links of 496
    # and 656 Gbit/s each way, 700 and 940 MHz. A chip is two devices.
    _tpu("TPU v2", 23, 7.48, 350e9, 124e9, 0.7e9),
    _tpu("TPU v3", 61.5, 15.48, 450e9, 164e9, 0.94e9),
    # TPU v4: Jouppi et al., "TPU v4", ISCA 2023: six links of 50 GB/s, 1,050 MHz.
    _tpu("TPU v4", 275, 30.75, 1.2e12, 300e9, 1.05e9),
    # docs.cloud.google.com/tpu/docs/{v5e,v5p,v6e}: 400, 1,200 and 800 GB/s of links, both
    # directions together; the clocks follow from the peaks, and four and eight matrix units of
    # 128 x 128.
    _tpu("TPU v5 lite", 197, 15.75, 819e9, 200e9, 1.5e9),
    _tpu("TPU v5", 459, 95.74, 2.765e12, 600e9, 1.75e9),
    _tpu("TPU v6 lite", 918, 31.25, 1.64e12, 400e9, None),
)


def known(device_kind: str) -> Device | None:
    """The row of what JAX calls so; None if there is none."""
    return next((device for device in DEVICES if device.kind in device_kind), None)
