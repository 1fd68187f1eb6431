"""Interleaved timing: everybody in turns, so that what slows the machine slows all of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from experiments.bench.rows import NO_GOAL, OF_ITS_TIME, SECONDS, Line, here

Work = Callable[[int], Any]
"""``work(n)`` does it n times, and returns once all is done."""
OURS, ALONE = "wsdjax", "alone"
Key = TypeVar("Key")
T = TypeVar("T")
LEAST, _MOST = 3, 40
"""Turns, at least and at most."""
_LONG_ENOUGH = 0.2
"""Seconds of one turn of a work, of which clocks and other processes are a small part."""


def timed() -> float:
    """Seconds that the turns of a comparison may take."""
    return here((12.0, 6.0))


def repeating(function: Callable[[], Any]) -> Work:
    """The work of calling a function."""
    return lambda count: [jax.block_until_ready(function()) for _ in range(count)]


def alternately(
    measures: Mapping[Key, Callable[[], T]], seconds: float = 0, least: int = LEAST
) -> dict[Key, list[T]]:
    """What each gives in every turn: in one order and then in the other, so many turns at least or
    as many as fit the seconds."""
    found: dict[Key, list[T]] = {name: [] for name in measures}
    end, turn = time.perf_counter() + seconds, 0
    while turn < least or (time.perf_counter() < end and turn < _MOST):
        for name in list(measures)[:: 1 if turn % 2 == 0 else -1]:
            found[name].append(measures[name]())
        turn += 1
    return found


def in_turns(works: Mapping[Key, Work], seconds: float) -> dict[Key, list[float]]:
    """What each work, which has run before, takes to be done once, by turns."""

    def of(work: Work) -> Callable[[], float]:
        count = max(1, round(_LONG_ENOUGH / _seconds(work, 1)))
        return lambda: _seconds(work, count)

    return alternately({name: of(work) for name, work in works.items()}, seconds)


def contest(ours: Work, peers: Mapping[str, Callable[[], Work]]) -> Iterator[Line]:
    """How many times as fast ours is as each of the peers, which are built first; of one that
    cannot be, why. Where none can be, the seconds of ours."""
    works, first = {OURS: ours}, {OURS: _seconds(ours, 1)}
    for name, build in peers.items():
        begun = time.perf_counter()
        try:
            work = build()
            work(1)
        except Exception as error:  # whatever another library raises: the others go on
            yield Line(name, [], why=reason(error))
            continue
        works[name], first[name] = work, time.perf_counter() - begun
    times = in_turns(works, timed())
    mine = times.pop(OURS)
    told: dict[str, Any] = {"our_seconds": float(np.median(mine)), "first_seconds": first}
    if not times:
        yield Line(ALONE, mine, SECONDS, told, goal=NO_GOAL)
    for name, theirs in times.items():
        also = told | {"their_seconds": float(np.median(theirs))}
        yield Line(name, ratios(theirs, mine), also=also)


def overhead(work: Work, base: Work, against: str) -> Line:
    """What the work takes in units of its base; the first call of each is told apart."""
    works = {"work": work, "base": base}
    first = {name: _seconds(each, 1) for name, each in works.items()}
    times = in_turns(works, timed())
    told = {"seconds": {n: np.median(v) for n, v in times.items()}, "first_seconds": first}
    return Line(against, ratios(times["work"], times["base"]), OF_ITS_TIME, told)


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(above, below, strict=True)]


def reason(error: BaseException) -> str:
    if isinstance(error, ImportError):
        return f"not installed: {error}"
    lines = str(error).strip().splitlines() or [""]
    return f"failed: {type(error).__name__}: {lines[0][:200]}"


def seconds_of(work: Callable[[], Any]) -> float:
    gc.collect()
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _seconds(work: Work, count: int) -> float:
    return seconds_of(lambda: work(count)) / count
