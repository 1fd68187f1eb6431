"""A plan: every distinct program of a tree, compiled for devices that are not here, as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from experiments.estimate import batch_of, model_of
from experiments.plan import programs, traffic
from experiments.plan.compiling import Told, ask
from experiments.plan.programs import Settings, Siblings
from experiments.plan.roofline import roofline
from experiments.plan.search import search
from experiments.plan.topology import Topology
from wsdjax.config import Mesh
from wsdjax.config.json import key
from wsdjax.training.compiled import Compiled

Json = dict[str, Any]


def plan(groups: Sequence[Siblings], asked: Mesh, topology: Topology, with_product: bool) -> Json:
    """What is distinct among the programs of groups of siblings; raises as `search` and `ask`.

    What stands at the top is the program's that takes most of a device's memory.
    """
    compiled, alike = Compiled(asked, topology.devices), dict[str, list[Siblings]]()
    for siblings in groups:
        alike.setdefault(_program(siblings), []).append(siblings)
    # What takes most comes first: settings that make it fit are tried first for the others too.
    ordered = sorted(alike.values(), key=lambda same: -programs.replicates(same[0]))
    found: list[Json] = []
    products: dict[str, Json] = {}
    for same in ordered:
        hint = next(
            (Settings(r["accumulate"], r["remat"]) for f in found if (r := f["remedy"])), None
        )
        found.append(_planned(same, compiled, topology, hint, products if with_product else None))
    branches = [
        _branch(siblings, each["seconds_per_update"], len(topology.devices))
        for same, each in zip(ordered, found, strict=True)
        for siblings in same
    ]
    first = max(found, key=lambda each: each["bytes_per_device"] or 0)
    on_top = ("bytes_per_device", "seconds_per_update", "collectives", "largest_gather", "product")
    hours = [branch["hours"] for branch in branches if branch["hours"] is not None]
    return {
        "devices": topology.name,
        "device_kind": topology.kind,
        "device_count": len(topology.devices),
        "device_memory_bytes": topology.memory if math.isfinite(topology.memory) else None,
        "compiler": topology.compiler,
        "simulated": topology.simulated,
        "fits": all(each["fits"] for each in found),
        "remedy": next((each["remedy"] for each in found if each["remedy"]), None),
        **{name: first[name] for name in on_top},
        "programs": found,
        "branches": branches,
        "hours": sum(hours) if hours else None,
        "device_hours": sum(hours) * len(topology.devices) if hours else None,
    }


def _program(siblings: Siblings) -> str:
    """What tells one program from another: what `wsdjax.training.compiled` goes by, and the shapes
    of what it is given."""
    first = siblings[0]
    return key(
        *(first.model, first.averages, first.accumulate, first.batch_size),
        *(first.data.shapes, programs.replicates(siblings)),
    )


def _planned(
    same: list[Siblings],
    compiled: Compiled,
    topology: Topology,
    hint: Settings | None,
    products: dict[str, Json] | None,
) -> Json:
    """The program of alike groups of siblings: it fits if its update and the initialisation do."""
    siblings, first, given = same[0], same[0][0], Settings.of(same[0][0])
    tries, taken = search(siblings, compiled, topology, hint)
    made = product = gather = placed = None
    update = _cost(None, 0, "", topology)
    if taken and taken.told:
        siblings = programs.changed(siblings, taken.settings)
        placed = compiled.placed(siblings)
        if any(not each[0].parent for each in same):
            lower = programs.initialisation(siblings, compiled)
            made = _said(ask("the initialisation", lower, topology), topology.memory)
        if products is not None:
            of = key(first.model, first.data.shapes)
            products[of] = product = products.get(of) or _product(siblings, compiled, topology)
        low = getattr(first.model, "compute", "float32") == "bfloat16"
        flops, rate = programs.update_flops(siblings), "peak" if low else "float32"
        update = _cost(taken.told, flops, rate, topology)
        layer = programs.layer(siblings, placed)
        gather = traffic.largest_gather(taken.told.collectives, layer)
    ready = made is None or made["fits"]
    fits, remedy = tries[0].fits and ready, None
    if taken and ready and not fits:
        remedy = {**taken.settings._asdict(), "flags": taken.settings.flags(given)}
    said = [_said(each.told, topology.memory, each.why) for each in tries]
    shown = said[tries.index(taken)] if taken else said[-1]
    return {
        "branches": [branch.name for each in same for branch in each],
        "model": model_of(first),
        "batch": batch_of(first),
        "replicates": programs.replicates(siblings),
        "mesh": placed and dict(placed.mesh.shape),
        "settings": given._asdict(),
        "fits": fits,
        "remedy": remedy,
        "tries": [each.settings._asdict() | told for each, told in zip(tries, said, strict=True)],
        **{name: shown[name] for name in ("bytes_per_device", "memory", "seconds_to_compile")},
        **update,
        "largest_gather": gather,
        "initialisation": made,
        "product": product,
    }


def _product(siblings: Siblings, compiled: Compiled, topology: Topology) -> Json:
    """A Hessian-vector product of one batch as probes have them: of all examples at a time if they
    fit, else of a few, or of one on each device."""
    placed = compiled.placed(siblings)
    parts, again = placed.spread.parts, topology.kind != "cpu"
    examples = programs.probed_together(siblings[0].data, parts)
    what = f"a Hessian-vector product of {examples:,} examples"
    few = max(parts, examples // 4 - examples // 4 % parts)
    for at_a_time in sorted({examples, few, parts}, reverse=True):
        lower = programs.product(siblings, placed, examples, at_a_time, again)
        told = ask(f"{what}, {at_a_time:,} at a time", lower, topology)
        said = {"examples": examples, "at_a_time": at_a_time, **_said(told, topology.memory)}
        if said["fits"]:
            break
    else:
        return said
    flops = programs.product_flops(siblings, examples)
    cost = _cost(told, flops, "highest", topology)
    return said | {name.replace("update", "product"): value for name, value in cost.items()}


def _said(told: Told | None, limit: float, why: str | None = None) -> Json:
    why = told.wrong(limit) if told and why is None else why
    return {
        "fits": not why,
        "why": why,
        "bytes_per_device": told and told.needed,
        "memory": told and told.memory,
        "seconds_to_compile": told and told.seconds,
    }


def _cost(told: Told | None, flops: float, rate: str, topology: Topology) -> Json:
    """Of a program with so many FLOPs on all devices, at one of the rates of `Device`."""
    row, least, line, own = topology.row, None, None, None
    if told and row:
        each = flops / len(topology.devices)
        least, line = roofline(told, each, getattr(row, rate), row)
        own = told.cycles and row.clock and told.cycles / row.clock
    return {
        # At least: of two bounds from below the higher.
        "seconds_per_update": max(filter(None, (least, own)), default=None),
        "roofline": line,
        "collectives": told and traffic.by_kind(told.collectives),
        "unknown_loops": told and told.unknown_loops,
        "compilers_seconds_per_update": own,
    }


def _branch(siblings: Siblings, seconds: float | None, devices: int) -> Json:
    """Of siblings, which train together."""
    first = siblings[0]
    updates = first.end - first.start
    examples = programs.replicates(siblings) * first.batch_size
    hours = seconds and seconds * updates / 3_600
    return {
        "names": [branch.name for branch in siblings],
        "updates": updates,
        "hours": hours,
        "device_hours": hours and hours * devices,
        "per_second": seconds and examples * first.data.units / seconds,
        "unit": first.data.unit,
    }
