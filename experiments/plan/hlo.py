"""A compiled program's text: how often each of its instructions runs, and the bytes it moves.

XLA writes a loop's body once. What it says of a whole program counts bodies once too; here each is
counted as often as it runs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

_WIDTHS = {"pred": 1, "bf16": 2, "f8e4m3fn": 1, "f8e5m2": 1, "c64": 8, "c128": 16}
_ARRAY = re.compile(r"\b(pred|bf16|f8\w+|[sufc]\d+)\[([\d,]*)\](?:\{([^}]*)\})?")
_HEAD = re.compile(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*?)\)(?=, |$)(.*)")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|(?:branch|called)_computations|(?:true|false)_computation)="
    r"(\{[^}]*\}|%[\w.\-]+)"
)
_HOLDS = ("while", "conditional", "call")
"""Instructions whose computations run as instructions of their own."""


class Array(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    in_memory: bool
    """And not in a TPU's vector memory."""

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        width = _WIDTHS.get(self.dtype) or int(re.sub(r"\D", "", self.dtype)) // 8 or 1
        return width * self.size

    def times(self, count: int, axis: int) -> Array:
        """So many of it along an axis."""
        shape = [size * count if i == axis else size for i, size in enumerate(self.shape)]
        return self._replace(shape=tuple(shape))

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


def arrays(text: str) -> list[Array]:
    """Those of a shape as XLA writes it, or of several."""
    return [
        Array(dtype, tuple(int(d) for d in dims.split(",") if d), "S(" not in layout)
        for dtype, dims, layout in _ARRAY.findall(text)
    ]


@dataclass(frozen=True)
class Instruction:
    name: str
    shape: str
    op: str
    operands: tuple[str, ...]
    attributes: str

    @cached_property
    def out(self) -> list[Array]:
        return arrays(self.shape)

    @cached_property
    def called(self) -> list[str]:
        return [name for group in _CALLED.findall(self.attributes) for name in _names(group)]


Computation = dict[str, Instruction]


class Run(NamedTuple):
    """An instruction of a computation, and how often it runs."""

    instruction: Instruction
    computation: Computation
    times: int

    def taken(self) -> list[Array | None]:
        """The array that each operand is, or the first of several."""
        found = map(self.computation.get, self.instruction.operands)
        return [each.out[0] if each and each.out else None for each in found]


@dataclass(frozen=True)
class Module:
    computations: dict[str, Computation]
    entry: str

    @classmethod
    def of(cls, text: str) -> Module:
        found: dict[str, Computation] = {}
        entry, current = "", {}
        for line in text.splitlines():
            if line and not line[0].isspace():
                if head := _HEAD.match(line):
                    current = found[head[1]] = {}
                    entry = head[1] if line.startswith("ENTRY") else entry
            elif instruction := _instruction(line):
                current[instruction.name] = instruction
        return cls(found, entry)

    @cached_property
    def runs(self) -> list[Run]:
        """Every instruction that runs by itself: of loops, branches and calls those inside, of
        fusions and of what is called for each element the one that calls."""
        return list(self._runs(self.entry, 1))

    @cached_property
    def unknown(self) -> int:
        """Loops of which the text does not tell how often they run; they count once."""
        loops = [run for run in self.runs if run.instruction.op == "while"]
        return sum(self._trips(run.instruction, run.computation) is None for run in loops)

    def _runs(self, name: str, times: int) -> Iterator[Run]:
        computation = self.computations[name]
        for instruction in computation.values():
            yield Run(instruction, computation, times)
            inside = instruction.called if instruction.op in _HOLDS else ()
            each = times
            if instruction.op == "while":
                each *= self._trips(instruction, computation) or 1
            for called in inside:
                yield from self._runs(called, each)

    def _trips(self, loop: Instruction, computation: Computation) -> int | None:
        """How often a loop runs. A TPU's text has no known_trip_count, which other compilers write;
        but JAX's loops count up by one to a constant that their condition compares with."""
        if told := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
            return int(told[1])
        condition = self.computations[re.findall(r"condition=%([\w.\-]+)", loop.attributes)[0]]
        root = list(condition.values())[-1]
        inside = self.computations[root.called[0]] if root.op == "fusion" else condition
        compared = [each.attributes for each in inside.values() if each.op == "compare"]
        ends = [each for each in condition.values() if each.op == "constant"]
        counters = [each for each in condition.values() if each.op == "get-tuple-element"]
        given = computation.get(loop.operands[0])
        if not compared or "direction=LT" not in compared[0] or given is None:
            return None
        if (len(ends), len(counters), given.op) != (1, 1, "tuple"):
            return None
        at = int(re.findall(r"index=(\d+)", counters[0].attributes)[0])
        end, begun = _constant(ends[0]), _constant(source(computation, given.operands[at]))
        return None if end is None or begun is None else end - begun

    def inside(self, run: Run) -> Iterator[Run]:
        """What an instruction that runs is made of: itself, or the instructions of a fusion or of
        what it starts."""
        op = run.instruction.op
        if op in _HOLDS or op.endswith(("-update", "-done")):
            return
        yield run
        for name in run.instruction.called:
            computation = self.computations[name]
            for instruction in computation.values():
                inner = Run(instruction, computation, run.times)
                yield from self.inside(inner)


def source(computation: Computation, name: str) -> Instruction | None:
    """What makes an operand, behind its copies."""
    found = computation.get(name)
    while found is not None and found.op in ("copy", "bitcast") and found.operands:
        found = computation.get(found.operands[0])
    return found


def _instruction(line: str) -> Instruction | None:
    if not (found := _LINE.match(line)):
        return None
    name, shape, op, operands, attributes = found.groups()
    names = (operands,) if op in ("constant", "parameter") else tuple(_names(operands))
    return Instruction(name, shape, op, names, attributes)


def _names(text: str) -> list[str]:
    return re.findall(r"%([\w.\-]+)", text)


def _constant(instruction: Instruction | None) -> int | None:
    value = instruction.operands[0] if instruction and instruction.op == "constant" else ""
    return int(value) if re.fullmatch(r"-?\d+", value) else None
