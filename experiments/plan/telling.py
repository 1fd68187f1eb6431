"""A plan in words, and as JSON."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from typing import Any

from experiments.cli.table import aligned
from experiments.devices import Device
from experiments.estimate import batch_of, model_of
from experiments.plan import programs
from experiments.plan.compiling import Compiled, Refused
from experiments.plan.planning import Plan, Planned, Product, Timed
from experiments.plan.roofline import compilers_seconds
from experiments.plan.search import named
from experiments.plan.traffic import Collective
from wsdjax.wording import listed


def told(plan: Plan) -> list[str]:
    """Lines of text."""
    topology = plan.topology
    lines = [
        f"{topology.name}: {len(topology.devices)} x {topology.kind}, "
        f"{_size(topology.memory)} each",
        f"compiler: {topology.compiler}",
    ]
    for planned in plan.programs:
        lines += ["", *_of_program(plan, planned)]
    lines += ["", *_of_branches(plan)]
    return lines


def _of_program(plan: Plan, planned: Planned) -> Iterator[str]:
    first = planned.groups[0][0]
    names = [branch.name for group in planned.groups for branch in group]
    several = programs.replicates(planned.groups[0])
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    yield f"{shown}: {model_of(first)}"
    shape = planned.placed and dict(planned.placed.mesh.shape)
    yield (
        f"updates of {several} x {batch_of(first)}"
        + (f"; mesh {', '.join(f'{axis} {n}' for axis, n in shape.items())}" if shape else "")
    )
    yield from aligned([_HEADER, *_rows(plan, planned)], range(1, len(_HEADER) - 2))
    yield _verdict(planned)
    if planned.update is None:
        return
    yield from _moved("an update", planned.update, plan.topology.row)
    if gather := planned.gather:
        of = listed(gather.of, 3) if gather.of else "no parameter's shape"
        told = "no gather of more than" if gather.a_layer else "which is MORE than"
        yield f"largest gather: {_size(gather.bytes)}, {of}; {told} a layer's weights at a time"
    if (product := planned.product) and product.timed:
        yield from _moved("a product", product.timed, plan.topology.row)


_HEADER = ("memory of a device", "state", "temporaries", "code", "in all", "", "compiled in")


def _rows(plan: Plan, planned: Planned) -> Iterator[tuple[str, ...]]:
    limit = plan.topology.memory
    for tried in planned.tries:
        yield _row(f"update, {named(tried.settings)}", tried.found, tried.why, limit)
    if planned.initialisation is not None:
        made = planned.initialisation
        yield _row("initialisation", made, "", limit)
    if product := planned.product:
        what = f"Hessian-vector product of {product.examples:,} examples"
        yield _row(what, product.found, product.why, limit)


def _row(what: str, found: Compiled | Refused | None, why: str, limit: float) -> tuple[str, ...]:
    if found is None:
        return what, "", "", "", "", "cannot be cut so", ""
    took = f"{found.seconds:.0f} s"
    if isinstance(found, Refused):
        return what, "", "", "", f"> {_size(found.needed)}", "refused", took
    memory = found.memory
    sizes = (memory.arguments + memory.outputs, memory.temporaries, memory.code, memory.total)
    verdict = "fits" if memory.total <= limit else "too much"
    if verdict == "fits" and memory.total - memory.temporaries + memory.counted > limit:
        verdict = "fits by its peak"  # and not if all that was counted were there at once
    return what, *map(_size, sizes), verdict, took


def _verdict(planned: Planned) -> str:
    if planned.fits:
        return "It fits."
    own = planned.tries[0]
    wrong = "It does NOT fit as it is" if own.found else f"It does NOT run as it is: {own.why}"
    if planned.settings is None:
        tried = len(planned.tries)
        return (
            f"{wrong}. Nor does it with other settings, {tried} in all: take more devices, or a "
            "smaller model, batch or length."
        )
    return f"{wrong}. With {planned.settings.flags(planned.given)} it does."


def _moved(what: str, timed: Timed, row: Device | None) -> Iterator[str]:
    found = timed.found
    if rows := [
        (kind, f"{count:,}", _size(size), _size(got))
        for kind, (count, size, got) in _by_kind(found.collectives).items()
    ]:
        header = (f"collectives of {what}", "count", "whole arrays", "received by a device")
        yield from aligned([header, *rows], range(1, 4))
    else:
        yield f"collectives of {what}: none"
    if found.unknown_loops:
        yield f"{found.unknown_loops} loops of unknown length were counted once"
    if (line := timed.line) is None or row is None:
        return
    if (own := compilers_seconds(found, row)) is not None:
        yield f"seconds of {what} by the compiler: {own:.3g}, without kernels and collectives"
    yield (
        f"seconds of {what}, at least: {line.least:.3g} (products {line.products:.3g}, memory "
        f"{line.memory:.3g}, interconnect {line.interconnect:.3g}); {line.apart:.3g} if none goes "
        "on beside another"
    )


def _by_kind(found: Sequence[Collective]) -> dict[str, tuple[int, int, float]]:
    """(count, bytes, bytes that a device receives) in one run."""
    kinds: dict[str, tuple[int, int, float]] = collections.defaultdict(lambda: (0, 0, 0.0))
    for each in found:
        count, size, got = kinds[each.kind]
        times = each.times
        kinds[each.kind] = count + times, size + times * each.bytes, got + times * each.received
    return dict(sorted(kinds.items()))


def _of_branches(plan: Plan) -> Iterator[str]:
    rows = [("branch", "updates", "hours at least", "device-hours", "a second")]
    total = 0.0
    for entry in _branches(plan):
        if entry["hours"] is None:
            continue
        total += entry["hours"]
        rows.append(
            (
                " + ".join(entry["names"]),
                f"{entry['updates']:,}",
                f"{entry['hours']:,.2f}",
                f"{entry['device_hours']:,.0f}",
                f"{entry['per_second']:,.0f} {entry['unit']}",
            )
        )
    if len(rows) == 1:
        return
    count = len(plan.topology.devices)
    rows.append(("all", "", f"{total:,.2f}", f"{total * count:,.0f}", ""))
    yield from aligned(rows, range(1, 5))
    yield "Evaluation, checkpoints and compilation are not counted."


def _branches(plan: Plan) -> list[dict[str, Any]]:
    """Of each group of siblings, in the config's order of the programs."""
    found, count = [], len(plan.topology.devices)
    for planned in plan.programs:
        line = planned.update and planned.update.line
        for group in planned.groups:
            first = group[0]
            updates = first.end - first.start
            units = programs.replicates(group) * first.batch_size * first.data.units
            hours = line.least * updates / 3_600 if line else None
            found.append(
                {
                    "names": [branch.name for branch in group],
                    "updates": updates,
                    "hours": hours,
                    "device_hours": None if hours is None else hours * count,
                    "per_second": units / line.least if line else None,
                    "unit": first.data.unit,
                }
            )
    return found


def result(plan: Plan) -> dict[str, Any]:
    """As JSON; what stands at the top is the program's that takes most of a device's memory."""
    topology = plan.topology
    of = [_program(plan, planned) for planned in plan.programs]
    first = max(of, key=lambda each: each["bytes_per_device"] or 0)
    branches = _branches(plan)
    hours = [branch["hours"] for branch in branches if branch["hours"] is not None]
    return {
        "devices": topology.name,
        "device_kind": topology.kind,
        "device_count": len(topology.devices),
        "device_memory_bytes": topology.memory,
        "compiler": topology.compiler,
        "simulated": topology.simulated,
        "fits": all(each["fits"] for each in of),
        "remedy": next((each["remedy"] for each in of if each["remedy"]), None),
        **{name: first[name] for name in _ON_TOP},
        "programs": of,
        "branches": branches,
        "hours": sum(hours) if hours else None,
        "device_hours": sum(hours) * len(topology.devices) if hours else None,
    }


_ON_TOP = ("bytes_per_device", "seconds_per_update", "collectives", "largest_gather", "product")


def _program(plan: Plan, planned: Planned) -> dict[str, Any]:
    update, first = planned.update, planned.groups[0][0]
    row, settings = plan.topology.row, planned.settings
    last = planned.said
    remedy = None
    if not planned.fits and settings is not None:
        remedy = {**settings._asdict(), "flags": settings.flags(planned.given)}
    return {
        "branches": [branch.name for group in planned.groups for branch in group],
        "model": model_of(first),
        "batch": batch_of(first),
        "replicates": programs.replicates(planned.groups[0]),
        "mesh": planned.placed and dict(planned.placed.mesh.shape),
        "settings": planned.given._asdict(),
        "fits": planned.fits,
        "remedy": remedy,
        "tries": [
            {**each.settings._asdict(), "fits": each.fits, "why": each.why, **_memory(each.found)}
            for each in planned.tries
        ],
        **_memory(last),
        **(_times(update) if update else dict.fromkeys(_TIMES)),
        "compilers_seconds_per_update": update and row and compilers_seconds(update.found, row),
        "largest_gather": planned.gather and planned.gather._asdict(),
        "initialisation": planned.initialisation and _memory(planned.initialisation),
        "product": planned.product and _product(planned.product),
    }


_TIMES = ("seconds_per_update", "roofline", "collectives", "unknown_loops")


def _times(timed: Timed) -> dict[str, Any]:
    line = timed.line
    return {
        "seconds_per_update": line and line.least,
        "roofline": line and {**vars(line), "apart": line.apart},
        "collectives": {
            kind: {"count": count, "bytes": size, "received_bytes": got}
            for kind, (count, size, got) in _by_kind(timed.found.collectives).items()
        },
        "unknown_loops": timed.found.unknown_loops,
    }


def _memory(found: Compiled | Refused | None) -> dict[str, Any]:
    if found is None:
        return {"bytes_per_device": None, "memory": None, "seconds_to_compile": None}
    if isinstance(found, Refused):
        needed, parts = found.needed, None
    else:
        needed, parts = found.memory.total, vars(found.memory)
    return {"bytes_per_device": needed, "memory": parts, "seconds_to_compile": found.seconds}


def _product(product: Product) -> dict[str, Any]:
    times = _times(product.timed) if product.timed else {}
    times = {name.replace("update", "product"): value for name, value in times.items()}
    fits = not product.why
    return {"examples": product.examples, "fits": fits, **_memory(product.found), **times}


def _size(count: float) -> str:
    unit = next((i for i in (3, 2) if count >= 2 ** (10 * i) / 10), 1)
    return f"{count / 2 ** (10 * unit):.3g} {' KMG'[unit]}iB"
