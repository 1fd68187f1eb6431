"""Contestants over their settings: errors once, times in turns, and who is how much faster."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from math import inf
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.bench.peers import Contestant, Setting, Solve

FLOOR = 1e-6
"""Relative errors below this are float32's own, and count as equal."""
_ALMOST = 1.5
"""A peer counts as at its best error within this factor, so that no last digit costs it time."""


class Point(NamedTuple):
    """A contestant under one setting."""

    name: str
    k: int
    setting: Setting
    error: float
    """The largest relative error of the k eigenvalues."""
    products: int
    seconds: list[float]
    """The time of each timed run, compilation not included."""
    cpu_seconds: list[float]
    """The time of all threads, which other load on the machine moves less."""

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))

    @property
    def written(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.setting.items())

    def summary(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._fields[:5]} | {"seconds": self.median}


class Comparison(NamedTuple):
    """A peer at its own best error, and ours at that error or better."""

    peer: Point
    ours: Point | None
    """None where ours does not get there."""
    times: float | None
    """How often ours is done while the peer is."""

    def summary(self) -> dict[str, Any]:
        ours = self.ours and self.ours.summary()
        return {"peer": self.peer.summary(), "ours": ours, "times_as_fast": self.times}


def race(
    contestants: Mapping[str, Contestant],
    solvers: Mapping[str, Solve],
    exact: np.ndarray,
    repeats: int,
) -> list[Point]:
    """The points of every contestant that none of its own beats, timed in turns.

    The first run of each setting, which compiles, gives error and products alone.
    """
    points, k = [], len(exact)
    for name, solve in solvers.items():
        tried: list[Point] = []
        for setting in contestants[name].sweep(k):
            found = solve(k, **setting)
            error = float(np.max(np.abs(found.eigenvalues / exact - 1)))
            point = Point(name, k, setting, error, found.products, [], [])
            tried.append(point)
        points += _unbeaten(tried)
    for turn in range(repeats):
        for point in points if turn % 2 == 0 else reversed(points):
            wall, cpu = _timed(solvers[point.name], point)
            point.seconds.append(wall)
            point.cpu_seconds.append(cpu)
    return points


def with_compilation(solve: Solve, point: Point) -> float:
    """Seconds of a run that finds nothing compiled."""
    jax.clear_caches()
    return _timed(solve, point)[0]


def comparisons(points: list[Point], ours: str) -> list[Comparison]:
    """Every peer against `ours`, for each k."""
    found = []
    for name, k in dict.fromkeys((point.name, point.k) for point in points if point.name != ours):
        theirs, mine = ([p for p in points if (p.name, p.k) == (of, k)] for of in (name, ours))
        if peer := _fastest(theirs, _ALMOST * min(point.error for point in theirs)):
            best = _fastest(mine, peer.error)
            found.append(Comparison(peer, best, peer.median / best.median if best else None))
    return found


def _timed(solve: Solve, point: Point) -> tuple[float, float]:
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    solve(point.k, **point.setting)
    return time.perf_counter() - wall, time.process_time() - cpu


def _fastest(points: list[Point], error: float) -> Point | None:
    """The fastest of those with this error or less."""
    good = [point for point in points if point.error <= max(error, FLOOR)]
    return min(good, key=lambda point: point.median, default=None)


def _unbeaten(tried: list[Point]) -> list[Point]:
    """Those to which no other has as small an error by fewer products, or by as many."""
    found: list[Point] = []
    for point in sorted(tried, key=lambda point: (point.products, point.error)):
        if max(point.error, FLOOR) < min((max(each.error, FLOOR) for each in found), default=inf):
            found.append(point)
    return found
