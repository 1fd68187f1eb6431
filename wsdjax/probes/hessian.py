"""The Hessian of a mean loss: its products with vectors, and its largest eigenvalues by those."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
from numpy.typing import DTypeLike

from wsdjax.compiling import Program, compiled
from wsdjax.probes import fitting, objective, vectors
from wsdjax.probes.eigenpairs import Sharpness, eigenpairs
from wsdjax.probes.groups import Groups, mean
from wsdjax.probes.objective import Batches, LossFn
from wsdjax.probes.operators import Block, Chosen
from wsdjax.probes.vectors import ProbeError, Tree

# A linearization holds what the forward pass left behind; beyond this many bytes of each device,
# or a quarter of an accelerator's memory, it is made again for every product.
LINEARIZED_BYTES = 2 * 2**30


class Hessian:
    """v -> H v for the Hessian H of the mean loss: forward over reverse.

    Where what the forward passes leave behind fits in memory they are made once, and each
    product costs the tangent pass alone (`jax.linearize`), unless `keep` is False.

    Args:
      finite_difference: as for `sharpness`.
      dtype: None computes in float32 at full matrix precision, or in float64 for parameters in
        float64. "bfloat16" insists on that, for which parameters and batches are rounded: it
        shifts eigenvalues by up to a percent, which no residual shows. So do "float16",
        "float32" and "float64", which needs JAX's 64 bits.
      at_a_time: how many of a batch's examples are in memory at a time, in one compiled function;
        None for all of them, or as many as fit (`wsdjax.probes.fitting`), which `at_a_time` then
        tells: None for all.
      keep: False for a product or two: the forward passes, with whose results the gradient
        comes, then are part of each product, which pays up to the second.
    """

    def __init__(
        self,
        loss_fn: LossFn,
        params: Tree,
        batches: Batches,
        finite_difference: bool = False,
        dtype: str | None = None,
        at_a_time: int | None = None,
        keep: bool = True,
    ):
        self.params = vectors.as_parameters(params)
        objective.check_function(loss_fn)
        self.computed_in = vectors.precision(self.params)
        if dtype is not None:
            self.computed_in = _checked(dtype)
            loss_fn = _Lowered(loss_fn, self.computed_in)
        self.products = 0
        """How many products there have been."""
        self._shares = objective.weights(batches)
        self._loss_fn, self._batches = loss_fn, batches
        program = _difference if finite_difference else batch_product
        with objective.forward_mode():
            asked = program, loss_fn, self.params, batches, at_a_time, self.params
            self._groups, self.workspace = objective.grouped(*asked)
        self.at_a_time = self._groups and self._groups.size
        kept = keep and not (self._groups or finite_difference)
        if not (kept and self._fits_linearized()):
            # Of a quadratic loss the products would be finite even so.
            objective.finite(self.params, "a parameter")
            self._products = [
                partial(_product, program, loss_fn, self.params, batch, self._groups)
                for batch in batches
            ]
            return
        pairs = [_linearize(loss_fn, self.params, batch) for batch in batches]
        slopes, linears = zip(*pairs, strict=True)
        self.gradient = objective.finite(objective.total(self._shares, slopes))
        self._products = [partial(_apply, linear) for linear in linears]

    def _fits_linearized(self) -> bool:
        """Whether what the forward passes leave behind fits in memory."""
        batch = objective.largest_of(self._batches)
        with objective.forward_mode():
            # By the trace that the call then takes, not by one of its own.
            left = _linearize.trace(self._loss_fn, self.params, batch).out_info[1]
        held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(left))
        devices, most = fitting.devices_of(self.params), LINEARIZED_BYTES
        if most and next(iter(devices)).platform != "cpu":
            most = max(most, fitting.room(devices) // 2)
        return len(self._batches) * held / len(devices) <= most

    @cached_property
    def gradient(self) -> Tree:
        """That of the mean loss, which comes out on the way where the forward passes are kept."""
        slopes = (
            objective.batch_gradient(self._loss_fn, self.params, batch, self._groups)
            for batch in self._batches
        )
        return objective.finite(objective.total(self._shares, slopes))

    def __call__(self, vector: Tree) -> Tree:
        """H v, like `params`."""
        self.products += 1
        vector = vectors.like_parameters(vector, self.params, "the vector")
        with objective.forward_mode():
            return objective.total(self._shares, (product(vector) for product in self._products))


def hvp(
    loss_fn: LossFn,
    params: Tree,
    vector: Tree,
    batches: Batches,
    finite_difference: bool = False,
    at_a_time: int | None = None,
) -> Tree:
    """H v of the mean loss over all examples, like `params`: forward over reverse. `at_a_time` is
    as for `Hessian`."""
    asked = loss_fn, params, batches, finite_difference
    hessian = Hessian(*asked, at_a_time=at_a_time, keep=False)
    return objective.finite(hessian(vector), "the product")


def fits(loss_fn: LossFn, params: Tree, batch: Any) -> bool:
    """Whether a product over all examples of a batch at once fits into half of the memory that is
    free, by its trace alone; shapes are enough."""
    needed = fitting.peak(batch_product.trace(loss_fn, params, batch, params).jaxpr.jaxpr)
    return needed <= fitting.room(fitting.devices_of(params))


@compiled(static_argnums=(0, 4))
def batch_product(
    loss_fn: LossFn, params: Tree, batch: Any, vector: Tree, groups: Groups | None = None
) -> Tree:
    """H v of the loss of one batch, as one program that linearizes anew, all examples at once or
    in groups."""

    def of(some):
        slope = jax.grad(objective.differentiable(loss_fn, some))
        return jax.jvp(slope, (params,), (vector,))[1]

    return mean(of, batch, groups)


def curvature_along(
    loss_fn: LossFn,
    params: Tree,
    direction: Tree,
    batches: Batches,
    at_a_time: int | None = None,
) -> tuple[float, float]:
    """(||H v||, v' H v) for the unit vector v along `direction` (Belloni et al., figure 3).
    `at_a_time` is as for `Hessian`."""
    hessian = Hessian(loss_fn, params, batches, at_a_time=at_a_time, keep=False)
    unit = vectors.normalized(vectors.like_parameters(direction, hessian.params, "the direction"))
    product = objective.finite(hessian(unit), "the product")
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
    at_a_time: int | None = None,
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
      at_a_time: examples in memory at a time, as for `Hessian`.
      **options: those of `eigenpairs`: `smallest`, `start`, `track_above`, `basis`, ...
    """
    hessian = Hessian(loss_fn, params, batches, finite_difference, dtype, at_a_time)
    within = Block(hessian, hessian.params, block)
    if block is not None and vectors.whole("k", k) > within.size:
        raise ProbeError(f"k = {k}: the block has {within.size} parameters")
    towards = within.restrict(hessian.gradient)
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


def _product(program: Program, loss_fn, params, batch, groups, vector) -> Tree:
    return program(loss_fn, params, batch, vector, groups)


@compiled(static_argnums=0)
def _linearize(loss_fn, params, batch):
    """(the gradient, v -> H v)."""
    return jax.linearize(jax.grad(objective.differentiable(loss_fn, batch)), params)


@compiled()
def _apply(linear, vector):
    return linear(vector)


@compiled(static_argnums=(0, 4))
def _difference(loss_fn, params, batch, vector, groups):
    """(g(p + h v) - g(p - h v)) / 2h, h scaled to the norms and the precision."""
    shift = vectors.epsilon(params) ** (1 / 3) * (1 + vectors.norm(params))
    h = shift / jnp.maximum(vectors.norm(vector), 1e-30)
    moved = [jax.tree.map(lambda p, v, s=s: p + s * h * v, params, vector) for s in (1, -1)]
    plus, minus = (objective.batch_gradient(loss_fn, each, batch, groups) for each in moved)
    return jax.tree.map(lambda a, b: (a - b) / (2 * h), plus, minus)
