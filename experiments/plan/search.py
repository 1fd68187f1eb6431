"""Which settings make an update fit: the config's own, else those that cost least in speed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax

from experiments.plan import programs
from experiments.plan.compiling import Compiled, Refused, compiled
from experiments.plan.programs import Group, Settings
from experiments.plan.topology import Topology
from wsdjax import models
from wsdjax.config import Mesh
from wsdjax.errors import ConfigError
from wsdjax.placement import mesh
from wsdjax.placement.mesh import Shardings

TRIES = 8
"""Programs that are compiled at most, after the config's own."""
REMAT = ("none", "dots", "layers")
"""From the least that is computed again to the most."""


class Try(NamedTuple):
    """One setting, and what the compiler says of it."""

    settings: Settings
    found: Compiled | Refused | None
    """None where a batch cannot be cut so."""
    why: str = ""
    """What is wrong, in words."""

    @property
    def fits(self) -> bool:
        return isinstance(self.found, Compiled) and not self.why


def place(group: Group, asked: Mesh, topology: Topology) -> Shardings:
    """Where siblings live; a `ValueError` for a batch that cannot be cut as its branch says."""
    first = group[0]
    return mesh.shardings(
        asked,
        first.model,
        programs.replicates(group),
        first.batch_size,
        first.accumulate,
        topology.devices,
    )


def search(
    group: Group,
    asked: Mesh,
    topology: Topology,
    tell: Callable[[str], None] = lambda _: None,
    hint: Settings | None = None,
) -> list[Try]:
    """What was tried, in order; if anything fits it is the last.

    The config's own settings come first, then those of the `hint`, which fit another program. Then
    come others in the order of the seconds that they would take by their products, their gathers
    and their sums of gradients, without those that cannot fit: no program needs less of its memory
    than in proportion to its micro-batches.

    Raises:
      ConfigError: for a mesh that the devices do not make, or that no batch can be cut for.
    """
    given = Settings.of(group[0])
    alone = programs.changed(group, given._replace(accumulate=1))
    try:
        place(alone, asked, topology)
    except ValueError as error:
        raise ConfigError(f"--devices={topology.name}: {error}") from None
    tries = [_try(group, given, asked, topology, tell)]
    if tries[0].fits:
        return tries
    waiting = sorted(
        (settings for settings in _others(group, asked, topology) if settings != given),
        key=_expected(group, asked, topology),
    )
    if hint in waiting:
        waiting = [hint, *(settings for settings in waiting if settings != hint)]
    while not tries[-1].fits and len(tries) <= TRIES:
        left = [settings for settings in waiting if _may_fit(settings, tries, topology.memory)]
        if not left:
            break
        waiting = left[1:]
        tries.append(_try(group, left[0], asked, topology, tell))
    return tries


def _try(
    group: Group,
    settings: Settings,
    asked: Mesh,
    topology: Topology,
    tell: Callable[[str], None],
) -> Try:
    group = programs.changed(group, settings)
    try:
        placed = place(group, asked, topology)
    except ValueError as error:
        return Try(settings, None, str(error))
    tell(f"compiling {named(settings)}")
    found = compiled(programs.update(group, placed), *topology.count_and_platform)
    return Try(settings, found, too_large(found, topology.memory))


def too_large(found: Compiled | Refused, limit: float) -> str:
    """In words, of what does not fit; empty for what does."""
    if isinstance(found, Refused):
        return found.said
    return "" if found.memory.total <= limit else "more than the device has"


def needed(found: Compiled | Refused) -> float:
    """Bytes of a device, at least."""
    return found.needed if isinstance(found, Refused) else found.memory.total


def named(settings: Settings) -> str:
    remat = "" if settings.remat is None else f", remat {settings.remat}"
    return f"{settings.accumulate} micro-batch{'es' * (settings.accumulate > 1)}{remat}"


def _others(group: Group, asked: Mesh, topology: Topology) -> Iterator[Settings]:
    first, one = group[0], Settings.of(group[0])._replace(accumulate=1)
    parts = place(programs.changed(group, one), asked, topology).spread.parts
    each = first.batch_size // parts
    for accumulate in (n for n in range(1, each + 1) if each % n == 0):
        for remat in REMAT if one.remat is not None else (None,):
            yield Settings(accumulate, remat)


def _expected(
    group: Group, asked: Mesh, topology: Topology
) -> Callable[[Settings], tuple[float, int]]:
    """Seconds that settings would take, roughly, for an order; fewer micro-batches before more."""
    one = Settings.of(group[0])._replace(accumulate=1)
    placed = place(programs.changed(group, one), asked, topology)
    shapes = jax.eval_shape(models.build(group[0].model).init, jax.random.key(0))
    weights = programs.replicates(group) / placed.mesh.shape["replica"]
    weights *= sum(leaf.size for leaf in jax.tree.leaves(shapes))
    divided = placed.mesh.shape["fsdp"] > 1
    row, products = topology.row, {}
    for remat in REMAT if one.remat is not None else (None,):
        cut = programs.changed(group, Settings(1, remat))
        products[remat] = programs.update_flops(cut) / len(topology.devices)

    def expected(settings: Settings) -> tuple[float, int]:
        if row is None:
            return products[settings.remat], settings.accumulate
        # Weights are gathered twice in two bytes and summed once in four; sums of gradients are
        # read, added to and written.
        gathers = 2 * 2 + 2 * 4 if divided else 0
        sums = 12 / placed.mesh.shape["fsdp"] if settings.accumulate > 1 else 0
        a_part = weights * (gathers / row.links + sums / row.bandwidth)
        seconds = products[settings.remat] / row.peak + settings.accumulate * a_part
        return seconds, settings.accumulate

    return expected


def _may_fit(settings: Settings, tries: Sequence[Try], limit: float) -> bool:
    """Whether what was tried leaves it open."""
    for tried in tries:
        if tried.found is None or tried.fits or _rank(settings) > _rank(tried.settings):
            continue
        as_much = settings.accumulate <= tried.settings.accumulate
        least = needed(tried.found) * tried.settings.accumulate / settings.accumulate
        if as_much or least > limit:
            return False
    return True


def _rank(settings: Settings) -> int:
    return REMAT.index(settings.remat) if settings.remat in REMAT else 0
