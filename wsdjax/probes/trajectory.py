"""The geometry of a trajectory: norms, distances, alignment, convexity.

`iterates` is a sequence of parameter trees; it may load each one when it is asked for, and is
then never in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wsdjax.probes import vectors
from wsdjax.probes.objective import Batches, LossFn, gradient, loss
from wsdjax.probes.vectors import Tree, difference, dot, norm


def weak_quasi_convexity(
    loss_fn: LossFn,
    iterates: Sequence[Tree],
    solution: Tree,
    batches: Batches,
    at_a_time: int | None = None,
) -> np.ndarray:
    """tau_i = <grad L(x_i), x_i - x*> / (L(x_i) - L(x*)), float64 [T] (Belloni et al., figure 4).

    The loss is weakly quasi-convex along the iterates where tau > 0, as of a convex loss
    tau >= 1. NaN where the two losses are equal. `at_a_time` is as for `wsdjax.probes.Hessian`.
    """
    alike = vectors.Iterates(iterates)
    solution = vectors.like_parameters(solution, alike[0], "the solution")
    best = loss(loss_fn, solution, batches, at_a_time)
    taus = []
    for iterate in alike:
        above = loss(loss_fn, iterate, batches, at_a_time) - best
        here = gradient(loss_fn, iterate, batches, at_a_time)
        slope = float(dot(here, difference(iterate, solution)))
        taus.append(slope / above if above else np.nan)
    return np.array(taus)


def update_alignment(
    loss_fn: LossFn, iterates: Sequence[Tree], batches: Batches, at_a_time: int | None = None
) -> np.ndarray:
    """cos(-grad L(x_i), x_{i+1} - x_i) for i = 0, ..., T - 2, float64 [T - 1].

    NaN where an update or a gradient is zero. `at_a_time` is as for `wsdjax.probes.Hessian`.
    """
    iterates = vectors.Iterates(iterates)
    cosines = []
    for i in range(len(iterates) - 1):
        here = iterates[i]
        slope = gradient(loss_fn, here, batches, at_a_time)
        update = difference(iterates[i + 1], here)
        length = float(norm(slope)) * float(norm(update))
        cosines.append(-float(dot(slope, update)) / length if length else np.nan)
    return np.array(cosines)


class Distances(NamedTuple):
    norms: np.ndarray
    """float64 [T]: ||x_i||."""
    steps: np.ndarray
    """float64 [T - 1]: ||x_{i+1} - x_i||."""
    travelled: np.ndarray
    """float64 [T]: the sum of the steps up to i."""
    moved: np.ndarray
    """float64 [T]: ||x_i - x_0||."""


def distances(iterates: Sequence[Tree]) -> Distances:
    """Norms of the iterates, and the distance travelled against the distance moved."""
    iterates = vectors.Iterates(iterates)
    first = before = iterates[0]
    rows = []
    for iterate in iterates:
        since = difference(iterate, before), difference(iterate, first)
        rows.append([float(norm(each)) for each in (iterate, *since)])
        before = iterate
    norms, steps, moved = np.array(rows).T
    return Distances(norms, steps[1:], np.cumsum(steps), moved)
