"""Contestants over their settings: errors once, times in turns, and who is how much faster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from math import inf
from typing import Any, NamedTuple

import numpy as np

from experiments.bench.measure import ALONE, alternately, ratios, seconds_of
from experiments.bench.peers import Contestant, Setting, Solve
from experiments.bench.rows import NO_GOAL, SECONDS, Line

FLOOR = 1e-6
"""Relative errors below this are float32's own, and count as equal."""
_ALMOST = 1.5
"""A peer counts as at its best error within this factor, so that no last digit costs it time."""


class Point(NamedTuple):
    """A contestant under one setting."""

    name: str
    setting: Setting
    error: float
    """The largest relative error of the eigenvalues."""
    products: int
    seconds: list[float]
    """The time of each timed run, compilation not included."""

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))

    def summary(self) -> dict[str, Any]:
        return self._asdict() | {"seconds": self.median}


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
            tried.append(Point(name, setting, error, found.products, []))
        points += _unbeaten(tried)
    solved = {i: partial(solvers[p.name], k, **p.setting) for i, p in enumerate(points)}
    runs = {i: partial(seconds_of, solve) for i, solve in solved.items()}
    times = alternately(runs, least=repeats)
    return [point._replace(seconds=times[i]) for i, point in enumerate(points)]


def comparisons(points: list[Point], ours: str) -> Iterator[Line]:
    """Every peer at its own best error against ours at that error or better; without peers ours
    at its best."""
    mine = [point for point in points if point.name == ours]
    for name in dict.fromkeys(point.name for point in points if point.name != ours):
        theirs = [point for point in points if point.name == name]
        peer = _fastest(theirs, _ALMOST * min(point.error for point in theirs))
        assert peer  # at its least error, since that is a number
        told = {"peer": peer.summary()}
        if best := _fastest(mine, peer.error):
            told["ours"] = best.summary()
            yield Line(name, ratios(peer.seconds, best.seconds), also=told)
        else:
            yield Line(name, [], also=told, why=f"error {peer.error:.1e} not reached")
    if len(mine) == len(points) and (best := _fastest(mine, min(p.error for p in mine))):
        yield Line(ALONE, best.seconds, SECONDS, {"ours": best.summary()}, goal=NO_GOAL)


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
