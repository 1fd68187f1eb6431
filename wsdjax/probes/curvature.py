"""Sharpness and curvature of a loss: the Hessian by its products alone."""

from __future__ import annotations

from typing import Any

from wsdjax.probes.eigenpairs import Sharpness, eigenpairs
from wsdjax.probes.hessian import Hessian
from wsdjax.probes.objective import Batches, LossFn
from wsdjax.probes.operators import Block, Chosen
from wsdjax.probes.vectors import ProbeError, Tree, dot, like_parameters, norm, normalized, whole


def hvp(
    loss_fn: LossFn, params: Tree, vector: Tree, batches: Batches, finite_difference: bool = False
) -> Tree:
    """H v of the mean loss over all examples, like `params`: forward over reverse."""
    return Hessian(loss_fn, params, batches, finite_difference)(vector)


def curvature_along(
    loss_fn: LossFn, params: Tree, direction: Tree, batches: Batches
) -> tuple[float, float]:
    """(||H v||, v' H v) for the unit vector v along `direction` (Belloni et al., figure 3)."""
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
    dtype: str | None = None,
    block: Chosen | None = None,
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
      dtype: "bfloat16" insists on products in bfloat16 (see `Hessian`).
      block: of the diagonal block of these leaves alone, as for `Block`:
        ``lambda name: name.startswith("conv1/")``. The eigenvectors are zero elsewhere.
      **options: those of `eigenpairs`: `smallest`, `start`, `track_above`, `basis`, ...
    """
    hessian = Hessian(loss_fn, params, batches, finite_difference, dtype)
    within = Block(hessian, hessian.params, block)
    if block is not None and whole("k", k) > within.size:
        raise ProbeError(f"k = {k}: the block has {within.size} parameters")
    towards = None if hessian.gradient is None else within.restrict(hessian.gradient)
    return eigenpairs(within, hessian.params, k, tol, towards=towards, **options)
