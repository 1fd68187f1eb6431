"""Interleaved timing: everybody in turns, so that what slows the machine slows all of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from experiments.bench.rows import OF_ITS_TIME, TIMES_AS_FAST, Goal, Line, on_cpu

Work = Callable[[int], Any]
"""``work(n)`` does it n times, and returns once all is done."""
OURS = "wsdjax"
T = TypeVar("T")
LEAST, _MOST = 3, 40
"""Turns, at least and at most."""
_LONG_ENOUGH = 0.2
"""Seconds of one turn of a work, of which clocks and other processes are a small part."""


def timed() -> float:
    """Seconds that the turns of a comparison may take."""
    return 12.0 if on_cpu() else 6.0


def alternately(measures: Mapping[str, Callable[[], T]], seconds: float = 0) -> dict[str, list[T]]:
    """What each gives in every turn: in one order and then in the other, three turns or as many as
    fit the seconds."""
    found: dict[str, list[T]] = {name: [] for name in measures}
    end, turn = time.perf_counter() + seconds, 0
    while turn < LEAST or (time.perf_counter() < end and turn < _MOST):
        for name in list(measures)[:: 1 if turn % 2 == 0 else -1]:
            found[name].append(measures[name]())
        turn += 1
    return found


def in_turns(works: Mapping[str, Work], seconds: float) -> dict[str, list[float]]:
    """What each work, which has run before, takes to be done once, by turns."""

    def repeated(work: Work) -> Callable[[], float]:
        count = max(1, round(_LONG_ENOUGH / _seconds(work, 1)))
        return lambda: _seconds(work, count)

    return alternately({name: repeated(work) for name, work in works.items()}, seconds)


def contest(
    ours: Work, peers: Mapping[str, Callable[[], Work]], goal: Goal | None = None, **also: Any
) -> Iterator[Line]:
    """How many times as fast ours is as each of the peers, which are built first; of one that
    cannot be, why."""
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
    for name in works:
        if name != OURS:
            mine, theirs = times[OURS], times[name]
            told = {
                "our_seconds": float(np.median(mine)),
                "their_seconds": float(np.median(theirs)),
                "first_seconds": {OURS: first[OURS], name: first[name]},
            }
            yield Line(name, ratios(theirs, mine), TIMES_AS_FAST, told | also, goal=goal)


def overhead(
    work: Work, base: Work, against: str, goal: Goal | None = None, **also: Any
) -> Iterator[Line]:
    """What the work takes in units of its base; the first call of each is told apart."""
    first = {"first_seconds": _seconds(work, 1), "first_seconds_of_base": _seconds(base, 1)}
    times = in_turns({"work": work, "base": base}, timed())
    told = {f"seconds{'' if k == 'work' else '_of_base'}": np.median(v) for k, v in times.items()}
    values = ratios(times["work"], times["base"])
    yield Line(against, values, OF_ITS_TIME, {**told, **first, **also}, goal=goal)


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(above, below, strict=True)]


def exponents(works: Mapping[int, Work]) -> tuple[list[float], dict[int, float]]:
    """(p of seconds ~ size^p, fitted in each turn; the median seconds of each size)."""
    for work in works.values():
        work(1)
    times = in_turns({str(size): work for size, work in works.items()}, timed())
    sizes = np.log(list(works))
    fits = [
        float(np.polyfit(sizes, np.log(turn), 1)[0]) for turn in zip(*times.values(), strict=True)
    ]
    return fits, {size: float(np.median(times[str(size)])) for size in works}


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
