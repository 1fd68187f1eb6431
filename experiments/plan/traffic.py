"""What a compiled program moves in one run: between devices, and to and from their memory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.plan.hlo import Array, Module, Run, source

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
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
    arrays: tuple[Array, ...]
    """Those whole arrays."""
    group: int
    """How many devices take part."""


def collectives(program: Module, devices: int) -> list[Collective]:
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


def _is_gather(program: Module, run: Run) -> bool:
    """Whether what is summed is a device's part of an array in the midst of zeros: a TPU's
    compiler gathers small arrays so."""
    written = []
    for name in run.instruction.operands:
        of = source(run.computation, name)
        if of is not None and of.op == "fusion":
            of = list(program.computations[of.called[0]].values())[-1]
        written.append(of is not None and of.op == "dynamic-update-slice")
    return bool(written) and all(written)


def _collective(kind: str, run: Run, devices: int) -> Collective:
    group = _group(run.instruction.attributes, devices)
    taken = [array for array in run.taken() if array]
    if kind == "all-gather":
        axis = int(re.findall(r"\bdimensions=\{(\d+)", run.instruction.attributes)[0])
        taken = [array.times(group, axis) for array in taken]
    size = sum(array.bytes for array in taken)
    # Round a ring, of all but a device's own part: a sum goes twice, a permutation once and whole.
    rounds = 2 if kind in ("all-reduce", GATHER_BY_SUM) else 1
    received = size * (1.0 if kind == "collective-permute" else rounds * (group - 1) / group)
    return Collective(kind, run.times, size, received, tuple(taken), group)


def _group(attributes: str, devices: int) -> int:
    """How many devices take part: as lists of them, or as [groups, size]."""
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return listed[1].count(",") + 1
    if shaped := re.search(r"replica_groups=\[\d+,(\d+)\]", attributes):
        return int(shaped[1])
    return devices


def by_kind(found: Sequence[Collective]) -> dict[str, dict[str, float]]:
    """Of each kind how many there are in one run, the bytes of their arrays, and those that a
    device receives."""
    kinds = {}
    for kind in sorted({each.kind for each in found}):
        of = [each for each in found if each.kind == kind]
        kinds[kind] = {
            "count": sum(each.times for each in of),
            "bytes": sum(each.times * each.bytes for each in of),
            "received_bytes": sum(each.times * each.received for each in of),
        }
    return kinds


def largest_gather(found: Sequence[Collective], layer: int) -> dict[str, Any] | None:
    """Its bytes, the shapes of its arrays, and whether no gather has more numbers than `a_layer`,
    which has so many; None where nothing is gathered."""
    gathers = [each for each in found if each.kind in ("all-gather", GATHER_BY_SUM)]
    if not gathers:
        return None
    most = max(gathers, key=lambda each: each.bytes)
    numbers = max(sum(array.size for array in each.arrays) for each in gathers)
    return {
        "bytes": most.bytes,
        "shapes": [str(array) for array in most.arrays],
        "a_layer": numbers <= layer,
    }


_MOVES_NOTHING = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional"),
    *("call", "after-all", "partition-id", "replica-id", "optimization-barrier", "iota"),
}


def memory_bytes(program: Module) -> int:
    """Bytes that one run reads from and writes to a device's memory: of each instruction what it
    takes and gives, of a slice of a larger array the slice alone."""
    total = 0
    for run in program.runs:
        op = run.instruction.op
        if op in _MOVES_NOTHING or op.endswith(("-done", "-update")):
            continue
        total += run.times * _moved(program, run)
    return total


def _moved(program: Module, run: Run) -> int:
    instruction, taken, given = run.instruction, run.taken(), run.instruction.out
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


def estimated_cycles(program: Module) -> int | None:
    """Of a TPU's cores, by its compiler's estimate of each fusion; kernels and collectives have
    none. None where it gives none at all."""
    total, any_there = 0, False
    for run in program.runs:
        if found := re.search(r'"estimated_cycles":"(\d+)"', run.instruction.line):
            total, any_there = total + run.times * int(found[1]), True
    return total if any_there else None
