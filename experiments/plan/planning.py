"""Every distinct program of a tree, compiled for devices that are not here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from experiments.plan import programs
from experiments.plan.compiling import Compiled, Refused, compiled
from experiments.plan.programs import Group, Settings
from experiments.plan.roofline import Roofline, roofline
from experiments.plan.search import Try, place, search, too_large
from experiments.plan.topology import Topology
from experiments.plan.weights import Gather, largest
from wsdjax.config import Mesh
from wsdjax.config.json import key
from wsdjax.placement.mesh import Shardings

_WINDOWS = 16
"""Examples of a product on each device that are tried at most."""


@dataclass(frozen=True)
class Timed:
    """A compiled program that fits, and the least that one run of it takes."""

    found: Compiled
    flops: float
    """Of each device's matrix products."""
    line: Roofline | None
    """None for CPUs."""


@dataclass(frozen=True)
class Product:
    """A Hessian-vector product."""

    windows: int
    """Examples on each device."""
    examples: int
    """On all of them."""
    found: Compiled | Refused
    why: str
    timed: Timed | None


@dataclass(frozen=True)
class Planned:
    """One program of updates, for all groups of siblings that run it."""

    groups: list[Group]
    given: Settings
    tries: list[Try]
    placed: Shardings | None
    """None if nothing fits."""
    update: Timed | None
    gather: Gather | None
    initialisation: Compiled | Refused | None
    """None where no root starts from it."""
    product: Product | None

    @property
    def fits(self) -> bool:
        """As the config is."""
        return self.tries[0].fits

    @property
    def settings(self) -> Settings | None:
        """Those that fit."""
        return self.tries[-1].settings if self.tries[-1].fits else None

    @property
    def said(self) -> Compiled | Refused | None:
        """What the compiler said last of the update."""
        return next((each.found for each in reversed(self.tries) if each.found), None)


@dataclass(frozen=True)
class Plan:
    topology: Topology
    programs: list[Planned]


def plan(
    groups: Sequence[Group],
    asked: Mesh,
    topology: Topology,
    with_product: bool,
    tell: Callable[[str], None] = lambda _: None,
) -> Plan:
    """Compiles what is distinct among the groups' programs; raises as `search`."""
    alike: dict[str, list[Group]] = {}
    for group in groups:
        alike.setdefault(_program(group), []).append(group)
    # What takes most comes first: settings that make it fit are tried first for the others too.
    ordered = sorted(alike.values(), key=lambda same: -programs.replicates(same[0]))
    found: list[Planned] = []
    products: dict[Any, Product] = {}
    for same in ordered:
        names = ", ".join(branch.name for branch in same[0])
        tell(f"the update of {names}, for {len(topology.devices)} x {topology.kind}")
        hint = next((each.settings for each in found if not each.fits), None)
        wanted = products if with_product else None
        found.append(_planned(same, asked, topology, hint, wanted, tell))
    return Plan(topology, found)


def _program(group: Group) -> str:
    """What tells one program from another: what `wsdjax.training.compiled` goes by, and the shapes
    of what it is given."""
    first = group[0]
    return key(
        *(first.model, first.averages, first.accumulate, first.batch_size),
        *(first.data.shapes, programs.replicates(group)),
    )


def _planned(
    same: list[Group],
    asked: Mesh,
    topology: Topology,
    hint: Settings | None,
    products: dict[Any, Product] | None,
    tell: Callable[[str], None],
) -> Planned:
    group = same[0]
    given, tries = Settings.of(group[0]), search(group, asked, topology, tell, hint)
    last = tries[-1]
    if not last.fits or not isinstance(last.found, Compiled):
        return Planned(same, given, tries, None, None, None, None, None)
    fitting = programs.changed(group, last.settings)
    placed = place(fitting, asked, topology)
    made, product = None, None
    if any(not each[0].parent for each in same):
        tell("compiling the initialisation")
        made = compiled(programs.initialisation(fitting, placed), *topology.count_and_platform)
    if products is not None:
        of = key(group[0].model, group[0].data.shapes)
        product = products.get(of) or _product(fitting, placed, topology, tell)
        products[of] = product
    low = getattr(group[0].model, "compute", "float32") == "bfloat16"
    flops, rate = programs.update_flops(fitting), "peak" if low else "float32"
    update = _timed(last.found, flops, topology, rate)
    gather = largest(last.found.collectives, fitting, placed)
    return Planned(same, given, tries, placed, update, gather, made, product)


def _product(
    group: Group, placed: Shardings, topology: Topology, tell: Callable[[str], None]
) -> Product:
    """On one example a device; then on as many as fit even if all temporaries grow with them."""

    def of(windows: int) -> Product:
        tell(f"compiling a Hessian-vector product of {windows} x {placed.spread.parts} examples")
        found = compiled(programs.product(group, placed, windows), *topology.count_and_platform)
        examples = windows * placed.spread.parts
        why = too_large(found, topology.memory)
        timed = None
        if isinstance(found, Compiled) and not why:
            flops = programs.product_flops(group, examples)
            timed = _timed(found, flops, topology, "highest")
        return Product(windows, examples, found, why, timed)

    one = of(1)
    if one.why or not isinstance(one.found, Compiled):
        return one
    memory = one.found.memory
    room = topology.memory - (memory.total - memory.temporaries)
    most = min(_WINDOWS, int(room / max(1, memory.temporaries)))
    if most < 2:
        return one
    more = of(2 ** int(math.log2(most)))
    return one if more.why else more


def _timed(found: Compiled, flops: float, topology: Topology, rate: str) -> Timed:
    each = flops / len(topology.devices)
    row = topology.row
    line = roofline(found, each, getattr(row, rate), row) if row else None
    return Timed(found, each, line)


def parameters(group: Group) -> int:
    """Of one replicate."""
    from wsdjax import models

    shapes = jax.eval_shape(models.build(group[0].model).init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))
