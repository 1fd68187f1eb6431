"""Which settings make an update fit: the config's own, else those that cost least in speed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from experiments.plan import programs
from experiments.plan.compiling import Told, ask
from experiments.plan.programs import Settings, Siblings
from experiments.plan.topology import Topology
from wsdjax.errors import ConfigError
from wsdjax.placement.mesh import Shardings
from wsdjax.training import cost
from wsdjax.training.compiled import Compiled

TRIES = 8
"""Programs that are compiled at most, after the config's own."""
REMAT = ("none", "dots", "layers")
"""From the least that is computed again to the most."""
SPARE = 1 / 8
"""Of a device's memory, that settings should leave if that costs little."""
LITTLE = 1.05
"""Times the seconds."""


class Try(NamedTuple):
    """One setting, and what the compiler says of it."""

    settings: Settings
    told: Told | None
    """None where a batch cannot be cut so."""
    why: str = ""
    """What is wrong, in words."""

    @property
    def fits(self) -> bool:
        return not self.why


def search(
    siblings: Siblings, compiled: Compiled, topology: Topology, hint: Settings | None = None
) -> tuple[list[Try], Try | None]:
    """What was tried, in order, and what to take; None if nothing fits.

    The config's own settings come first, and are taken if they fit. Then come those of the `hint`,
    which fit another program, and others in the order of the seconds that they would take by their
    products, their gathers and their sums of gradients, without those that cannot fit: no program
    needs less of its memory than in proportion to its micro-batches. The first that fits with an
    eighth of the memory to spare is taken, if it takes no more than 5% longer than the first that
    fits at all, else that one.

    Raises:
      ConfigError: for a mesh that the devices do not make, or that no batch can be cut for.
    """
    given = Settings.of(siblings[0])
    whole = programs.changed(siblings, given._replace(accumulate=1))
    try:
        placed = compiled.placed(whole)
    except ValueError as error:
        raise ConfigError(f"--devices={topology.name}: {error}") from None
    tries = [_try(siblings, given, compiled, topology)]
    if tries[0].fits:
        return tries, tries[0]
    expected = _expected(siblings, placed, topology)
    others = (settings for settings in _all(siblings, placed) if settings != given)
    waiting = sorted(sorted(others, key=expected), key=lambda settings: settings != hint)
    taken, enough, longest = None, topology.memory, float("inf")
    while len(tries) <= TRIES:
        waiting = [s for s in waiting if _may_fit(s, tries, enough) and expected(s)[0] <= longest]
        if not waiting:
            break
        tried = _try(siblings, waiting.pop(0), compiled, topology)
        tries.append(tried)
        if not tried.fits:
            continue
        enough = (1 - SPARE) * topology.memory
        if tried.told and not tried.told.wrong(enough):
            return tries, tried
        if taken is None:
            taken, longest = tried, LITTLE * expected(tried.settings)[0]
    return tries, taken


def _try(siblings: Siblings, settings: Settings, compiled: Compiled, topology: Topology) -> Try:
    siblings = programs.changed(siblings, settings)
    try:
        compiled.placed(siblings)
    except ValueError as error:
        return Try(settings, None, str(error))
    told = ask(str(settings), programs.update(siblings, compiled), topology)
    if told.unknown_loops and compiled.loops:  # one is of updates, as many as a call is asked for
        told = dataclasses.replace(told, unknown_loops=told.unknown_loops - 1)
    return Try(settings, told, told.wrong(topology.memory))


def _all(siblings: Siblings, placed: Shardings) -> Iterator[Settings]:
    each = siblings[0].batch_size // placed.spread.parts
    for accumulate in (n for n in range(1, each + 1) if each % n == 0):
        for remat in _remat(siblings):
            yield Settings(accumulate, remat)


def _remat(siblings: Siblings) -> Sequence[str | None]:
    return (None,) if Settings.of(siblings[0]).remat is None else REMAT


def _expected(
    siblings: Siblings, placed: Shardings, topology: Topology
) -> Callable[[Settings], tuple[float, int]]:
    """Seconds that settings would take, roughly, for an order; fewer micro-batches before more."""
    along, row = placed.mesh.shape, topology.row
    weights = cost.of_branch(siblings[0]).parameters
    weights *= programs.replicates(siblings) // along["replica"]
    products = {
        remat: programs.update_flops(programs.changed(siblings, Settings(1, remat)))
        for remat in _remat(siblings)
    }

    def expected(settings: Settings) -> tuple[float, int]:
        seconds = products[settings.remat] / len(topology.devices)
        if row is not None:
            # Weights are gathered twice in two bytes and summed once in four; sums of gradients
            # are read, added to and written.
            gathers = 2 * 2 + 2 * 4 if along["fsdp"] > 1 else 0
            sums = 12 / along["fsdp"] if settings.accumulate > 1 else 0
            a_part = weights * (gathers / row.links + sums / row.bandwidth)
            seconds = seconds / row.peak + settings.accumulate * a_part
        return seconds, settings.accumulate

    return expected


def _may_fit(settings: Settings, tries: Sequence[Try], limit: float) -> bool:
    """Whether what was tried leaves it open."""
    for tried in tries:
        told, times = tried.told, settings.accumulate / tried.settings.accumulate
        if told is None or not told.wrong(limit) or _rank(settings) > _rank(tried.settings):
            continue
        # A refusal without a number is of more than there is.
        if times <= 1 or (told.needed or limit) / times > limit:
            return False
    return True


def _rank(settings: Settings) -> int:
    return REMAT.index(settings.remat) if settings.remat else 0
