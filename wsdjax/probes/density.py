"""The spectrum as a whole: density by stochastic Lanczos quadrature, trace, Frobenius norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from wsdjax.probes import vectors
from wsdjax.probes.basis import DeviceBasis
from wsdjax.probes.hessian import Hessian
from wsdjax.probes.krylov import Krylov
from wsdjax.probes.objective import Batches, LossFn
from wsdjax.probes.operators import Block, Chosen
from wsdjax.probes.vectors import ProbeError, Tree, leaf_dot, normalized, whole


class SpectralDensity(NamedTuple):
    """The density of the Hessian's eigenvalues, smoothed by a Gaussian kernel."""

    grid: np.ndarray
    """float64 [G]: eigenvalues."""
    density: np.ndarray
    """float64 [G]: its integral over all of the line is 1."""
    nodes: np.ndarray
    """float64 [probes, depth]: Ritz values; NaN where a probe broke down earlier."""
    weights: np.ndarray
    """float64 [probes, depth]: their quadrature weights, 1 in all for each probe."""
    products: int

    def smoothed(self, width: float, grid: np.ndarray | None = None) -> SpectralDensity:
        """The density by another kernel width, or on another grid, without new products. The grid
        may not miss eigenvalues between two of its points, a kernel's width or more apart."""
        grid = self.grid if grid is None else np.asarray(grid, np.float64)
        _check_width(width)
        _check_grid(grid, self.nodes, width)
        return self._replace(grid=grid, density=_smooth(grid, self.nodes, self.weights, width))


class Estimate(NamedTuple):
    """A mean over random probes and its standard error."""

    value: float
    standard_error: float


class Moments(NamedTuple):
    """Moments of the Hessian's spectrum, by Hutchinson's estimator with Rademacher probes."""

    trace: Estimate
    frobenius_norm: Estimate
    trace_by_leaf: Tree
    """Like `params`: an `Estimate` of the trace of each leaf's diagonal block."""
    products: int


def spectral_density(
    loss_fn: LossFn,
    params: Tree,
    batches: Batches,
    probes: int = 4,
    depth: int = 60,
    width: float | None = None,
    points: int = 1_000,
    seed: int = 0,
    finite_difference: bool = False,
    block: Chosen | None = None,
    at_a_time: int | None = None,
) -> SpectralDensity:
    """Stochastic Lanczos quadrature (Ubaru, Chen, Saad; Ghorbani, Krishnan, Xiao).

    Each Rademacher probe v gives the measure sum_i tau_i^2 delta(theta_i) of its Lanczos
    matrix, exact for polynomials of degree 2 depth - 1; fully orthogonalised, so that no
    eigenvalue is counted twice.

    Args:
      probes, depth: random vectors, and products for each.
      width: of the kernel, its standard deviation; None for a hundredth of the spectrum's range.
      points: of the grid, which reaches over the spectrum by six widths; more where its step
        would be wider than the kernel.
      block: of the diagonal block of these leaves alone, as for `sharpness`.
      at_a_time: examples in memory at a time, as for `Hessian`.
    """
    probes, depth, points = whole("probes", probes), whole("depth", depth), whole("points", points)
    if width is not None:
        _check_width(width)
    keys = jax.random.split(vectors.key_of(seed), probes)
    hessian = Hessian(loss_fn, params, batches, finite_difference, at_a_time=at_a_time)
    within = Block(hessian, hessian.params, block)
    depth = min(depth, within.size)
    nodes, weights = np.full((probes, depth), np.nan), np.zeros((probes, depth))
    for i, key in enumerate(keys):
        krylov = Krylov(within, hessian.params, DeviceBasis(hessian.params, depth), key)
        krylov.add(within.signs(key))
        while krylov.p < min(krylov.m, depth):  # it ends early where the space is invariant
            krylov.step()
        found = krylov.ritz()
        nodes[i, : krylov.p] = found.values
        weights[i, : krylov.p] = found.coefficients[0] ** 2
        # The range only grows with further probes: so no more than one is in vain.
        if width is not None:
            _points_for(nodes, width)
    low, high = np.nanmin(nodes), np.nanmax(nodes)
    if width is None:
        width = max((high - low) / 100, 1e-6 * max(abs(low), abs(high)), 1e-12)
    points = max(points, _points_for(nodes, width))
    grid = np.linspace(low - 6 * width, high + 6 * width, points)
    density = _smooth(grid, nodes, weights, width)
    return SpectralDensity(grid, density, nodes, weights, hessian.products)


def _check_width(width: float) -> None:
    if not (vectors.is_numeric(width) and np.ndim(width) == 0 and 0 < width < np.inf):
        raise ProbeError(
            f"width = {str(width)[:40]}: the kernel's standard deviation must be above 0 and "
            "finite, in units of the eigenvalues"
        )


def _points_for(nodes: np.ndarray, width: float) -> int:
    """The points of a grid over the spectrum whose step is no wider than the kernel, at most a
    million."""
    reach = np.nanmax(nodes) - np.nanmin(nodes) + 12 * width
    if reach / width > 10**6 - 2:
        raise ProbeError(
            f"width = {width:.3g}: too small for eigenvalues that reach over {reach:.3g}; give at "
            f"least {reach / 1e5:.1g}, or None for a hundredth"
        )
    return int(np.ceil(reach / width)) + 1


def _check_grid(grid: np.ndarray, nodes: np.ndarray, width: float) -> None:
    if grid.ndim != 1 or not grid.size or not np.isfinite(grid).all():
        raise ProbeError("the grid must be a list of finite numbers")
    ordered = np.sort(grid)
    inside, _ = np.histogram(nodes[~np.isnan(nodes)], ordered)
    steps = np.diff(ordered)[inside > 0]
    if steps.max(initial=0.0) > width * (1 + 1e-6):
        raise ProbeError(
            f"width = {width:.3g} is below the grid's step, {steps.max():.3g}: eigenvalues between "
            "two points would be missed; give a finer grid, or a larger width"
        )


def _smooth(grid: np.ndarray, nodes: np.ndarray, weights: np.ndarray, width: float) -> np.ndarray:
    kept, found = ~np.isnan(nodes), []
    for at in range(0, len(grid), 4096):  # in parts, for grids of many points
        z = (grid[at : at + 4096, None] - nodes[kept][None]) / width
        kernel = np.exp(-(z**2) / 2) / (width * np.sqrt(2 * np.pi))
        found.append(kernel @ weights[kept] / len(nodes))
    return np.concatenate(found)


def moments(
    loss_fn: LossFn,
    params: Tree,
    batches: Batches,
    probes: int = 32,
    seed: int = 0,
    finite_difference: bool = False,
    block: Chosen | None = None,
    at_a_time: int | None = None,
    apart: Callable[[Tree], Tree] | None = None,
) -> Moments:
    """tr H = E v'Hv and ||H||_F^2 = E ||Hv||^2 over Rademacher v, with standard errors.

    The trace of the block of one leaf is E v_l'(Hv)_l. The error of the norm is that of its
    square, divided by twice the norm, and takes two probes. `block` and `at_a_time` are as for
    `spectral_density`. With `apart` the leaves are those of ``apart(vector)``: such as
    `wsdjax.models.unstacked`, by which leaves of all layers fall apart into a layer's.
    """
    if whole("probes", probes) < 2:
        raise ProbeError(f"probes = {probes}: a standard error needs two or more")
    keys = jax.random.split(vectors.key_of(seed), probes)
    hessian = Hessian(loss_fn, params, batches, finite_difference, at_a_time=at_a_time)
    within = Block(hessian, hessian.params, block)
    by_leaf, squares = [], []
    for key in keys:
        vector = within.signs(key)
        product = within(vector)
        pair = (vector, product) if apart is None else (apart(vector), apart(product))
        by_leaf.append([float(x) for x in jax.tree.leaves(jax.tree.map(leaf_dot, *pair))])
        squares.append(sum(float(leaf_dot(x, x)) for x in jax.tree.leaves(product)))
    leaves = np.array(by_leaf)
    square = _estimate(np.array(squares))
    frobenius = np.sqrt(square.value)
    error = square.standard_error / (2 * frobenius) if frobenius else 0.0
    structure = jax.tree.structure(pair[0])
    return Moments(
        trace=_estimate(leaves.sum(1)),
        frobenius_norm=Estimate(float(frobenius), float(error)),
        trace_by_leaf=jax.tree.unflatten(structure, [_estimate(column) for column in leaves.T]),
        products=hessian.products,
    )


def _estimate(values: np.ndarray) -> Estimate:
    return Estimate(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))))


def mass_by_leaf(vector: Tree) -> Tree:
    """Like the vector: each leaf's share of its squared norm, as in which layer a top
    eigenvector lives."""
    unit = normalized(vectors.as_parameters(vector, "the vector"), "the vector")
    return jax.tree.map(lambda leaf: float(leaf_dot(leaf, leaf)), unit)
