"""The geometry of a trajectory: principal directions, norms, distances, alignment, convexity.

`iterates` is a sequence of parameter trees; it may load each one when it is asked for, and is
then never in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wsdjax.probes import vectors
from wsdjax.probes.objective import Batches, LossFn, gradient, loss
from wsdjax.probes.vectors import ProbeError, Tree, combine, difference, dot, norm, normalized


class PrincipalComponents(NamedTuple):
    directions: Tree
    """Leaves [k, ...]: unit vectors."""
    explained_variance_ratio: np.ndarray
    """float64 [k]: each component's share of the variance of the iterates."""
    mean: Tree


def principal_components(iterates: Sequence[Tree], k: int = 1) -> PrincipalComponents:
    """PCA of T iterates through their T x T Gram matrix, in float64 (Belloni et al., figure 7).

    The sign of a direction is that in which the last iterate lies. Of T iterates, two or more,
    there are k < T components.
    """
    iterates = vectors.Iterates(iterates)
    count = len(iterates)
    if count <= vectors.whole("k", k):
        raise ProbeError(f"k = {k} components take {k + 1} iterates or more; there are {count}")
    origin = iterates[0]
    # Of differences from the first: of the iterates themselves, alike as they are, the Gram
    # matrix would lose the digits that matter.
    gram = np.zeros((count, count))
    for i in range(count):
        moved = _moved(iterates[i], origin)
        for j in range(i + 1):
            products = map(np.vdot, moved, _moved(iterates[j], origin))
            gram[i, j] = gram[j, i] = sum(products)
    centring = np.eye(count) - 1 / count
    values, axes = np.linalg.eigh(centring @ gram @ centring)
    values, axes = values[::-1].clip(0), axes[:, ::-1]
    total = values.sum()
    if not (np.isfinite(total) and total > 0):
        raise ProbeError("the iterates do not move, or are not finite: no principal component")
    mean = _combined(iterates, origin, np.full(count, 1 / count), start=1.0)
    directions = []
    for i in range(k):
        direction = _combined(iterates, origin, centring @ axes[:, i])
        sign = 1.0 if float(dot(direction, difference(iterates[-1], mean))) >= 0 else -1.0
        directions.append(normalized(combine((sign,), direction), f"component {i + 1}"))
    return PrincipalComponents(vectors.stack(directions), values[:k] / total, mean)


class PhaseDirections(NamedTuple):
    """One dominant direction a phase (Belloni et al., figures 3 and 7)."""

    stable: Tree
    """v_s, of unit norm."""
    decay: Tree
    """v_d, of unit norm."""
    explained: tuple[float, float]
    """The share of its phase's variance that each explains."""
    cosine: float
    """<v_s, v_d>."""


def phase_directions(stable: Sequence[Tree], decay: Sequence[Tree]) -> PhaseDirections:
    """v_s and v_d: the first principal component of the iterates of the stable phase, and of
    those of the cooldown; each points the way its phase went."""
    found = [principal_components(iterates) for iterates in (stable, decay)]
    v_s, v_d = (vectors.take(each.directions, 0) for each in found)
    v_d = vectors.like_parameters(v_d, v_s, "the decay's direction")
    ratios = [float(each.explained_variance_ratio[0]) for each in found]
    return PhaseDirections(v_s, v_d, (ratios[0], ratios[1]), float(dot(v_s, v_d)))


def _moved(iterate: Tree, origin: Tree) -> list[np.ndarray]:
    """The way from the origin to an iterate, in float64 on the host."""
    a, b = (jax.device_get(jax.tree.leaves(tree)) for tree in (iterate, origin))
    return [
        np.asarray(x, np.float64) - np.asarray(y, np.float64) for x, y in zip(a, b, strict=True)
    ]


def _combined(
    iterates: vectors.Iterates, origin: Tree, weights: np.ndarray, start: float = 0.0
) -> Tree:
    """start origin + sum_i weights[i] (x_i - origin), summed in float64."""
    leaves, structure = jax.tree.flatten(origin)
    total = [start * np.asarray(leaf, np.float64) for leaf in leaves]
    for i, weight in enumerate(weights):
        moved = _moved(iterates[i], origin)
        total = [a + weight * b for a, b in zip(total, moved, strict=True)]
    cast = [jnp.asarray(a, leaf.dtype) for a, leaf in zip(total, leaves, strict=True)]
    return jax.tree.unflatten(structure, cast)


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
