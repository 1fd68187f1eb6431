"""Devices that are not here, by name, and which compiler speaks for them."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import jax
from jax.experimental import topologies

from experiments.devices import Device, known
from experiments.plan.targets import TARGETS
from wsdjax import memory
from wsdjax.errors import ConfigError
from wsdjax.wording import near, shortened

FORMS = "v5e:16x16, v3:8x16, v2:4x4, v4:4x4x4, v5p:4x4x4, v6e:16x16 (chips), h100:8, h200 or cpu:8"


@dataclass(frozen=True)
class _Tpu:
    kind: str
    a_chip: int = 1
    """What JAX calls devices, of one chip."""
    dimensions: int = 2
    options: tuple[tuple[str, Any], ...] = ()


_TPUS = {
    "v2": _Tpu("TPU v2", 2),
    "v3": _Tpu("TPU v3", 2),
    "v4": _Tpu("TPU v4", 1, 3, (("chip_config_name", "megacore"),)),
    "v5e": _Tpu("TPU v5 lite"),
    "v5p": _Tpu("TPU v5", 1, 3),
    "v6e": _Tpu("TPU v6 lite"),
}
"""Of v4 JAX takes the two cores of a chip for one device, unless told otherwise."""


@dataclass(frozen=True)
class Topology:
    name: str
    devices: Sequence[jax.Device]
    kind: str
    """JAX's `device_kind`, of the device that is meant."""
    compiler: str
    """In words; what speaks for the device that is meant, or stands in for it."""
    simulated: bool
    """Whether the compiler is the CPU's."""
    memory: float
    """Bytes of each device that a program may use."""
    row: Device | None
    """What it can do; None for CPUs."""


def topology(name: str) -> Topology:
    """The devices of a name such as `FORMS` has.

    Raises:
      ConfigError: for a name or a shape that does not exist.
    """
    kind, _, shape = name.partition(":")
    ours = f"XLA for CPUs, jaxlib {_version('jaxlib')}, on "
    if kind == "cpu":
        cpus = _cpus(_count(name, shape))
        each = memory.of_machine() / len(cpus)
        return Topology(name, cpus, "cpu", f"{ours}simulated devices", True, each, None)
    if kind in TARGETS:
        extra, lacks, count = "gpu", "CUDA", _count(name, shape or "1")
        row, found = known(kind.upper()), _gpus(kind, count)
    elif kind in _TPUS:
        extra, lacks, sides = "tpu", "libtpu", _sides(name, kind, shape)
        count, row = math.prod(sides) * _TPUS[kind].a_chip, known(_TPUS[kind].kind)
        found = _tpus(name, kind, sides)
    else:
        meant = near(kind, [*_TPUS, *TARGETS, "cpu"]) or ""
        raise ConfigError(f"--devices={shortened(name)}: no such devices{meant}; write {FORMS}")
    assert row is not None
    if found is not None:
        devices, have = found
        return Topology(name, devices, devices[0].device_kind, have, False, row.memory, row)
    have = (
        f"{ours}as many simulated devices, since there is no {lacks} here (pip install "
        f'"wsdjax[{extra}]"): its memory and its fusions are others'
    )
    return Topology(name, _cpus(count), row.kind, have, True, row.memory, row)


def _sides(name: str, kind: str, shape: str) -> list[int]:
    sides = [int(side) for side in shape.split("x")] if re.fullmatch(r"\d+(x\d+)+", shape) else []
    if not 2 <= len(sides) <= 3 or min(sides) < 1 or math.prod(sides) > 2**16:
        example = "x".join(["4"] * _TPUS[kind].dimensions)
        raise ConfigError(
            f"--devices={shortened(name)}: a TPU's are so many chips a side, {kind}:{example}"
        )
    if odd := [side for side in sides if side & (side - 1) and side % 4]:
        raise ConfigError(
            f"--devices={shortened(name)}: no TPU has {odd[0]} chips a side, but 1, 2, 4, 8, ..."
        )
    return sides


def _tpus(name: str, kind: str, sides: list[int]) -> tuple[Sequence[Any], str] | None:
    """Devices, and their compiler; None without it."""
    if not importlib.util.find_spec("libtpu"):
        return None
    options = dict(_TPUS[kind].options)
    if math.prod(sides) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        found = topologies.get_topology_desc(name, "tpu", **options).devices
    except (jax.errors.JaxRuntimeError, ValueError, NotImplementedError) as error:
        said = str(error).partition("\n")[0].replace("INVALID_ARGUMENT: ", "")
        raise ConfigError(
            f"--devices={shortened(name)}: the TPU's compiler knows no such topology: "
            f"{shortened(said, 200)}; write {FORMS}"
        ) from None
    return found, f"the TPU's own, libtpu {_version('libtpu')} with jax {jax.__version__}"


def _gpus(kind: str, count: int) -> tuple[Sequence[Any], str] | None:
    plugins = [n for n in (13, 12) if importlib.util.find_spec(f"jax_cuda{n}_plugin")]
    if not plugins:
        return None
    plugin = f"jax-cuda{plugins[0]}-plugin"
    found = topologies.get_topology_desc(
        "", "cuda", target_config=TARGETS[kind], topology=f"1x1x{count}"
    ).devices
    return found, f"the GPU's own, {plugin} {_version(plugin)}"


def _cpus(count: int) -> Sequence[jax.Device]:
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:  # there are some already
        if jax.local_device_count("cpu") < count:
            raise ConfigError(
                f"{count} simulated devices: this process has {jax.local_device_count('cpu')} "
                "already; ask in one of its own"
            ) from None
    return jax.devices("cpu")[:count]


def _count(name: str, text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 4_096:
        raise ConfigError(f"--devices={shortened(name)}: write {FORMS}")
    return int(text)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "of an unknown version"
