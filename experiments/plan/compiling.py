"""Compiles a program for devices that are not here, and reads what the compiler says of it."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from experiments.plan import traffic
from experiments.plan.hlo import Module
from experiments.plan.topology import Topology
from wsdjax.errors import UserError
from wsdjax.wording import shortened


class NotCompiled(UserError):
    """What a compiler refuses for another reason than memory."""


@dataclass(frozen=True)
class Told:
    """What a compiler says of a program."""

    seconds: float
    """To lower and to compile."""
    needed: float | None
    """Bytes of a device, at least; None for a refusal that has no number."""
    refused: str = ""
    """In the compiler's words; what follows is of a program that it takes."""
    memory: Mapping[str, int] | None = None
    """Bytes of one device: `arguments`, `outputs` that do not take the place of those,
    `temporaries`, `code`; and temporaries as JAX's analysis has them, `counted`: of a TPU's program
    more than are there at a time, 17.2 GB beside a peak of 11.3 GB of one that its compiler takes
    for 16.9."""
    collectives: Sequence[traffic.Collective] = ()
    memory_bytes: int = 0
    """Read from and written to a device's memory in one run."""
    cycles: int | None = None
    """Of a TPU's cores in one run, without kernels and collectives."""
    unknown_loops: int = 0
    """Loops that were counted once since the text does not tell how often they run."""

    def wrong(self, limit: float) -> str:
        """In words, of what does not fit; empty for what does."""
        return self.refused or ("more than the device has" if (self.needed or 0) > limit else "")


def ask(what: str, lower: Callable[[], Any], topology: Topology) -> Told:
    """The compiler, of ``lower()``: what `jax.jit(...).lower` gives.

    Raises:
      NotCompiled: for any error of the compiler but that it does not fit, and for what it does
        not know, such as a kernel on this kind of device.
    """
    print(f"compiling {what}", file=sys.stderr, flush=True)
    begun = time.perf_counter()
    try:
        program = lower().compile()
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        said = str(error)
        if not re.search("RESOURCE_EXHAUSTED|out of memory", said, re.IGNORECASE):
            raise NotCompiled(f"the compiler refuses the program: {shortened(said, 300)}") from None
        line = shortened(said.partition("\n")[0], 250)
        return Told(time.perf_counter() - begun, bytes_needed(said), line)
    seconds = time.perf_counter() - begun
    found, module = program.memory_analysis(), Module.of(program.as_text())
    given = found.argument_size_in_bytes
    made = found.output_size_in_bytes - found.alias_size_in_bytes
    temporaries, code = found.temp_size_in_bytes, found.generated_code_size_in_bytes
    memory = {"arguments": given, "outputs": made, "temporaries": temporaries, "code": code}
    if topology.devices[0].platform == "tpu":  # its compiler goes by the peak
        memory["temporaries"] = max(0, found.peak_memory_in_bytes - given - made)
    return Told(
        seconds,
        sum(memory.values()),
        memory={**memory, "counted": temporaries},
        collectives=traffic.collectives(module, len(topology.devices)),
        memory_bytes=traffic.memory_bytes(module),
        cycles=traffic.estimated_cycles(module),
        unknown_loops=module.unknown,
    )


def bytes_needed(said: str) -> float | None:
    """Of a device, in one of the four forms in which compilers refuse a program for its memory."""
    size = r"([\d.]+)\s?([KMGT]?)i?B?"
    for form in (
        rf"\({size}\) exceeds available",
        rf"Used {size} of [\d.]+\w* hbm",
        rf"Total hbm usage >= {size}",
        rf"[Oo]ut of memory.*?{size} bytes",
    ):
        if found := re.search(form, said):
            return float(found[1]) * 2 ** (10 * " KMGT".index(found[2] or " "))
    return None
