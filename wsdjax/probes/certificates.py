"""What the pairs that an iteration has found are worth, by products that it has not seen.

The recurrence says what H y is for every vector y of its basis. Products with random combinations
of the pairs show how far that is from the truth for all of them together (as Freivalds checks a
matrix product), and so what rounding, a basis that is no longer orthonormal, restarts, or an
operator that is not the same twice have done. A product with each pair shows it for certain.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from wsdjax.probes import vectors
from wsdjax.probes.krylov import Krylov, Ritz
from wsdjax.probes.vectors import Operator, Tree, combine, dot, norm

FACTORS = (160.0, 11.3)
"""Of one product and of two: a deviation D of norm s is shown by ||D g|| for a Gaussian g, which is
below s / 160 with a probability of half a percent, and below s / 11.3 twice with that too."""


class Certified(NamedTuple):
    values: np.ndarray
    """float64 [k], descending."""
    residuals: np.ndarray
    """float64 [k]."""
    block: Tree
    """Leaves [k, ...], of unit norm."""
    products: int


def together(
    product: Operator, krylov: Krylov, found: Ritz, allowed: np.ndarray, known: list[Tree]
) -> tuple[Certified | None, int]:
    """(the pairs as the recurrence has them, each residual plus a bound on how far that is from
    the truth, or None where the bound is not below half of what is allowed, the products made).
    The bound holds for all pairs with a probability of 99%, if the operator is linear."""
    k = len(allowed)
    mixed = found.coefficients[:, :k]
    claimed = krylov.times(mixed)
    values = found.values[:k]
    left = claimed.copy()
    left[: len(mixed)] -= mixed * values
    left = np.linalg.norm(left, axis=0)  # which has what is not symmetric in it too
    worst = 0.0
    for made, factor in enumerate(FACTORS, start=1):
        random = np.asarray(jax.random.normal(krylov.next_key(), (k,)), np.float64)
        length = np.linalg.norm(random)
        y, expected = (krylov.combine(part @ (random / length)) for part in (mixed, claimed))
        deviation = length * float(norm(combine((1.0, -1.0), product(y), expected)))
        worst = np.fmax(worst, deviation) if np.isfinite(deviation) else np.inf
        if (factor * worst <= allowed / 2).all():
            block = _signed(krylov.vectors(mixed), known)
            return Certified(values, left + factor * worst, block, made), made
    return None, len(FACTORS)


def each(product: Operator, block: Tree, known: list[Tree]) -> Certified:
    """The Rayleigh quotients of the vectors of a block, and residuals, by a product with each."""
    values, residuals, units = [], [], []
    # Not as one block: on two CPU cores five products of a CNN in one `vmap` took 1.6 times as long
    # as one after the other, and two 1.8 times, whether or not the primal pass was shared.
    for i, unit in enumerate(_rows(_signed(block, known))):
        unit = vectors.normalized(unit, f"eigenvector {i + 1}")
        curved = product(unit)
        rho = float(dot(unit, curved))
        values.append(rho)
        residuals.append(float(norm(combine((1.0, -rho), curved, unit))))
        units.append(unit)
    order = np.argsort(-np.array(values), kind="stable")
    by_value = vectors.stack([units[i] for i in order])
    return Certified(np.array(values)[order], np.array(residuals)[order], by_value, len(values))


def _signed(block: Tree, known: list[Tree]) -> Tree:
    """The block, each row in the direction of the known vector of its number, if there is one."""
    if not known:
        return block
    rows = _rows(block)
    for i, (row, like) in enumerate(zip(rows, known, strict=False)):
        if float(dot(row, like)) < 0:
            rows[i] = combine((-1.0,), row)
    return vectors.stack(rows)


def _rows(block: Tree) -> list[Tree]:
    return [vectors.take(block, i) for i in range(len(jax.tree.leaves(block)[0]))]
