"""Compiles a program for devices that are not here, and reads what the compiler says of it."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from experiments.plan import traffic
from experiments.plan.hlo import Program
from wsdjax.errors import UserError
from wsdjax.wording import shortened

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class NotCompiled(UserError):
    """What a compiler refuses for another reason than memory."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one device."""

    arguments: int
    outputs: int
    """Those that do not take the place of arguments."""
    temporaries: int
    code: int
    counted: int
    """Temporaries as JAX's analysis of memory counts them: of a TPU's program more than are there
    at a time."""

    @property
    def total(self) -> int:
        return self.arguments + self.outputs + self.temporaries + self.code


@dataclass(frozen=True)
class Compiled:
    """What a compiler says of a program."""

    memory: Memory
    collectives: list[traffic.Collective]
    memory_bytes: int
    """Read from and written to a device's memory in one run."""
    cycles: int | None
    """Of a TPU's cores in one run, without kernels and collectives."""
    unknown_loops: int
    """Loops that were counted once since the text does not tell how often they run."""
    seconds: float
    """To lower and to compile."""


@dataclass(frozen=True)
class Refused:
    """A program that does not fit, by the compiler's own word."""

    needed: float
    """Bytes of a device, at least."""
    available: float | None
    said: str
    seconds: float


def compiled(lower: Callable[[], Any], devices: int, platform: str) -> Compiled | Refused:
    """Of ``lower()``, what `jax.jit(...).lower` gives, for so many devices of a platform, "tpu".

    Raises:
      NotCompiled: for any error of the compiler but that it does not fit, and for what it does
        not know, such as a kernel on this kind of device.
    """
    begun = time.perf_counter()
    try:
        program = lower().compile()
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        said = str(error)
        if (refused := _refused(said)) is None:
            line = re.sub(r"\s+", " ", said)
            raise NotCompiled(f"the compiler refuses the program: {shortened(line, 300)}") from None
        return dataclasses.replace(refused, seconds=time.perf_counter() - begun)
    seconds = time.perf_counter() - begun
    found = program.memory_analysis()
    text = Program.of(program.as_text())
    given = found.argument_size_in_bytes
    made = found.output_size_in_bytes - found.alias_size_in_bytes
    temporaries = counted = found.temp_size_in_bytes
    if platform == "tpu":
        # The analysis counts more than are there at a time (17.2 GB beside a peak of 11.3 GB, of a
        # program that the compiler accepts for 16.9): what the compiler goes by is the peak.
        temporaries = max(0, found.peak_memory_in_bytes - given - made)
    return Compiled(
        memory=Memory(given, made, temporaries, found.generated_code_size_in_bytes, counted),
        collectives=traffic.collectives(text, devices),
        memory_bytes=traffic.memory_bytes(text),
        cycles=traffic.estimated_cycles(text),
        unknown_loops=text.unknown,
        seconds=seconds,
    )


def _refused(said: str) -> Refused | None:
    """The numbers of "Ran out of memory", in the two forms that it has."""
    if "RESOURCE_EXHAUSTED" not in said and "out of memory" not in said.lower():
        return None
    size = r"([\d.]+)\s?([KMGT]?)i?B?"
    for form in (
        rf"\({size}\) exceeds available \w+ \({size}\)",
        rf"Used {size} of {size} hbm",
        rf"Total hbm usage >= {size}",
        rf"[Oo]ut of memory.*?{size} bytes",
    ):
        if found := re.search(form, said):
            needed, available = found.groups()[:2], found.groups()[2:]
            line = shortened(said.partition("\n")[0], 250)
            return Refused(_bytes(*needed), _bytes(*available) if available else None, line, 0.0)
    return Refused(float("nan"), None, shortened(said.partition("\n")[0], 250), 0.0)


def _bytes(number: str, unit: str) -> float:
    return float(number) * _UNITS[unit]
