"""Sharpness and curvature of a loss: the Hessian by its products alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from wsdjax.probes.krylov import Krylov
from wsdjax.probes.objective import Batches, Hessian, LossFn
from wsdjax.probes.vectors import (
    Tree,
    as_parameters,
    combine,
    dot,
    epsilon,
    like_parameters,
    norm,
    normalized,
    size,
    stack,
    take,
)


class Sharpness(NamedTuple):
    """Eigenpairs of the Hessian, each certified by a product of its own."""

    eigenvalues: np.ndarray
    """float64 [k], descending (ascending for the smallest): y' H y, in loss per squared
    parameter."""
    residuals: np.ndarray
    """float64 [k]: ||H y - rho y||; an eigenvalue lies within it of each."""
    eigenvectors: Tree
    """Leaves [k, ...], of unit norm."""
    converged: np.ndarray
    """bool [k]: whether the residual is below the tolerance or the floor of the precision."""
    products: int
    """Hessian-vector products in all, those that certify included."""
    basis_size: int
    """The most vectors held at once."""


class Progress(NamedTuple):
    """What `on_progress` is told of after each product."""

    products: int
    estimate: float
    residual: float


def hvp(
    loss_fn: LossFn, params: Tree, vector: Tree, batches: Batches, finite_difference: bool = False
) -> Tree:
    """H v of the mean loss over all examples, like `params`: forward over reverse.

    Raises:
      ProbeError: for trees that do not match, integer leaves, no batch, or a loss whose
        `custom_vjp` blocks forward mode (`finite_difference=True` goes without it).
    """
    return Hessian(loss_fn, params, batches, finite_difference)(vector)


def curvature_along(
    loss_fn: LossFn, params: Tree, direction: Tree, batches: Batches
) -> tuple[float, float]:
    """(||H v||, v' H v) for the unit vector v along `direction` (Belloni et al., figure 4).

    Raises:
      ProbeError: as `hvp`, and for a direction of zero norm.
    """
    hessian = Hessian(loss_fn, params, batches)
    unit = normalized(like_parameters(direction, hessian.params, "the direction"))
    product = hessian(unit)
    return float(norm(product)), float(dot(unit, product))


def sharpness(
    loss_fn: LossFn,
    params: Tree,
    batches: Batches,
    k: int = 1,
    tol: float = 1e-4,
    finite_difference: bool = False,
    **options: Any,
) -> Sharpness:
    """The k largest eigenvalues of the Hessian, algebraically, by Lanczos.

    Args:
      loss_fn: ``loss_fn(params, batch)``, the mean over a batch's examples.
      params: any pytree of floating-point arrays; 16-bit ones are computed in float32.
      batches: a sequence of batches; each weighs as many as its examples.
      k: how many.
      tol: of a residual relative to its eigenvalue; no less than the precision allows.
      finite_difference: products by differences of gradients.
      **options: those of `eigenpairs`: `smallest`, `start`, `track_above`, ...

    Raises:
      ProbeError: for what makes no sense, or is not finite.
    """
    hessian = Hessian(loss_fn, params, batches, finite_difference)
    return eigenpairs(hessian, hessian.params, k, tol, towards=hessian.gradient, **options)


def eigenpairs(
    operator: Callable[[Tree], Tree],
    params: Tree,
    k: int = 1,
    tol: float = 1e-4,
    smallest: bool = False,
    max_products: int = 300,
    max_basis: int = 80,
    start: Tree | None = None,
    towards: Tree | None = None,
    track_above: float | None = None,
    seed: int = 0,
    on_progress: Callable[[Progress], Any] | None = None,
) -> Sharpness:
    """The k largest eigenvalues of any symmetric operator on trees like `params`.

    The iteration is driven from the host. For k > 1 it goes on, once converged, from a fresh
    random vector, since from one start no second vector of a repeated eigenvalue is found:
    until that would have shown one as large as the k-th, or for ten products.

    Args:
      operator: v -> A v, such as `Hessian`, `GaussNewton`, `Preconditioned`.
      params: what a vector is like.
      k, tol: as for `sharpness`.
      smallest: the k smallest instead.
      max_products: products before it gives up (`converged` tells).
      max_basis: vectors in memory; beyond it the iteration is restarted (thick restart).
      start: eigenvectors [j, ...] of a neighbouring checkpoint, to start from; a random vector
        is added, for a direction that has just risen. Signs follow theirs.
      towards: a direction that the first random vector leans to, which may be zero. The gradient
        has more than its share of the largest eigenvectors and saves a product or two.
      track_above: goes on to more eigenvalues until one is below this, such as 2 / rate.
      seed: of the random vectors.
      on_progress: told of each product.

    Raises:
      ProbeError: for a product that is not finite.
    """
    params = as_parameters(params)
    sign = -1.0 if smallest else 1.0
    counted = _Counted(operator, sign)
    n = size(params)
    wanted = min(k, n)
    krylov = Krylov(counted, params, max(max_basis, 2 * wanted + 8), jax.random.key(seed))
    for i in range(_rows(start)):
        krylov.add(like_parameters(take(start, i), params, "start"))
    krylov.add_random(towards)

    floor_factor = 4 * epsilon(params) * np.sqrt(n)
    fresh, in_turn = None, 1
    while True:
        alive = counted.products < max_products - wanted and krylov.step()
        found = krylov.ritz()
        count = min(wanted, len(found.values))
        allowed = np.maximum(tol * np.abs(found.values), floor_factor * np.abs(found.values).max())
        done = len(found.values) >= wanted and (found.bounds[:count] <= allowed[:count] / 4).all()
        if on_progress:
            i = count - 1
            on_progress(Progress(counted.products, sign * found.values[i], found.bounds[i]))
        if done and track_above is not None and sign * found.values[count - 1] > track_above:
            wanted, fresh = min(wanted + 1, n), None
            done = wanted == count
        if done and wanted > 1 and krylov.p < n:
            if fresh is None:
                krylov.add_random()
                fresh, in_turn = krylov.p, krylov.m - krylov.p
            done = krylov.p > fresh and krylov.p >= fresh + min(
                10,
                in_turn * _steps_to_show(found.values[count - 1], n, *krylov.range_since(fresh)),
            )
        if done or not alive:
            break
        if krylov.m == krylov.capacity < n:
            krylov.restart(wanted + (krylov.capacity - wanted) // 3)
            fresh = None if fresh is None else krylov.p
    return _certify(counted, krylov, min(wanted, krylov.p), tol, floor_factor, start)


def _steps_to_show(value: float, n: int, low: float, high: float) -> float:
    """The steps of Lanczos from a random vector of n entries that bring out an eigenvalue like
    this above a spectrum within [low, high]: a Chebyshev polynomial of this degree raises its
    share of the vector, about 1 / sqrt(n), to that of the rest."""
    if value <= high:
        return np.inf
    ratio = 1 + 2 * (value - high) / max(high - low, 1e-6 * abs(value))
    return float(np.arccosh(np.sqrt(n)) / np.arccosh(ratio))


class _Counted:
    """The operator, or its negative, and how many products there have been."""

    def __init__(self, operator: Callable[[Tree], Tree], sign: float):
        self._operator, self.sign, self.products = operator, sign, 0

    def __call__(self, vector: Tree) -> Tree:
        self.products += 1
        product = self._operator(vector)
        return combine((-1.0,), product) if self.sign < 0 else product


def _certify(operator, krylov, count, tol, floor_factor, start) -> Sharpness:
    found = krylov.ritz()
    block = krylov.vectors(found.coefficients[:, :count])
    values, residuals, vectors = [], [], []
    for i in range(count):
        unit = normalized(take(block, i), "an eigenvector")
        if i < _rows(start) and float(dot(unit, take(start, i))) < 0:
            unit = combine((-1.0,), unit)
        product = operator(unit)
        rho = float(dot(unit, product))
        values.append(operator.sign * rho)
        residuals.append(float(norm(combine((1.0, -rho), product, unit))))
        vectors.append(unit)
    rhos, rests = np.array(values), np.array(residuals)
    order = np.argsort(-operator.sign * rhos, kind="stable")
    rhos, rests = rhos[order], rests[order]
    floor = floor_factor * np.abs(found.values).max(initial=0.0)
    return Sharpness(
        eigenvalues=rhos,
        residuals=rests,
        eigenvectors=stack([vectors[i] for i in order]),
        converged=rests <= np.maximum(tol * np.abs(rhos), floor),
        products=operator.products,
        basis_size=krylov.capacity,
    )


def _rows(block: Tree | None) -> int:
    return 0 if block is None else len(jax.tree.leaves(block)[0])
