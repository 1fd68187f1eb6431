"""How many examples at a time fit into memory: by the compiler's own figures, and by a bound that
the trace gives where that is enough."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.extend.core import Jaxpr, Literal, Var, jaxprs_in_params

from wsdjax.compiling import Program
from wsdjax.memory import of_machine
from wsdjax.probes.groups import Groups, examples, sharing
from wsdjax.probes.vectors import Tree, whole

log = logging.getLogger("wsdjax")


def given(at_a_time: int | None, batch: Any) -> Groups | None:
    """The groups of so many examples, all of a batch for None."""
    if at_a_time is None:
        return None
    return Groups(whole("at_a_time", at_a_time), sharing(batch))


def groups_for(
    program: Program, loss_fn: Any, params: Tree, batch: Any, *more: Any
) -> tuple[Groups | None, int]:
    """How ``program(loss_fn, params, batch, *more, groups)`` is to take a batch, and the bytes of
    each device that it takes beside its arguments: all examples at once if that is half of what is
    free, at most, else as many as fit into that half, at least one of each device.

    Nothing is compiled where the trace alone shows that all fit. What is compiled to be asked is
    what a later call runs.
    """
    arguments = (params, batch, *more)
    leaves, structure = jax.tree.flatten(arguments)
    alike = tuple((_shape(leaf), getattr(leaf, "sharding", None)) for leaf in leaves)
    key = (program, loss_fn, structure, alike)
    if key not in _KNOWN:
        while len(_KNOWN) >= 32:
            _KNOWN.pop(next(iter(_KNOWN)))
        _KNOWN[key] = _fitted(program, loss_fn, arguments)
    return _KNOWN[key]


_KNOWN: dict[Any, tuple[Groups | None, int]] = {}
"""Of programs that were asked for: another node of a run is to have the same."""


def _fitted(program: Program, loss_fn: Any, arguments: tuple) -> tuple[Groups | None, int]:
    params, batch, *_ = arguments
    count, devices, there = examples(batch), sharing(batch), free(devices_of(params))
    most = room(devices_of(params))

    def bound(size: int) -> int:
        groups = None if size == count else Groups(size, devices)
        return peak(program.trace(loss_fn, *arguments, groups).jaxpr.jaxpr)

    everything = bound(count)
    if everything <= most:  # several devices take no more each
        return None, everything
    size = count
    if count > devices:
        # Examples beyond the first cost alike.
        fixed = bound(devices)
        each = max(1, (everything - fixed) // (count - devices))
        size = int(np.clip(devices + (most - fixed) // each, devices, count))
    while True:
        groups = None if size >= count else Groups(size, devices)
        needed = _needed(program.lower(loss_fn, *arguments, groups))
        if needed <= most or size <= devices:
            break
        size = max(devices, int(size * min(0.5, most / needed)) if needed < np.inf else size // 2)
    if needed > there:
        log.warning(
            "%s takes %s beside its arguments for %d at a time, and %s are free",
            *(program.__name__, said(needed), size, said(there)),
        )
    if groups:
        log.info(
            "%s: %d of %d examples at a time, in %s of %s that are free",
            *(program.__name__, size, count, said(needed), said(there)),
        )
    return groups, int(min(needed, there))


def _needed(lowered: Any) -> float:
    """Bytes of each device that a program takes beside its arguments; infinite where the compiler
    finds it too large."""
    try:
        found = lowered.compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return np.inf
    return found.temp_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes


def _shape(leaf: Any) -> tuple[tuple[int, ...], Any]:
    return np.shape(leaf), jnp.result_type(leaf)


def devices_of(params: Tree) -> set[jax.Device]:
    """Those that the parameters are on; of shapes without a sharding, all there are."""
    sharding = getattr(jax.tree.leaves(params)[0], "sharding", None)
    return sharding.device_set if sharding else set(jax.devices())


def room(devices: set[jax.Device], beside: int | None = None) -> int:
    """Bytes of each device that one thing of a probe may take: half of what is free, for what else
    comes; where it is known what comes `beside` it, four fifths without that."""
    there = free(devices)
    return there // 2 if beside is None else max(0, there * 4 // 5 - beside)


def free(devices: set[jax.Device]) -> int:
    """Bytes that are free on the device where least is; of the host's memory on a CPU."""
    stats = [device.memory_stats() for device in devices if device.platform != "cpu"]
    known = [s["bytes_limit"] - s["bytes_in_use"] for s in stats if s]
    if known:
        return _agreed(min(known), devices)
    most, meminfo = of_machine(), Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        most = min(most, int(lines["MemAvailable"].split()[0]) * 1024)
    return _agreed(int(most) // len(devices), devices)


def _agreed(bytes_: int, devices: set[jax.Device]) -> int:
    """The least of several processes that share the devices: what they compile must be alike."""
    if len({device.process_index for device in devices}) == 1:
        return bytes_
    mebibytes = multihost_utils.process_allgather(np.int32(bytes_ >> 20))
    return int(np.min(mebibytes)) << 20


def peak(jaxpr: Jaxpr) -> int:
    """The most bytes that are there at a time, beside the arguments, of a trace computed in its
    order on one device. A compiler takes less, since it fuses what is small, but for a copy here
    and there."""
    last = {}
    for i, equation in enumerate(jaxpr.eqns):
        last.update({var: i for var in equation.invars if isinstance(var, Var)})
    last.update({var: len(jaxpr.eqns) for var in jaxpr.outvars if isinstance(var, Var)})
    kept, now, most = set(), 0, 0
    for i, equation in enumerate(jaxpr.eqns):
        made = [var for var in equation.outvars if var in last]
        now += sum(map(_bytes, made))
        kept.update(made)
        inside = max((_peak(inner) for inner in jaxprs_in_params(equation.params)), default=0)
        most = max(most, now + inside)
        over = {var for var in equation.invars if isinstance(var, Var) and last[var] == i}
        now -= sum(map(_bytes, over & kept))
        kept -= over
    return most


@functools.lru_cache(4096)
def _peak(jaxpr: Jaxpr) -> int:
    return peak(jaxpr)


def _bytes(var: Any) -> int:
    aval = var.aval
    if isinstance(var, Literal) or not hasattr(aval, "shape"):
        return 0
    width = getattr(aval.dtype, "itemsize", 8)
    return int(np.prod(aval.shape, dtype=np.int64)) * width


def said(size: float) -> str:
    """Bytes in words."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
