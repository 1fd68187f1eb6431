"""What a compiled program moves in one run: between devices, and to and from their memory."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments.plan.hlo import Array, Computation, Instruction, Module, Run, source

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
GATHER_BY_SUM = "all-gather by all-reduce"


class Collective(NamedTuple):
    """One of a program's collectives, which runs `times` times."""

    kind: str
    times: int
    received: float
    """Bytes that each device receives where they go round a ring."""
    arrays: tuple[Array, ...]
    """Whole: gathered, or before they are summed."""

    @property
    def bytes(self) -> int:
        return sum(array.bytes for array in self.arrays)


def collectives(program: Module, devices: int) -> list[Collective]:
    """Those of a program for so many devices."""
    found, seen = [], set()
    for run in program.runs:
        for inner in program.inside(run):
            instruction = inner.instruction
            kind = instruction.op.removesuffix("-start")
            if kind not in KINDS or _group(instruction.attributes, devices) == 1:
                continue  # along an axis of one device nothing moves
            # A TPU's compiler cuts one that goes on beside computation into pieces, each of which
            # shows it whole, in fusions that bear one name.
            name = re.search(
                r'(?:chain_id|async_collective_name)="([^"]*)"', instruction.attributes
            )
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
    # Round a ring, of all but a device's own part: a sum goes twice, a permutation once and whole.
    share = 1.0 if kind == "collective-permute" else (group - 1) / group
    rounds = 2 if kind in ("all-reduce", GATHER_BY_SUM) else 1
    received = rounds * share * sum(array.bytes for array in taken)
    return Collective(kind, run.times, received, tuple(taken))


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
    return sum(
        run.times * _moved(program, run)
        for run in program.runs
        if run.instruction.op not in _MOVES_NOTHING
        and not run.instruction.op.endswith(("-done", "-update"))
    )


def _moved(program: Module, run: Run) -> int:
    instruction, taken, given = run.instruction, run.taken(), run.instruction.out
    names: Sequence[str] = instruction.operands
    users, results, body = [instruction], [instruction] * len(given), run.computation
    if instruction.op == "fusion":
        body = program.computations[instruction.called[0]]
        users = list(body.values())
        at = {each.operands[0]: each.name for each in users if each.op == "parameter"}
        names = [at[str(index)] for index in range(len(taken))]
        root = users[-1]
        results = [body[name] for name in root.operands] if root.op == "tuple" else [root]
    if instruction.op.endswith("-start"):  # (what it takes, what it gives, flags)
        given = given[:1] if instruction.op == "copy-start" else given[1:2]
    reads = [
        _read(name, array, [user for user in users if name in user.operands])
        for name, array in zip(names, taken, strict=True)
        if array is not None and array.in_memory
    ]
    pairs = zip(results, given, strict=False)
    writes = [_written(result, body, out) for result, out in pairs if out.in_memory]
    return sum(reads) + sum(writes)


def _read(name: str, array: Array, users: Sequence[Instruction]) -> int:
    """Of an operand, by what takes it."""
    total = 0
    for user in users:
        first = user.operands[0] == name
        if user.op in ("dynamic-slice", "slice", "gather") and first:
            total += sum(out.bytes for out in user.out)
        elif not (user.op == "dynamic-update-slice" and first):  # which is in place
            return array.bytes
    return min(total, array.bytes)


def _written(result: Instruction, body: Computation, out: Array) -> int:
    if result.op != "dynamic-update-slice" or result.operands[1] not in body:
        return out.bytes
    return body[result.operands[1]].out[0].bytes


def estimated_cycles(program: Module) -> int | None:
    """Of a TPU's cores, by its compiler's estimate of each fusion; kernels and collectives have
    none. None where it gives none at all."""
    cycles = re.compile(r'"estimated_cycles":"(\d+)"')
    found = [
        run.times * int(each)
        for run in program.runs
        for each in cycles.findall(run.instruction.attributes)
    ]
    return sum(found) if found else None
