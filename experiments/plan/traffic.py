"""What a compiled program moves in one run: between devices, and to and from their memory."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from experiments.plan.hlo import KINDS, Array, Program, Run, of_operands

GATHER_BY_SUM = "all-gather by all-reduce"


@dataclass(frozen=True)
class Collective:
    """One of a program's collectives, which runs `times` times."""

    kind: str
    times: int
    bytes: int
    """Of the whole array: gathered, or before it is summed."""
    received: float
    """Bytes that each device receives where they go round a ring."""
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    """The dtype and shape of each array that it takes."""
    group: int
    """How many devices take part."""


def collectives(program: Program, devices: int) -> list[Collective]:
    """Those of a program for so many devices."""
    found, seen = [], set()
    for run in program.runs:
        for inner in program.inside(run):
            instruction = inner.instruction
            kind = instruction.op.removesuffix("-start")
            if kind not in KINDS:
                continue
            # A TPU's compiler cuts one that goes on beside computation into pieces, each of which
            # shows it whole, in fusions that bear one name.
            name = re.search(r'(?:chain_id|async_collective_name)="([^"]*)"', instruction.line)
            if name:
                if (name[0], inner.times) in seen:
                    continue
                seen.add((name[0], inner.times))
            if "all-reduce-scatter" in "".join(run.instruction.called):
                kind = "reduce-scatter"
            elif kind == "all-reduce" and _is_gather(program, inner):
                kind = GATHER_BY_SUM
            found.append(_collective(kind, inner, devices))
    return found


def _is_gather(program: Program, run: Run) -> bool:
    """Whether what is summed is a device's part of an array in the midst of zeros: a TPU's
    compiler gathers small arrays so."""
    written = []
    for name in run.instruction.operands:
        of = run.computation.get(name)
        while of is not None and of.op in ("copy", "bitcast") and of.operands:
            of = run.computation.get(of.operands[0])
        if of is not None and of.op == "fusion":
            of = list(program.computations[of.called[0]].values())[-1]
        written.append(of is not None and of.op == "dynamic-update-slice")
    return bool(written) and all(written)


def _collective(kind: str, run: Run, devices: int) -> Collective:
    group = _group(run.instruction.attributes, devices)
    taken = of_operands(run)
    size = sum(array.bytes for array in taken)
    whole = size * group if kind == "all-gather" else size
    # Round a ring, of all but a device's own part: a sum goes twice, a permutation once and whole.
    rounds = 2 if kind in ("all-reduce", GATHER_BY_SUM) else 1
    received = whole * (1.0 if kind == "collective-permute" else rounds * (group - 1) / group)
    shapes = tuple((array.dtype, array.shape) for array in taken)
    return Collective(kind, run.times, whole, received, shapes, group)


def _group(attributes: str, devices: int) -> int:
    """How many devices take part: as lists of them, or as [groups, size]."""
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return listed[1].count(",") + 1
    if shaped := re.search(r"replica_groups=\[\d+,(\d+)\]", attributes):
        return int(shaped[1])
    return devices


_MOVES_NOTHING = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional"),
    *("call", "after-all", "partition-id", "replica-id", "optimization-barrier", "iota"),
}


def memory_bytes(program: Program) -> int:
    """Bytes that one run reads from and writes to a device's memory: of each instruction what it
    takes and gives, of a slice of a larger array the slice alone."""
    total = 0
    for run in program.runs:
        op = run.instruction.op
        if op in _MOVES_NOTHING or op.endswith(("-done", "-update")):
            continue
        total += run.times * _moved(program, run)
    return total


def _moved(program: Program, run: Run) -> int:
    instruction = run.instruction
    taken = [
        each.out[0] if each is not None and each.out else None
        for each in map(run.computation.get, instruction.operands)
    ]
    given = instruction.out
    if instruction.op == "fusion":
        body = program.computations[instruction.called[0]]
        inside = list(body.values())
        reads = [
            _read(index, array, inside) for index, array in enumerate(taken) if array is not None
        ]
        root = next(each for each in inside if each.line.lstrip().startswith("ROOT"))
        results = [root] if root.op != "tuple" else [body[name] for name in root.operands]
        writes = [
            _written(result.op, [body[name].out for name in result.operands if name in body], out)
            for result, out in zip(results, given, strict=False)
        ]
        return sum(reads) + sum(writes)
    if instruction.op in ("dynamic-slice", "slice", "gather"):
        return 2 * _in_memory(given)
    if instruction.op == "dynamic-update-slice":
        return 2 * _in_memory([array for array in taken[1:2] if array])
    if instruction.op.endswith("-start"):  # (what it takes, what it gives, flags)
        given = given[:1] if instruction.op == "copy-start" else given[1:2]
    return _in_memory(array for array in taken if array) + _in_memory(given)


def _read(index: int, array: Array, inside: list) -> int:
    """Of an operand of a fusion."""
    if not array.in_memory:
        return 0
    parameter = next(
        (each for each in inside if each.op == "parameter" and each.operands == (str(index),)), None
    )
    if parameter is None:
        return array.bytes
    users = [each for each in inside if parameter.name in each.operands and each is not parameter]
    total = 0
    for user in users:
        if user.op in ("dynamic-slice", "slice", "gather") and user.operands[0] == parameter.name:
            total += sum(out.bytes for out in user.out)
        elif user.op == "dynamic-update-slice" and user.operands[0] == parameter.name:
            continue  # in place
        else:
            return array.bytes
    return min(total, array.bytes)


def _written(op: str, operands: list[list[Array]], out: Array) -> int:
    if not out.in_memory:
        return 0
    if op == "dynamic-update-slice" and len(operands) > 1 and operands[1]:
        return operands[1][0].bytes
    return out.bytes


def _in_memory(found: Iterable[Array]) -> int:
    return sum(array.bytes for array in found if array.in_memory)


def estimated_cycles(program: Program) -> int | None:
    """Of a TPU's cores, by its compiler's estimate of each fusion; kernels and collectives have
    none. None where it gives none at all."""
    total, any_there = 0, False
    for run in program.runs:
        if found := re.search(r'"estimated_cycles":"(\d+)"', run.instruction.line):
            total, any_there = total + run.times * int(found[1]), True
    return total if any_there else None


def dimensions(shape: Iterable[int]) -> tuple[int, ...]:
    """A shape without its ones, in order of size: what transposing it, or an axis more, leaves."""
    return tuple(sorted(size for size in shape if size != 1))
