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

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_WIDTHS = {"pred": 1, "bf16": 2, "f8e4m3fn": 1, "f8e5m2": 1, "c64": 8, "c128": 16}
_ARRAY = re.compile(r"\b(pred|bf16|f8\w+|[sufc]\d+)\[([\d,]*)\](?:\{([^}]*)\})?")
_HEAD = re.compile(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
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
    def bytes(self) -> int:
        width = _WIDTHS.get(self.dtype) or int(re.sub(r"\D", "", self.dtype)) // 8 or 1
        return width * math.prod(self.shape)


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
    line: str

    @cached_property
    def out(self) -> list[Array]:
        return arrays(self.shape)

    @cached_property
    def called(self) -> list[str]:
        return [name for group in _CALLED.findall(self.attributes) for name in _names(group)]

    def attribute(self, name: str) -> str | None:
        found = re.search(rf'\b{name}=("[^"]*"|%?[\w.\-]+)', self.attributes)
        return found[1].strip('"%') if found else None


Computation = dict[str, Instruction]


class Run(NamedTuple):
    """An instruction of a computation, and how often it runs."""

    instruction: Instruction
    computation: Computation
    times: int


@dataclass(frozen=True)
class Program:
    computations: dict[str, Computation]
    entry: str

    @classmethod
    def of(cls, text: str) -> Program:
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
        """JAX's loops count up by one to a constant that their condition compares with."""
        if told := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
            return int(told[1])
        condition = self.computations[loop.attribute("condition") or ""]
        root = list(condition.values())[-1]
        inside = self.computations[root.called[0]] if root.op == "fusion" else condition
        compare = next((each for each in inside.values() if each.op == "compare"), None)
        if compare is None or "direction=LT" not in compare.attributes:
            return None
        ends = [_constant(each) for each in condition.values() if each.op == "constant"]
        if len(ends) != 1 or ends[0] is None:
            return None
        counters = [each for each in condition.values() if each.op == "get-tuple-element"]
        at = int(counters[0].attribute("index") or 0) if len(counters) == 1 else None
        given = computation.get(loop.operands[0])
        if at is None or given is None or given.op != "tuple":
            return None
        start: Instruction | None = computation.get(given.operands[at])
        while start is not None and start.op in ("copy", "bitcast"):
            start = computation.get(start.operands[0])
        begun = _constant(start) if start is not None else None
        return None if begun is None else ends[0] - begun

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


def of_operands(run: Run) -> list[Array]:
    """The arrays that an instruction takes."""
    found = (run.computation.get(name) for name in run.instruction.operands)
    return [array for each in found if each is not None for array in each.out]


def _instruction(line: str) -> Instruction | None:
    found = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = ", line)
    if not found:
        return None
    rest = line[found.end() :]
    end = _closing(rest) if rest.startswith("(") else rest.find(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    op, _, rest = rest.partition("(")
    end = _closing("(" + rest)
    operands, attributes = rest[: end - 2], rest[end - 1 :]
    if op in ("constant", "parameter"):
        return Instruction(found[1], shape, op, (operands,), attributes, line)
    return Instruction(found[1], shape, op, tuple(_names(operands)), attributes, line)


def _closing(text: str) -> int:
    """Where the parenthesis that a text begins with has been closed."""
    depth = 0
    for at, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth:
            return at + 1
    return len(text)


def _names(text: str) -> list[str]:
    return re.findall(r"%([\w.\-]+)", text)


def _constant(instruction: Instruction) -> int | None:
    value = instruction.operands[0] if instruction.op == "constant" else ""
    return int(value) if re.fullmatch(r"-?\d+", value) else None
