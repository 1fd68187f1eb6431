"""The Hessian of a mean loss: its products with vectors, and its largest eigenvalues by those."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from numpy.typing import DTypeLike

from wsdjax.probes import objective, vectors
from wsdjax.probes.eigenpairs import Sharpness, eigenpairs
from wsdjax.probes.objective import Batches, LossFn
from wsdjax.probes.operators import Block, Chosen
from wsdjax.probes.vectors import ProbeError, Tree

# A linearization holds what the forward pass left behind; beyond this many bytes of each device it
# is made again for every product.
LINEARIZED_BYTES = 2 * 2**30


class Hessian:
    """v -> H v for the Hessian H of the mean loss: forward over reverse.

    Where what the forward passes leave behind fits in memory they are made once, and each
    product costs the tangent pass alone (`jax.linearize`).

    Args:
      finite_difference: as for `sharpness`.
      dtype: None computes in float32 at full matrix precision, or in float64 for parameters in
        float64. "bfloat16" insists on that, for which parameters and batches are rounded: it
        shifts eigenvalues by up to a percent, which no residual shows. So do "float16",
        "float32" and "float64", which needs JAX's 64 bits.
    """

    def __init__(
        self,
        loss_fn: LossFn,
        params: Tree,
        batches: Batches,
        finite_difference: bool = False,
        dtype: str | None = None,
    ):
        self.params = vectors.as_parameters(params)
        objective.check_function(loss_fn)
        self.computed_in = vectors.precision(self.params)
        if dtype is not None:
            self.computed_in = _checked(dtype)
            loss_fn = _Lowered(loss_fn, self.computed_in)
        self.products = 0
        """How many products there have been."""
        self.gradient: Tree | None = None
        """That of the mean loss, where it came out on the way."""
        self._shares = objective.weights(batches)
        self._loss_fn, self._batches = loss_fn, batches
        if finite_difference:
            self._products = [partial(_difference, loss_fn, self.params, b) for b in batches]
            return
        with objective.forward_mode():
            left = jax.eval_shape(partial(_linearize, loss_fn), self.params, batches[0])[1]
        held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(left))
        sharing = len(jax.tree.leaves(self.params)[0].sharding.device_set)
        if len(batches) * held / sharing <= LINEARIZED_BYTES:
            pairs = [_linearize(loss_fn, self.params, batch) for batch in batches]
            slopes, linears = zip(*pairs, strict=True)
            self.gradient = objective.finite(objective.total(self._shares, slopes))
            self._products = [partial(_apply, linear) for linear in linears]
        else:
            objective.finite(objective.batch_gradient(loss_fn, self.params, batches[0]))
            self._products = [partial(batch_product, loss_fn, self.params, b) for b in batches]

    def __call__(self, vector: Tree) -> Tree:
        """H v, like `params`."""
        self.products += 1
        vector = vectors.like_parameters(vector, self.params, "the vector")
        with objective.forward_mode():
            return objective.total(self._shares, (product(vector) for product in self._products))


def hvp(
    loss_fn: LossFn, params: Tree, vector: Tree, batches: Batches, finite_difference: bool = False
) -> Tree:
    """H v of the mean loss over all examples, like `params`: forward over reverse."""
    return Hessian(loss_fn, params, batches, finite_difference)(vector)


@partial(jax.jit, static_argnums=0)
def batch_product(loss_fn: LossFn, params: Tree, batch: Any, vector: Tree) -> Tree:
    """H v of the loss of one batch, as one program that linearizes anew."""
    return jax.jvp(jax.grad(objective.differentiable(loss_fn, batch)), (params,), (vector,))[1]


def curvature_along(
    loss_fn: LossFn, params: Tree, direction: Tree, batches: Batches
) -> tuple[float, float]:
    """(||H v||, v' H v) for the unit vector v along `direction` (Belloni et al., figure 3)."""
    hessian = Hessian(loss_fn, params, batches)
    unit = vectors.normalized(vectors.like_parameters(direction, hessian.params, "the direction"))
    product = hessian(unit)
    return float(vectors.norm(product)), float(vectors.dot(unit, product))


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
      finite_difference: products by differences of gradients, for a loss whose `custom_vjp`
        blocks forward mode.
      dtype: "bfloat16" insists on products in bfloat16 (see `Hessian`).
      block: of the diagonal block of these leaves alone, as for `Block`:
        ``lambda name: name.startswith("conv1/")``. The eigenvectors are zero elsewhere.
      **options: those of `eigenpairs`: `smallest`, `start`, `track_above`, `basis`, ...
    """
    hessian = Hessian(loss_fn, params, batches, finite_difference, dtype)
    within = Block(hessian, hessian.params, block)
    if block is not None and vectors.whole("k", k) > within.size:
        raise ProbeError(f"k = {k}: the block has {within.size} parameters")
    towards = None if hessian.gradient is None else within.restrict(hessian.gradient)
    return eigenpairs(within, hessian.params, k, tol, towards=towards, **options)


@dataclass(frozen=True)
class _Lowered:
    """A loss of rounded parameters and batches, at the device's own matrix precision; equal
    ones share what is compiled."""

    loss_fn: LossFn
    dtype: str

    def __call__(self, params: Tree, batch: Any) -> jax.Array:
        def rounded(leaf):
            floating = jnp.issubdtype(leaf.dtype, jnp.floating)
            return leaf.astype(self.dtype) if floating else leaf

        params, batch = jax.tree.map(rounded, (params, jax.tree.map(jnp.asarray, batch)))
        # On a GPU the default of products in float32 has the digits of bfloat16.
        precise = "highest" if self.dtype in ("float32", "float64") else "default"
        with jax.default_matmul_precision(precise):
            value = self.loss_fn(params, batch)
        kept = jnp.float64 if self.dtype == "float64" else jnp.float32
        return value.astype(kept) if hasattr(value, "astype") else value


def _checked(dtype: DTypeLike) -> str:
    """The name of a type to compute in."""
    known = ("bfloat16", "float16", "float32", "float64")
    name = getattr(dtype, "__name__", str(dtype))  # of a text, of a type such as jnp.bfloat16
    if name not in known:
        raise ProbeError(
            f"dtype = {name[:40]!r}: must be one of {', '.join(known)}, or None for the "
            "parameters' own"
        )
    if jax.dtypes.canonicalize_dtype(name) != name:
        raise ProbeError(
            'dtype = "float64": JAX has 64 bits disabled and would compute in float32; call '
            'jax.config.update("jax_enable_x64", True) before anything else, or set '
            "JAX_ENABLE_X64=1"
        )
    return name


@partial(jax.jit, static_argnums=0)
def _linearize(loss_fn, params, batch):
    """(the gradient, v -> H v)."""
    return jax.linearize(jax.grad(objective.differentiable(loss_fn, batch)), params)


@jax.jit
def _apply(linear, vector):
    return linear(vector)


@partial(jax.jit, static_argnums=0)
def _difference(loss_fn, params, batch, vector):
    """(g(p + h v) - g(p - h v)) / 2h, h scaled to the norms and the precision."""
    shift = vectors.epsilon(params) ** (1 / 3) * (1 + vectors.norm(params))
    h = shift / jnp.maximum(vectors.norm(vector), 1e-30)
    moved = [jax.tree.map(lambda p, v, s=s: p + s * h * v, params, vector) for s in (1, -1)]
    plus, minus = (objective.batch_gradient(loss_fn, each, batch) for each in moved)
    return jax.tree.map(lambda a, b: (a - b) / (2 * h), plus, minus)
