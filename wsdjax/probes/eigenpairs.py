"""The largest eigenpairs of a symmetric operator, by its products alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from wsdjax.probes import basis as bases
from wsdjax.probes import certificates, fitting, vectors
from wsdjax.probes.krylov import Krylov, Ritz
from wsdjax.probes.vectors import Operator, ProbeError, Tree, combine, is_numeric
from wsdjax.wording import shortened


class Sharpness(NamedTuple):
    """Eigenpairs of the Hessian, or of another operator, certified by products that the iteration
    has not seen: one with each pair, or one or two with random combinations of three or more."""

    eigenvalues: np.ndarray
    """float64 [k], descending (ascending for the smallest): y' H y, in loss per squared
    parameter."""
    residuals: np.ndarray
    """float64 [k]: ||H y - rho y||; an eigenvalue lies within it of each. Of pairs that were
    certified together it is a bound, which holds for all of them with a probability of 99%; what it
    has beyond the residual is less than half the tolerance (`wsdjax.probes.certificates`)."""
    eigenvectors: Tree
    """Leaves [k, ...], of unit norm."""
    converged: np.ndarray
    """bool [k]: whether the residual is below the tolerance or the floor of the precision."""
    products: int
    """Hessian-vector products in all, those that certify included."""
    basis: str
    """Where the Krylov basis was kept: `full`, `bfloat16` or `host` (`wsdjax.probes.basis`)."""
    basis_size: int
    """The most vectors held at once."""
    computed_in: str
    """The type that the products were computed in. Of bfloat16 the residuals do not tell that
    eigenvalues are shifted, by up to a percent."""
    at_a_time: int | None
    """Examples of a batch that a product took at a time; None for all of them."""


class Progress(NamedTuple):
    """The state of the iteration after a product, for `on_progress`."""

    products: int
    estimate: float
    """The last of the eigenvalues that are asked for."""
    residual: float
    """As the recurrence has it; the certified one comes at the end."""


def eigenpairs(
    operator: Operator,
    params: Tree,
    k: int = 1,
    tol: float = 1e-4,
    smallest: bool = False,
    repeated: bool = True,
    max_products: int = 300,
    max_basis: int = 80,
    basis: str | None = None,
    memory: int | None = None,
    start: Tree | None = None,
    towards: Tree | None = None,
    track_above: float | None = None,
    seed: int = 0,
    on_progress: Callable[[Progress], object] | None = None,
) -> Sharpness:
    """The k largest eigenvalues of any symmetric operator on trees like `params`.

    The iteration is driven from the host. It goes on until a random vector would have shown any
    eigenvalue that is missed and larger than the k-th by more than a hundredth of the spectrum's
    range; for k > 1 another random vector, since from one start no second vector of a repeated
    eigenvalue is found, and once more for each that it shows. So what is missed is so with the
    small probability that random vectors are orthogonal to it.

    Args:
      operator: v -> A v, symmetric: a function from trees like `params` to such trees, jitted
        or not, such as `Hessian`, `GaussNewton`, `Preconditioned`, or a sum of these.
      k, tol: as for `sharpness`.
      smallest: the k smallest instead.
      repeated: for k > 1 look for repeated eigenvalues, as said above; without, a third of the
        products is saved and one that is there twice may be returned once.
      max_products: products before it gives up (`converged` tells).
      max_basis: vectors in memory, 2 k + 8 at least; beyond it the iteration is restarted (thick
        restart).
      basis: where they are kept: `full`, `bfloat16` (whose rounding the certifying product
        repairs: the eigenvalue's error is of the order of the residual's square) or `host`.
        None chooses by size: fewer vectors if `max_basis` do not fit, then bfloat16, then the
        host.
      memory: bytes of each device that they may take, if `basis` is None; None for what the
        products leave of what is free, or half of it where they do not tell.
      start: eigenvectors [j, ...] of a neighbouring checkpoint. The first vector leans to them,
        and is random in equal part, for a direction that has just risen. Signs follow theirs.
      towards: a direction that the first random vector leans to, which may be zero. The gradient
        has more than its share of the largest eigenvectors and saves a product or two.
      track_above: goes on to more eigenvalues until one is below this, such as 2 / rate; the
        last is still above if `max_products` were too few. No more than half of `max_basis`.
    """
    params = vectors.as_parameters(params)
    k, max_basis = vectors.whole("k", k), vectors.whole("max_basis", max_basis, 0)
    least = 2 * min(k, vectors.size(params))
    if vectors.whole("max_products", max_products, 0) < least:
        raise ProbeError(f"max_products = {max_products}: must be at least {least} for k = {k}")
    if not is_numeric(tol) or not tol >= 0:
        raise ProbeError(f"tol = {shortened(str(tol))}: must be at least 0")
    if track_above is not None and not (is_numeric(track_above) and np.isfinite(track_above)):
        raise ProbeError(f"track_above = {shortened(str(track_above))}: must be finite")
    if smallest and track_above is not None:
        raise ProbeError("track_above goes with the largest eigenvalues, not with the smallest")
    sign = -1.0 if smallest else 1.0

    def product(vector: Tree) -> Tree:
        found = vectors.like_parameters(operator(vector), params, "the operator's product")
        return combine((-1.0,), found) if smallest else found

    n = vectors.size(params)
    wanted = min(k, n)
    max_basis = min(max(max_basis, 2 * wanted + 8), n)
    if basis is None:
        fewest = max(bases.FEWEST, 2 * wanted + 8)
        workspace = getattr(operator, "workspace", None)
        if memory is None:
            memory = fitting.room(fitting.devices_of(params), workspace)
        basis, max_basis = bases.choose(params, max_basis, fewest, memory)
    kept = bases.make(params, max_basis, basis)
    krylov = Krylov(product, params, kept, vectors.key_of(seed))
    known = vectors.rows_like(start, params, "start")
    if towards is not None:
        towards = vectors.like_parameters(towards, params, "towards")
    krylov.add_random(combine((1.0,) * len(known), *known) if known else towards)
    # When the last random vector came, in turn with how many others, and the values before it.
    began, in_turn, before = 0, 1, None
    while True:
        alive = krylov.products < max_products - wanted and krylov.step()
        found = krylov.ritz()
        count = min(wanted, len(found.values))
        allowed = np.maximum(tol * np.abs(found.values[:count]), _floor(krylov, found, params))
        done = count == wanted and (found.bounds[:count] <= allowed / 4).all()
        if on_progress:
            i = count - 1
            on_progress(Progress(krylov.products, sign * found.values[i], found.bounds[i]))
        if done and track_above is not None and found.values[wanted - 1] > track_above:
            if wanted < n and 2 * wanted + 10 > krylov.capacity:
                raise ProbeError(
                    f"track_above = {track_above}: more than {wanted} eigenvalues are above; give "
                    f"a max_basis above {krylov.capacity}"
                )
            if wanted == n:
                break
            wanted, before, done = wanted + 1, None, False
        if done and krylov.p < n:
            steps = (krylov.products - began) / in_turn
            done = steps >= _steps_to_show(found, wanted, allowed[-1], n)
            if done and wanted > 1 and repeated:
                values = found.values[:wanted]
                done = before is not None and bool((np.abs(values - before) <= allowed).all())
                if not done:
                    krylov.make_room(wanted)
                    krylov.add_random()
                    began, in_turn, before = krylov.products, krylov.m - krylov.p, values
        if done or not alive:
            break
        krylov.make_room(wanted)
    found = krylov.ritz()
    count, floor = min(wanted, krylov.p), _floor(krylov, found, params)
    certified, spent = None, krylov.products
    # Of a coarse basis, or one that had no room for a product, the deviation is known to be large.
    exact = kept.epsilon <= vectors.epsilon(params) and krylov.complete
    room = krylov.products + len(certificates.FACTORS) + count <= max_products
    if done and exact and room and count > len(certificates.FACTORS):
        allowed = np.maximum(tol * np.abs(found.values[:count]), floor)
        certified, made = certificates.together(product, krylov, found, allowed, known)
        spent += made
    if certified is None:
        best = krylov.vectors(found.coefficients[:, :count])
        certified = certificates.each(product, best, known)
        spent += certified.products
    values, residuals = certified.values, certified.residuals
    return Sharpness(
        eigenvalues=sign * values,
        residuals=residuals,
        eigenvectors=certified.block,
        converged=residuals <= np.maximum(tol * np.abs(values), floor),
        products=spent,
        basis=basis,
        basis_size=krylov.capacity,
        computed_in=getattr(operator, "computed_in", vectors.precision(params)),
        at_a_time=getattr(operator, "at_a_time", None),
    )


def _floor(krylov: Krylov, found: Ritz, params: Tree) -> float:
    """The residual below which the precision does not go: 10 eps sqrt(m) ||T|| of m products,
    and the rounding of the basis if that is coarser."""
    eps = vectors.epsilon(params)
    rounding = krylov.basis.epsilon if krylov.basis.epsilon > eps else 0.0
    return (10 * eps * np.sqrt(krylov.p) + rounding) * np.abs(found.values).max(initial=0.0)


def _steps_to_show(found: Ritz, wanted: int, allowed: float, n: int) -> float:
    """The steps of Lanczos from a random vector of n entries that bring out a further eigenvalue
    above the wanted ones, if there is one.

    A Chebyshev polynomial of this degree raises its share of the vector, about 1 / sqrt(n) and
    seldom a tenth of that, to that of the rest of the spectrum, which reaches up to the first
    value that is not wanted.
    Above means by a hundredth of the range: what is less apart takes too long to tell.
    """
    if len(found.values) <= wanted:
        return np.inf
    least, high = found.values[-1], found.values[wanted] + found.bounds[wanted]
    above = found.values[wanted - 1] + max(allowed, 0.01 * (found.values[0] - least)) - high
    if above < 0:
        return np.inf
    width = high - least
    if width <= 0:
        return 1.0
    return float(np.arccosh(10 * np.sqrt(n)) / np.arccosh(1 + 2 * max(above / width, 1e-6)))
