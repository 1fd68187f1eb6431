"""The mean of a loss over batches, and its gradient.

`loss_fn(params, batch)` is the mean over the examples of a batch, a scalar; `batches` is a
sequence of pytrees whose leaves have examples as their leading axis. A batch weighs as many
as its examples. Parameters and data are arguments of the compiled functions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wsdjax.compiling import Program, compiled
from wsdjax.probes.fitting import given, groups_for
from wsdjax.probes.groups import Groups, examples, mean
from wsdjax.probes.vectors import ProbeError, Tree, as_parameters, combine, is_numeric, norm, told

LossFn = Callable[[Tree, Any], jax.Array]
Batches = Sequence[Any]


def weights(batches: Batches) -> np.ndarray:
    """[B]: each batch's share of all examples."""
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
                raise ProbeError(
                    f"batches[{i}]{jax.tree_util.keystr(path)[-80:]} is {told(leaf)}: each leaf "
                    "must be an array with a leading axis of examples; close over anything else "
                    "in the loss"
                )
        if _kind(batch) != _kind(batches[0]):
            raise ProbeError(
                f"batches[{i}] is unlike batches[0]; a single batch (x, y) is given as [(x, y)]"
            )
        sizes = {jnp.shape(leaf)[0] for _, leaf in pairs}
        if len(sizes) > 1:
            raise ProbeError(f"batches[{i}] has arrays of several leading axes; one is of examples")
        if sizes == {0}:
            raise ProbeError(f"batches[{i}] has no example: leave it out")
        counts.append(sizes.pop())
    return np.array(counts, np.float64) / sum(counts)


def _kind(batch: Any) -> tuple[Any, list[tuple[tuple[int, ...], Any]]]:
    """The structure, and the shape of an example and the dtype of each leaf."""
    leaves, structure = jax.tree.flatten(batch)
    return structure, [(jnp.shape(leaf)[1:], jnp.result_type(leaf)) for leaf in leaves]


def loss(loss_fn: LossFn, params: Tree, batches: Batches, at_a_time: int | None = None) -> float:
    """The mean loss, its sum over batches in float64; of 16-bit parameters in float32. `at_a_time`
    is as for `Hessian`."""
    params = as_parameters(params)
    check_function(loss_fn)
    shares = weights(batches)
    groups, _ = grouped(batch_loss, loss_fn, params, batches, at_a_time)
    values = [batch_loss(loss_fn, params, batch, groups) for batch in batches]
    return float(np.dot(shares, np.array(jax.device_get(values), np.float64)))


def gradient(loss_fn: LossFn, params: Tree, batches: Batches, at_a_time: int | None = None) -> Tree:
    """The gradient of the mean loss. `at_a_time` is as for `Hessian`."""
    params = as_parameters(params)
    check_function(loss_fn)
    shares = weights(batches)
    groups, _ = grouped(batch_gradient, loss_fn, params, batches, at_a_time)
    slopes = (batch_gradient(loss_fn, params, batch, groups) for batch in batches)
    return finite(total(shares, slopes))


def grouped(
    program: Program,
    loss_fn: Any,
    params: Tree,
    batches: Batches,
    at_a_time: int | None,
    *more: Any,
) -> tuple[Groups | None, int | None]:
    """How ``program(loss_fn, params, batch, *more, groups)`` is to take each batch, and the bytes
    of each device that it takes beside its arguments, where that is known."""
    largest = largest_of(batches)
    if at_a_time is not None:
        return given(at_a_time, largest), None
    return groups_for(program, loss_fn, params, largest, *more)


def largest_of(batches: Batches) -> Any:
    """The batch of the most examples."""
    return max(batches, key=examples)


@compiled(static_argnums=(0, 3))
def batch_loss(loss_fn, params, batch, groups: Groups | None = None):
    return mean(lambda some: _value(loss_fn, params, some), batch, groups)


def _value(loss_fn, params, batch):
    with jax.default_matmul_precision("highest"):
        value = loss_fn(params, batch)
    if not is_numeric(value) or jnp.shape(value) != () or jnp.iscomplexobj(value):
        raise ProbeError(f"loss_fn must return a real scalar, and returns {told(value)}")
    return value


def differentiable(loss_fn, batch):
    """p -> the loss, to be differentiated."""

    def of(params):
        value = _value(loss_fn, params, batch)
        if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            raise ProbeError(
                f"loss_fn returns {jnp.result_type(value)}, which has no derivative: give a loss "
                "in floating point"
            )
        return value

    return of


def check_function(function: object, name: str = "loss_fn") -> None:
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


@compiled(static_argnums=(0, 3))
def batch_gradient(loss_fn, params, batch, groups: Groups | None = None):
    return mean(lambda some: jax.grad(differentiable(loss_fn, some))(params), batch, groups)


def finite(tree: Tree, name: str = "the gradient") -> Tree:
    if not np.isfinite(float(norm(tree))):
        raise ProbeError(
            f"{name} is not finite: look for NaN in the loss, the parameters or the data"
        )
    return tree


def total(shares: np.ndarray, trees: Iterable[Tree]) -> Tree:
    """sum_i shares[i] trees[i]."""
    found = None
    for share, tree in zip(shares, trees, strict=True):
        found = combine((share,), tree) if found is None else combine((1.0, share), found, tree)
    return found


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
