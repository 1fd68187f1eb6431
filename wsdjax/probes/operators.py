"""Other symmetric operators on the parameters, for `eigenpairs`: Gauss-Newton, preconditioned,
of one block."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from wsdjax.probes import vectors
from wsdjax.probes.objective import Batches, LossFn, check_function, total, weights
from wsdjax.probes.vectors import Operator, ProbeError, Tree
from wsdjax.wording import listed

Chosen = Callable[[str], bool]


class GaussNewton:
    """v -> J' H_L J v, the mean over all examples: the Hessian without the curvature of the
    network, positive semidefinite for a convex loss of the outputs (Schraudolph).

    Args:
      apply_fn: ``apply_fn(params, batch) -> outputs``.
      output_loss: ``output_loss(outputs, batch)``, the mean over the batch's examples.
    """

    def __init__(self, apply_fn: Callable, output_loss: LossFn, params: Tree, batches: Batches):
        self.params = vectors.as_parameters(params)
        check_function(apply_fn, "apply_fn")
        check_function(output_loss, "output_loss")
        self._functions, self._batches = (apply_fn, output_loss), batches
        self._shares = weights(batches)

    def __call__(self, vector: Tree) -> Tree:
        vector = vectors.like_parameters(vector, self.params, "the vector")
        products = (
            _gauss_newton(*self._functions, self.params, batch, vector) for batch in self._batches
        )
        return total(self._shares, products)


@partial(jax.jit, static_argnums=(0, 1))
def _gauss_newton(apply_fn, output_loss, params, batch, vector):
    with jax.default_matmul_precision("highest"):
        outputs, pull_back = jax.vjp(lambda p: apply_fn(p, batch), params)
        _, moved = jax.jvp(lambda p: apply_fn(p, batch), (params,), (vector,))
        slope = jax.grad(lambda y: output_loss(y, batch))
        _, curved = jax.jvp(slope, (outputs,), (moved,))
        return pull_back(curved)[0]


class Preconditioned:
    """v -> P^-1/2 A P^-1/2 v for a diagonal P, as of Adam: its largest eigenvalue is the
    sharpness that Adam sees (Cohen et al.). The `operator` is v -> A v, such as `Hessian`."""

    def __init__(self, operator: Operator, preconditioner: Tree):
        preconditioner = vectors.as_parameters(preconditioner, "P")
        self._operator = operator
        self.computed_in = getattr(operator, "computed_in", vectors.precision(preconditioner))
        if not all((leaf > 0).all() for leaf in jax.tree.leaves(preconditioner)):
            raise ProbeError("the preconditioner must be positive everywhere")
        self._scale = jax.tree.map(lambda p: p**-0.5, preconditioner)

    def __call__(self, vector: Tree) -> Tree:
        vector = vectors.like_parameters(vector, self._scale, "the vector")
        scaled = jax.tree.map(lambda s, v: s * v, self._scale, vector)
        product = vectors.like_parameters(self._operator(scaled), self._scale, "the product")
        return jax.tree.map(lambda s, v: s * v, self._scale, product)


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
        self.computed_in = getattr(operator, "computed_in", vectors.precision(params))
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
