"""Principal components of a trajectory, by the inner products of its iterates.

Of T iterates 2 sqrt(T) are in memory at a time, and each is loaded sqrt(T) / 2 + 1 times; of a list
of arrays in memory, all are there and none is loaded. Sums are in float64, by pieces of
leaves, which alone are ever raised to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil, sqrt
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wsdjax.probes import vectors
from wsdjax.probes.vectors import ProbeError, Tree, combine, dot, normalized

_PIECE = 4_096
"""Entries of a leaf at a time: of a hundred iterates what a core's cache holds."""
_Flat = list[np.ndarray]
"""The leaves of an iterate, each as a vector, in its own precision."""


class PrincipalComponents(NamedTuple):
    directions: Tree
    """Leaves [k, ...]: unit vectors."""
    explained_variance_ratio: np.ndarray
    """float64 [k]: each component's share of the variance of the iterates."""
    mean: Tree


def principal_components(iterates: Sequence[Tree], k: int = 1) -> PrincipalComponents:
    """PCA of T iterates through their T x T Gram matrix, in float64 (Belloni et al., figure 7).

    The sign of a direction is that in which the last iterate lies. Of T iterates, two or more,
    there are k < T components. Beside what the caller holds, 2 sqrt(T) iterates, or half as many
    and k + 1 in float64, are in memory.
    """
    size = _at_a_time(iterates)
    iterates = vectors.Iterates(iterates)
    count = len(iterates)
    if count <= vectors.whole("k", k):
        raise ProbeError(f"k = {k} components take {k + 1} iterates or more; there are {count}")
    # Of differences from the first: of the iterates themselves, alike as they are, the Gram
    # matrix would lose the digits that matter.
    origin = iterates[0]
    start = [np.ravel(leaf) for leaf in jax.device_get(jax.tree.leaves(origin))]
    blocks = [range(at, min(at + size, count)) for at in range(0, count, size)]
    gram = _gram(iterates, blocks, start)
    centring = np.eye(count) - 1 / count
    values, axes = np.linalg.eigh(centring @ gram @ centring)
    values, axes = values[::-1].clip(0), axes[:, ::-1]
    total = values.sum()
    if not (np.isfinite(total) and total > 0):
        raise ProbeError("the iterates do not move, or are not finite: no principal component")
    # The last iterate's coordinate along a direction has the sign of its entry in the axis.
    signed = axes[:, :k] * np.where(axes[-1, :k] < 0, -1.0, 1.0)
    weights = np.vstack([(centring @ signed).T, np.full(count, 1 / count)])
    *directions, moved = _sums(iterates, blocks, start, weights, origin)
    mean = combine((1.0, 1.0), origin, moved)
    named = [normalized(each, f"component {i}") for i, each in enumerate(directions, start=1)]
    return PrincipalComponents(vectors.stack(named), values[:k] / total, mean)


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


def _at_a_time(iterates: Sequence[Tree]) -> int:
    """How many iterates a block has, two of which are in memory."""
    count = len(iterates) if hasattr(iterates, "__len__") else 1
    if isinstance(iterates, list | tuple) and all(
        isinstance(leaf, jax.Array) and leaf.dtype.itemsize >= 4
        for iterate in iterates
        for leaf in jax.tree.leaves(iterate)
    ):
        return max(1, count)
    return max(1, ceil(sqrt(count)))


def _load(iterates: vectors.Iterates, which: range) -> list[_Flat]:
    return [[np.ravel(leaf) for leaf in iterates.on_host(i)] for i in which]


def _pieces(block: list[_Flat], start: _Flat) -> Iterator[np.ndarray]:
    """The ways from the origin to the iterates of a block, float64 [b, piece], piece by piece."""
    for i, leaf in enumerate(start):
        for at in range(0, leaf.size, _PIECE):
            part = slice(at, at + _PIECE)
            moved = np.empty((len(block), leaf[part].size))
            for row, iterate in zip(moved, block, strict=True):
                np.subtract(iterate[i][part], leaf[part], out=row, dtype=np.float64)
            yield moved


def _gram(iterates: vectors.Iterates, blocks: list[range], start: _Flat) -> np.ndarray:
    """float64 [T, T]: the inner products of the ways from the origin."""
    gram = np.zeros((len(iterates), len(iterates)))

    def of(left: list[_Flat], right: list[_Flat]) -> np.ndarray:
        pairs = zip(_pieces(left, start), _pieces(right, start), strict=True)
        return sum(a @ b.T for a, b in pairs)  # type: ignore[return-value]

    here = _load(iterates, blocks[0])
    for i, rows in enumerate(blocks):
        gram[np.ix_(rows, rows)] = sum(a @ a.T for a in _pieces(here, start))
        other = here
        for columns in reversed(blocks[i + 1 :]):  # so that the last is the next to be here
            del other  # before the next, so that there are two
            other = _load(iterates, columns)
            products = of(here, other)
            gram[np.ix_(rows, columns)], gram[np.ix_(columns, rows)] = products, products.T
        here = other
    return gram


def _sums(
    iterates: vectors.Iterates,
    blocks: list[range],
    start: _Flat,
    weights: np.ndarray,
    like: Tree,
) -> list[Tree]:
    """The ways from the origin, weighted by each row of [n, T] and summed in float64."""
    totals = [np.zeros((len(weights), leaf.size)) for leaf in start]
    for which in blocks:
        pieces = _pieces(_load(iterates, which), start)
        for total in totals:
            for at in range(0, total.shape[1], _PIECE):
                total[:, at : at + _PIECE] += weights[:, which] @ next(pieces)
    leaves, structure = jax.tree.flatten(like)

    def row(i: int) -> Tree:
        cast = [
            jnp.asarray(total[i].reshape(leaf.shape), leaf.dtype)
            for total, leaf in zip(totals, leaves, strict=True)
        ]
        return jax.tree.unflatten(structure, cast)

    return [row(i) for i in range(len(weights))]
