"""Other symmetric operators on the parameters, for `eigenpairs`: Gauss-Newton, preconditioned,
of one block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wsdjax.compiling import compiled
from wsdjax.probes import vectors
from wsdjax.probes.groups import Groups, mean
from wsdjax.probes.objective import (
    Batches,
    LossFn,
    check_function,
    grouped,
    total,
    weights,
)
from wsdjax.probes.vectors import Operator, ProbeError, Tree
from wsdjax.wording import listed

Chosen = Callable[[str], bool]


class GaussNewton:
    """v -> J' H_L J v, the mean over all examples: the Hessian without the curvature of the
    network, positive semidefinite for a convex loss of the outputs (Schraudolph).

    Args:
      apply_fn: ``apply_fn(params, batch) -> outputs``.
      output_loss: ``output_loss(outputs, batch)``, the mean over the batch's examples.
      at_a_time: examples in memory at a time, as for `Hessian`.
    """

    def __init__(
        self,
        apply_fn: Callable,
        output_loss: LossFn,
        params: Tree,
        batches: Batches,
        at_a_time: int | None = None,
    ):
        self.params = vectors.as_parameters(params)
        check_function(apply_fn, "apply_fn")
        check_function(output_loss, "output_loss")
        self._functions, self._batches = (apply_fn, output_loss), batches
        self._shares = weights(batches)
        of = _gauss_newton, self._functions, self.params, batches, at_a_time, self.params
        self._groups, self.workspace = grouped(*of)
        self.at_a_time = self._groups and self._groups.size

    def __call__(self, vector: Tree) -> Tree:
        vector = vectors.like_parameters(vector, self.params, "the vector")
        products = (
            _gauss_newton(self._functions, self.params, batch, vector, self._groups)
            for batch in self._batches
        )
        return total(self._shares, products)


@compiled(static_argnums=(0, 4))
def _gauss_newton(functions, params, batch, vector, groups: Groups | None):
    apply_fn, output_loss = functions

    def of(some):
        outputs, pull_back = jax.vjp(lambda p: apply_fn(p, some), params)
        _, moved = jax.jvp(lambda p: apply_fn(p, some), (params,), (vector,))
        slope = jax.grad(lambda y: output_loss(y, some))
        _, curved = jax.jvp(slope, (outputs,), (moved,))
        return pull_back(curved)[0]

    with jax.default_matmul_precision("highest"):
        return mean(of, batch, groups)


class Preconditioned:
    """v -> P^-1/2 A P^-1/2 v for a diagonal P, as of Adam: its largest eigenvalue is the
    sharpness that Adam sees (Cohen et al.). The `operator` is v -> A v, such as `Hessian`."""

    def __init__(self, operator: Operator, preconditioner: Tree):
        preconditioner = vectors.as_parameters(preconditioner, "P")
        self._operator = operator
        _as_told(self, operator, preconditioner)
        if not all((leaf > 0).all() for leaf in jax.tree.leaves(preconditioner)):
            raise ProbeError("the preconditioner must be positive everywhere")
        self._scale = jax.tree.map(lambda p: p**-0.5, preconditioner)

    def __call__(self, vector: Tree) -> Tree:
        vector = vectors.like_parameters(vector, self._scale, "the vector")
        scaled = jax.tree.map(lambda s, v: s * v, self._scale, vector)
        product = vectors.like_parameters(self._operator(scaled), self._scale, "the product")
        return jax.tree.map(lambda s, v: s * v, self._scale, product)


def _as_told(wrapper: Any, operator: Operator, params: Tree) -> None:
    """Takes over what an operator tells of its products."""
    wrapper.computed_in = getattr(operator, "computed_in", vectors.precision(params))
    for name in ("at_a_time", "workspace"):
        setattr(wrapper, name, getattr(operator, name, None))


class Block:
    """v -> P A P v, P keeping the leaves of one layer or block and zeroing the others.

    Args:
      operator: v -> A v, such as `Hessian`.
      params: what a vector is like.
      chosen: told the name of each leaf, such as "conv1/kernel", says whether it is kept; None
        keeps all.
    """

    def __init__(self, operator: Operator, params: Tree, chosen: Chosen | None):
        self._operator = operator
        self._params = params = vectors.as_parameters(params)
        _as_told(self, operator, params)
        pairs, structure = jax.tree_util.tree_flatten_with_path(params)
        names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in pairs]
        kept = [chosen is None or bool(chosen(name)) for name in names]
        self._kept = jax.tree.unflatten(structure, kept)
        self.size = sum(leaf.size for (_, leaf), keep in zip(pairs, kept, strict=True) if keep)
        """How many parameters are kept."""
        if not self.size:
            raise ProbeError(f"the block has no leaf; they are {listed(names, 3)}")

    def restrict(self, vector: Tree) -> Tree:
        """P v."""
        vector = vectors.like_parameters(vector, self._params, "the vector")
        return jax.tree.map(lambda kept, v: v if kept else jnp.zeros_like(v), self._kept, vector)

    def signs(self, key: jax.Array) -> Tree:
        """P v for a Rademacher vector v."""
        return self.restrict(vectors.random_like(key, self._params, "rademacher"))

    def __call__(self, vector: Tree) -> Tree:
        return self.restrict(self._operator(self.restrict(vector)))


def adam_preconditioner(
    second_moment: Tree, count: int | jax.Array, b2: float, eps: float = 1e-8
) -> Tree:
    """sqrt(nu / (1 - b2^count)) + eps, by which Adam divides after its first update, for
    `Preconditioned`."""
    if not (0 <= b2 < 1 and np.all(np.asarray(count) > 0)):
        raise ProbeError(f"b2 = {b2}, count = {count}: Adam divides by nothing there")
    second_moment = vectors.as_parameters(second_moment, "the second moment")
    return jax.tree.map(lambda nu: (nu / (1 - b2**count)) ** 0.5 + eps, second_moment)
