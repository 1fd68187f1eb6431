"""Claims as pure functions of measured arrays: a value, its interval, and a verdict.

Runs are replicates of one setting that differ in their seed alone. What is compared within a run
(two branches of one trunk, two directions at one node) is compared by its paired difference, of
which the spread between seeds is no part. Intervals are Student's t for a mean of R runs, at 95%;
where several contrasts must hold at once they are Bonferroni's, so that all cover together. A
single run has no interval, and decides nothing but the shape of a line, whose interval is then that
of the disjoint parts of its sample.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

LEVEL = 0.95


class Verdict(StrEnum):
    HELD = "held"
    NOT_HELD = "not held"
    NOT_TOLD_APART = "not told apart"


@dataclass(frozen=True)
class Finding:
    """What a claim comes to."""

    value: float
    interval: tuple[float, float]
    """At 95%; (-inf, inf) where there is none."""
    runs: int
    verdict: Verdict


@dataclass(frozen=True)
class Claim:
    """One row of a table of claims, as `claims.json` has it."""

    paper: str
    figure: int | None
    """Of the paper; None for what is in none of them."""
    model: str
    claim: str
    unit: str
    finding: Finding

    def as_json(self) -> dict[str, Any]:
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        finding: Finding = fields.pop("finding")
        interval = [None if math.isinf(bound) else bound for bound in finding.interval]
        value = finding.value if math.isfinite(finding.value) else None
        return fields | {
            "value": value,
            "interval": interval,
            "runs": finding.runs,
            "verdict": finding.verdict.value,
        }


def above(values: ArrayLike, bound: float = 0.0, level: float = LEVEL) -> Finding:
    """Whether the mean over runs is above a bound.

    Args:
      values: [R], one for each run; for a paired comparison the difference within each.
      bound: in the unit of the values.
      level: of the interval.

    Raises:
      ValueError: for no run, or a value that is not finite.
    """
    of_runs = _runs(values, 1)
    low, high = interval(of_runs, level)
    return Finding(float(of_runs.mean()), (low, high), len(of_runs), _side(low, high, bound))


def below(values: ArrayLike, bound: float = 0.0) -> Finding:
    """Whether the mean over runs is below a bound; as `above`."""
    mirrored = above(-np.asarray(values, np.float64), -bound)
    low, high = mirrored.interval
    return dataclasses.replace(mirrored, value=-mirrored.value, interval=(-high, -low))


def convex(alphas: ArrayLike, losses: ArrayLike) -> Finding:
    """Whether the loss along a line is convex: a valley.

    The value is the mean depth of the curve below the chord from its first point to its last,
    in nats. Convexity is held if that is above zero and no second difference is below zero,
    and not held if one of them is, each beyond its error.

    Args:
      alphas: [P], ascending, at least three; the points of the line.
      losses: [R, K, P], for each run over K disjoint parts of the sample of examples, so that
        the sampling error is known, and is that of differences between points.

    Raises:
      ValueError: for shapes that do not fit, or a value that is not finite.
    """
    x, curves = _line(alphas, losses, 3)
    chord = curves[..., :1] + (x - x[0]) / (x[-1] - x[0]) * (curves[..., -1:] - curves[..., :1])
    depth = (chord - curves)[..., 1:-1].mean(-1)
    slopes = np.diff(curves) / np.diff(x)
    return _shape(depth, np.diff(slopes))


def descending(alphas: ArrayLike, losses: ArrayLike) -> Finding:
    """Whether the loss falls all along a line.

    The value is the loss at its first point less that at its last, in nats. Monotone descent is
    held if that is above zero and no step goes up, and not held if one does, beyond its error.
    Arguments and errors are those of `convex`, with two points or more.
    """
    _, curves = _line(alphas, losses, 2)
    return _shape(curves[..., 0] - curves[..., -1], -np.diff(curves))


def _shape(value: np.ndarray, contrasts: np.ndarray) -> Finding:
    """A shape that is there if the value [R, K] is above zero, unless one of the contrasts
    [R, K, C] is below zero."""
    low, high = interval(_independent(value))
    count = contrasts.shape[-1]
    bounds = [
        interval(_independent(contrasts[..., c]), 1 - (1 - LEVEL) / count) for c in range(count)
    ]
    verdict = _side(low, high, 0.0)
    if any(upper < 0 for _, upper in bounds):
        verdict = Verdict.NOT_HELD
    return Finding(float(value.mean()), (low, high), len(value), verdict)


def _independent(values: np.ndarray) -> np.ndarray:
    """[R, K] as what an interval may be made of: the runs, or the parts of a single run."""
    return values.mean(1) if len(values) > 1 else values[0]


def crossing(lengths: ArrayLike, excess: ArrayLike) -> Finding:
    """The shortest length from which on the excess is at most zero: the cooldown that matches.

    Between two lengths it is interpolated linearly. Its interval reaches from where the lower
    bounds of the excess cross zero to where the upper ones do; these are Student's t with
    Bonferroni's correction, so that all lengths are covered at 95%. Infinity where no length will
    do; the shortest length stands for all that are shorter. The verdict is whether there is one at
    all.

    Args:
      lengths: [L], ascending, such as shares of the training budget.
      excess: [R, L], the loss after a cooldown of each length less that of its rival, by run.

    Raises:
      ValueError: for shapes that do not fit, or a value that is not finite.
    """
    x, y = np.asarray(lengths, np.float64), _runs(excess, 2)
    if x.ndim != 1 or y.shape[1] != len(x) or not (np.diff(x) > 0).all():
        raise ValueError(f"lengths {x.shape} must ascend, and excess {y.shape} be [R, L]")
    level = 1 - (1 - LEVEL) / len(x)
    bounds = np.array([interval(column, level) for column in y.T])
    value, low, high = (_first_at_most_zero(x, each) for each in (y.mean(0), *bounds.T))
    if len(y) < 2:
        return Finding(value, (-math.inf, math.inf), len(y), Verdict.NOT_TOLD_APART)
    if math.isfinite(high):
        verdict = Verdict.HELD
    else:
        verdict = Verdict.NOT_TOLD_APART if math.isfinite(low) else Verdict.NOT_HELD
    return Finding(value, (low, high), len(y), verdict)


def at_most(found: Finding, bound: float) -> Finding:
    """The same value, judged by whether it is at most a bound; with an interval, such as that of
    `crossing`."""
    low, high = found.interval
    verdict = Verdict.NOT_TOLD_APART
    if high <= bound:
        verdict = Verdict.HELD
    elif low > bound:
        verdict = Verdict.NOT_HELD
    return dataclasses.replace(found, verdict=verdict)


def _first_at_most_zero(x: np.ndarray, y: np.ndarray) -> float:
    above_zero = np.flatnonzero(y > 0)
    if not len(above_zero):
        return float(x[0])
    last = above_zero[-1]
    if last == len(x) - 1:
        return math.inf
    share = y[last] / (y[last] - y[last + 1])
    return float(x[last] + share * (x[last + 1] - x[last]))


def interval(values: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Student's t interval of the mean of [R] values; (-inf, inf) for a single one."""
    if len(values) < 2:
        return -math.inf, math.inf
    error = values.std(ddof=1) / math.sqrt(len(values))
    half = stdtrit(len(values) - 1, (1 + level) / 2) * error
    mean = values.mean()
    return float(mean - half), float(mean + half)


def _side(low: float, high: float, bound: float) -> Verdict:
    if low > bound:
        return Verdict.HELD
    return Verdict.NOT_HELD if high < bound else Verdict.NOT_TOLD_APART


def _line(alphas: ArrayLike, losses: ArrayLike, least: int) -> tuple[np.ndarray, np.ndarray]:
    x, curves = np.asarray(alphas, np.float64), _runs(losses, 3)
    if x.ndim != 1 or len(x) < least or curves.shape[-1] != len(x) or not (np.diff(x) > 0).all():
        raise ValueError(
            f"alphas {x.shape} must ascend, {least} of them or more, and losses "
            f"{curves.shape} be [R, K, P]"
        )
    return x, curves


def _runs(values: ArrayLike, dimensions: int) -> np.ndarray:
    of_runs = np.asarray(values, np.float64)
    if of_runs.ndim != dimensions or not of_runs.size:
        raise ValueError(f"values of shape {of_runs.shape}: one axis of runs, {dimensions} in all")
    if not np.isfinite(of_runs).all():
        raise ValueError("a value of a run is not finite")
    return of_runs
