"""The mean of a loss over batches, its gradient, and its curvature as a linear operator.

`loss_fn(params, batch)` is the mean over the examples of a batch, a scalar; `batches` is a
sequence of pytrees whose leaves have examples as their leading axis. A batch weighs as many
as its examples. Parameters and data are arguments of the compiled functions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wsdjax.probes.vectors import (
    ProbeError,
    Tree,
    as_parameters,
    combine,
    epsilon,
    is_numeric,
    like_parameters,
    norm,
    precision,
    told,
)

LossFn = Callable[[Tree, Any], jax.Array]
Batches = Sequence[Any]

# A linearization holds what the forward pass left behind; beyond this many bytes it is made
# again for every product.
LINEARIZED_BYTES = 2 * 2**30


def weights(batches: Batches) -> np.ndarray:
    """[B]: each batch's share of all examples.

    Raises:
      ProbeError: for no batch, or one that has no examples, or something else than arrays.
    """
    if isinstance(batches, dict) or not isinstance(batches, Sequence):
        raise ProbeError(f"batches must be a sequence of batches, not a {type(batches).__name__}")
    if not batches:
        raise ProbeError("batches is empty")
    counts = []
    for i, batch in enumerate(batches):
        pairs = jax.tree_util.tree_leaves_with_path(batch)
        if not pairs:
            raise ProbeError(f"batches[{i}] has no array with a leading axis of examples")
        for path, leaf in pairs:
            if not is_numeric(leaf) or jnp.ndim(leaf) == 0:
                what = f"{told(leaf)} without an axis" if is_numeric(leaf) else told(leaf)
                raise ProbeError(
                    f"batches[{i}]{jax.tree_util.keystr(path)[-80:]} is {what}: each leaf must be "
                    "an array with a leading axis of examples; close over anything else in the loss"
                )
        leaves = [leaf for _, leaf in pairs]
        if _kind(batch) != _kind(batches[0]):
            raise ProbeError(
                f"batches[{i}] is unlike batches[0]; a single batch (x, y) is given as [(x, y)]"
            )
        sizes = {jnp.shape(leaf)[0] for leaf in leaves}
        if len(sizes) > 1:
            raise ProbeError(f"batches[{i}] has arrays of several leading axes; one is of examples")
        if sizes == {0}:
            raise ProbeError(f"batches[{i}] has no example: leave it out")
        counts.append(sizes.pop())
    return np.array(counts, np.float64) / sum(counts)


def _kind(batch: Any) -> Any:
    """What batches have in common that differ in their examples alone."""
    leaves, structure = jax.tree.flatten(batch)
    return structure, [(jnp.shape(leaf)[1:], jnp.result_type(leaf)) for leaf in leaves]


def loss(loss_fn: LossFn, params: Tree, batches: Batches) -> float:
    """The mean loss, its sum over batches in float64; of 16-bit parameters in float32."""
    params = as_parameters(params)
    check_function(loss_fn)
    shares = weights(batches)
    values = [batch_loss(loss_fn, params, batch) for batch in batches]
    return float(np.dot(shares, np.array(jax.device_get(values), np.float64)))


def gradient(loss_fn: LossFn, params: Tree, batches: Batches) -> Tree:
    """The gradient of the mean loss.

    Raises:
      ProbeError: if it is not finite.
    """
    params = as_parameters(params)
    check_function(loss_fn)
    shares = weights(batches)
    found = total(shares, (_gradient(loss_fn, params, batch) for batch in batches))
    return _finite(found)


@partial(jax.jit, static_argnums=0)
def batch_loss(loss_fn, params, batch):
    with jax.default_matmul_precision("highest"):
        value = loss_fn(params, batch)
    if isinstance(value, tuple):
        raise ProbeError(
            "loss_fn must return a scalar, and returns a tuple: drop what is beside it"
        )
    if not is_numeric(value):
        raise ProbeError(f"loss_fn must return a scalar, and returns {told(value)}")
    if jnp.shape(value) != ():
        raise ProbeError(f"loss_fn must return a scalar, and returns shape {jnp.shape(value)}")
    if jnp.iscomplexobj(value):
        raise ProbeError("loss_fn must return a real number, and returns a complex one")
    return value


def differentiable(loss_fn, batch):
    """p -> the loss, to be differentiated."""

    def of(params):
        value = batch_loss(loss_fn, params, batch)
        if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            raise ProbeError(
                f"loss_fn returns {jnp.result_type(value)}, which has no derivative: give a loss "
                "in floating point"
            )
        return value

    return of


def check_function(function: Any, name: str = "loss_fn") -> None:
    """Raises a ProbeError for what cannot be called, or told from others by what is compiled."""
    if not callable(function):
        raise ProbeError(f"{name} must be a function, not {told(function)}")
    try:
        hash(function)
    except TypeError:
        raise ProbeError(
            f"{name} cannot be hashed, as an object that holds arrays: wrap it in a function of "
            "(params, batch)"
        ) from None


@partial(jax.jit, static_argnums=0)
def _gradient(loss_fn, params, batch):
    return jax.grad(differentiable(loss_fn, batch))(params)


def _finite(gradient: Tree) -> Tree:
    if not np.isfinite(float(norm(gradient))):
        raise ProbeError(
            "the gradient is not finite: look for NaN in the loss, the parameters or the data"
        )
    return gradient


def total(shares: np.ndarray, trees: Iterable[Tree]) -> Tree:
    """sum_i shares[i] trees[i]."""
    found = None
    for share, tree in zip(shares, trees, strict=True):
        found = combine((share,), tree) if found is None else combine((1.0, share), found, tree)
    return found


class Hessian:
    """v -> H v for the Hessian H of the mean loss: forward over reverse.

    Where what the forward passes leave behind fits in memory they are made once, and each
    product costs the tangent pass alone (`jax.linearize`).

    Args:
      loss_fn, params, batches: see the module.
      finite_difference: differences of gradients, for a loss that blocks forward mode.
      dtype: None computes in float32 at full matrix precision, or in float64 for parameters in
        float64. "bfloat16" insists on that, for which parameters and batches are rounded: it
        shifts eigenvalues by up to a percent, which no residual shows. So do "float16",
        "float32" and "float64", which needs JAX's 64 bits.

    Raises:
      ProbeError: for parameters or batches that make no sense, a loss or gradient that is not
        finite, or a loss whose `custom_vjp` blocks forward mode.
    """

    def __init__(
        self,
        loss_fn: LossFn,
        params: Tree,
        batches: Batches,
        finite_difference: bool = False,
        dtype: str | None = None,
    ):
        self.params = as_parameters(params)
        check_function(loss_fn)
        self.computed_in = precision(self.params)
        if dtype is not None:
            self.computed_in = _checked(dtype)
            loss_fn = _Lowered(loss_fn, self.computed_in)
        self.products = 0
        """How many products there have been."""
        self.gradient: Tree | None = None
        """That of the mean loss, where it came out on the way."""
        self._shares = weights(batches)
        self._loss_fn, self._batches = loss_fn, batches
        if finite_difference:
            self._products = [partial(_difference, loss_fn, self.params, b) for b in batches]
            return
        with forward_mode():
            first = _linearize(loss_fn, self.params, batches[0])
        held = len(batches) * sum(leaf.nbytes for leaf in jax.tree.leaves(first[1]))
        if held <= LINEARIZED_BYTES:
            rest = [_linearize(loss_fn, self.params, batch) for batch in batches[1:]]
            slopes, linears = zip(first, *rest, strict=True)
            self.gradient = _finite(total(self._shares, slopes))
            self._products = [partial(_apply, linear) for linear in linears]
        else:
            _finite(first[0])
            self._products = [partial(_product, loss_fn, self.params, b) for b in batches]

    def __call__(self, vector: Tree) -> Tree:
        """H v, like `params`."""
        self.products += 1
        vector = like_parameters(vector, self.params, "the vector")
        with forward_mode():
            return total(self._shares, (product(vector) for product in self._products))


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


def _checked(dtype: Any) -> str:
    """The name of a type to compute in.

    Raises:
      ProbeError: for another, or one that JAX would take another for.
    """
    known = ("bfloat16", "float16", "float32", "float64")
    try:
        name = jnp.dtype(dtype).name
    except TypeError:
        name = ""
    if name not in known:
        raise ProbeError(
            f"dtype = {str(dtype)[:40]!r}: must be one of {', '.join(known)}, or None for the "
            "parameters' own"
        )
    if jax.dtypes.canonicalize_dtype(name) != name:
        raise ProbeError(
            'dtype = "float64": JAX has 64 bits disabled and would compute in float32; call '
            'jax.config.update("jax_enable_x64", True) before anything else, or set '
            "JAX_ENABLE_X64=1"
        )
    return name


@contextlib.contextmanager
def forward_mode() -> Iterator[None]:
    """Tells of a loss that has none."""
    try:
        yield
    except TypeError as error:
        if "custom_vjp" not in str(error):
            raise
        raise ProbeError(
            "the loss has a custom_vjp, whose gradient has no forward mode: write it without, or "
            "ask for differences of gradients with finite_difference=True"
        ) from error


@partial(jax.jit, static_argnums=0)
def _linearize(loss_fn, params, batch):
    """(the gradient, v -> H v)."""
    return jax.linearize(jax.grad(differentiable(loss_fn, batch)), params)


@jax.jit
def _apply(linear, vector):
    return linear(vector)


@partial(jax.jit, static_argnums=0)
def _product(loss_fn, params, batch, vector):
    return jax.jvp(jax.grad(differentiable(loss_fn, batch)), (params,), (vector,))[1]


@partial(jax.jit, static_argnums=0)
def _difference(loss_fn, params, batch, vector):
    """(g(p + h v) - g(p - h v)) / 2h, h scaled to the norms and the precision."""
    shift = epsilon(params) ** (1 / 3) * (1 + norm(params))
    h = shift / jnp.maximum(norm(vector), 1e-30)
    moved = [jax.tree.map(lambda p, v, s=s: p + s * h * v, params, vector) for s in (1, -1)]
    plus, minus = (_gradient(loss_fn, each, batch) for each in moved)
    return jax.tree.map(lambda a, b: (a - b) / (2 * h), plus, minus)
