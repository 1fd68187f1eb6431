"""A plan in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from experiments.cli.table import aligned
from experiments.plan.programs import Settings
from wsdjax.wording import listed

Json = dict[str, Any]


def words(plan: Json) -> Iterator[str]:
    """Lines of text, of what `planning.plan` gives."""
    limit = plan["device_memory_bytes"] or float("inf")
    yield f"{plan['devices']}: {plan['device_count']} x {plan['device_kind']}, {_size(limit)} each"
    yield f"compiler: {plan['compiler']}"
    for program in plan["programs"]:
        yield from ("", *_of_program(program, limit))
    if plan["hours"] is not None:
        yield from ("", *_of_branches(plan))


def _of_program(program: Json, limit: float) -> Iterator[str]:
    yield f"{listed(program['branches'], 4)}: {program['model']}"
    along = [f"{axis} {count}" for axis, count in (program["mesh"] or {}).items()]
    mesh = f"; mesh {', '.join(along)}" if along else ""
    yield f"updates of {program['replicates']} x {program['batch']}{mesh}"
    product, gather = program["product"], program["largest_gather"]
    rows = [
        (f"update, {Settings(each['accumulate'], each['remat'])}", each)
        for each in program["tries"]
    ]
    if made := program["initialisation"]:
        rows.append(("initialisation", made))
    if product:
        rows.append((_product(product), product))
    header = ("memory of a device", "state", "temporaries", "code", "in all", "", "compiled in")
    yield from aligned([header, *(_row(*row, limit) for row in rows)], range(1, 5))
    yield _verdict(program)
    if program["collectives"] is not None:
        yield from _moved("an update", program)
    if gather:
        told = "no gather of more than" if gather["a_layer"] else "which is MORE than"
        what = f"{_size(gather['bytes'])}, {listed(gather['shapes'], 3)}"
        yield f"largest gather: {what}; {told} a layer's weights at a time"
    if product and product["fits"]:
        yield from _moved("a product", product)


def _product(product: Json) -> str:
    examples, some = product["examples"], product["at_a_time"]
    at_a_time = f", {some:,} at a time" if some < examples else ""
    return f"Hessian-vector product of {examples:,} examples{at_a_time}"


def _row(what: str, told: Json, limit: float) -> tuple[str, ...]:
    if told["seconds_to_compile"] is None:
        return what, "", "", "", "", "cannot be cut so", ""
    took = f"{told['seconds_to_compile']:.0f} s"
    needed, memory = told["bytes_per_device"], told["memory"]
    if memory is None:
        least = "not told" if needed is None else f"> {_size(needed)}"
        return what, "", "", "", least, "refused", took
    verdict = "fits" if told["fits"] else "too much"
    if told["fits"] and needed - memory["temporaries"] + memory["counted"] > limit:
        verdict = "fits by its peak"  # and not if all that was counted were there at once
    state = memory["arguments"] + memory["outputs"]
    sizes = (state, memory["temporaries"], memory["code"], needed)
    return what, *map(_size, sizes), verdict, took


def _verdict(program: Json) -> str:
    own, tries = program["tries"][0], program["tries"]
    if program["fits"]:
        return "It fits."
    wrong = "It does NOT fit as it is"
    if own["seconds_to_compile"] is None:
        wrong = f"It does NOT run as it is: {own['why']}"
    if remedy := program["remedy"]:
        return f"{wrong}. With {remedy['flags']} it does."
    if (made := program["initialisation"]) and not made["fits"]:
        return (
            "It does NOT fit: its first state cannot be made, whatever the settings. Take more "
            "devices, or a smaller model."
        )
    return (
        f"{wrong}. Nor does it with other settings, {len(tries)} in all: take more devices, or a "
        "smaller model, batch or length."
    )


def _moved(what: str, told: Json) -> Iterator[str]:
    header = (f"collectives of {what}", "count", "whole arrays", "received by a device")
    rows = [
        (kind, f"{each['count']:,}", _size(each["bytes"]), _size(each["received_bytes"]))
        for kind, each in told["collectives"].items()
    ]
    yield from aligned([header, *rows], range(1, 4)) if rows else [f"{header[0]}: none"]
    if told["unknown_loops"]:
        yield f"{told['unknown_loops']} loops of unknown length were counted once"
    of = what.split()[1]
    if own := told[f"compilers_seconds_per_{of}"]:
        yield f"seconds of {what} by the compiler: {own:.3g}, without kernels and collectives"
    if line := told["roofline"]:
        least = told[f"seconds_per_{of}"]
        yield (
            f"seconds of {what}, at least: {least:.3g} (products {line['products']:.3g}, memory "
            f"{line['memory']:.3g}, interconnect {line['interconnect']:.3g}); {line['apart']:.3g} "
            "if none goes on beside another"
        )


def _of_branches(plan: Json) -> Iterator[str]:
    header = ("branch", "updates", "hours at least", "device-hours", "a second")
    rows = [
        (
            " + ".join(each["names"]),
            f"{each['updates']:,}",
            f"{each['hours']:,.2f}",
            f"{each['device_hours']:,.0f}",
            f"{each['per_second']:,.0f} {each['unit']}",
        )
        for each in plan["branches"]
        if each["hours"] is not None
    ]
    total = ("all", "", f"{plan['hours']:,.2f}", f"{plan['device_hours']:,.0f}", "")
    yield from aligned([header, *rows, total], range(1, 5))
    yield "Evaluation, checkpoints and compilation are not counted."


def _size(count: float) -> str:
    unit = next((i for i in (3, 2) if count >= 2 ** (10 * i) / 10), 1)
    return f"{count / 2 ** (10 * unit):.3g} {' KMG'[unit]}iB"
