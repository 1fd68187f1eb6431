"""Parameters as vectors of an inner-product space, leaf by leaf: never one flat array.

A block of m vectors is a pytree whose leaves have a leading axis m; sharded parameters keep
their sharding. Inner products are summed in float32, or in float64 for float64 leaves.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Tree = Any


class ProbeError(ValueError):
    """A probe that has no answer; the message says why, and what would have one."""


def as_parameters(tree: Tree, name: str = "params") -> Tree:
    """The tree with leaves in float32 or float64; 16-bit ones are raised to float32.

    Curvature in bfloat16 is off by half a percent, which no residual can see.

    Raises:
      ProbeError: for a tree without leaves, or a leaf that is no floating-point array.
    """
    if not any(jnp.size(leaf) for leaf in jax.tree.leaves(tree)):
        raise ProbeError(f"{name} has no arrays, or empty ones alone")

    def raised(path, leaf):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ProbeError(
                f"{name}{jax.tree_util.keystr(path)} is of type {dtype}: a direction needs "
                "floating-point parameters; close over the others in the loss"
            )
        return jnp.asarray(leaf, jnp.promote_types(dtype, jnp.float32))

    return jax.tree.map_with_path(raised, tree)


def like_parameters(tree: Tree, params: Tree, name: str) -> Tree:
    """`tree` in the dtypes of `params`.

    Raises:
      ProbeError: where structure or shapes are not those of `params`.
    """
    found, wanted = (_names(each) for each in (tree, params))
    if found != wanted:
        missing, extra = (", ".join(a - b) for a, b in ((wanted, found), (found, wanted)))
        told = [f"lacks {missing}"] * bool(missing) + [f"has {extra}"] * bool(extra)
        raise ProbeError(f"{name} is no tree like the parameters: it {' and '.join(told)}")
    leaves = jax.tree.leaves(tree)
    tree = jax.tree.unflatten(jax.tree.structure(params), leaves)

    def fitted(path, leaf, param):
        if jnp.shape(leaf) != jnp.shape(param):
            where = jax.tree_util.keystr(path)
            raise ProbeError(
                f"{name}{where} has shape {jnp.shape(leaf)}, the parameter {jnp.shape(param)}"
            )
        if jnp.iscomplexobj(leaf):
            raise ProbeError(f"{name}{jax.tree_util.keystr(path)} is complex")
        return jnp.asarray(leaf, param.dtype)

    return jax.tree.map_with_path(fitted, tree, params)


def _names(tree: Tree) -> set[str]:
    paths = (path for path, _ in jax.tree_util.tree_leaves_with_path(tree))
    return {jax.tree_util.keystr(path) for path in paths}


@jax.jit
def dot(a: Tree, b: Tree) -> jax.Array:
    """The inner product of two vectors."""
    return _sum(jax.tree.map(leaf_dot, a, b))


def _sum(scalars: Tree) -> jax.Array:
    return jax.tree.reduce(jnp.add, scalars)


def leaf_dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.vdot(a, b, precision="highest")


@jax.jit
def norm(a: Tree) -> jax.Array:
    return jnp.sqrt(dot(a, a))


@jax.jit
def combine(coefficients: Any, *vectors: Tree) -> Tree:
    """sum_i coefficients[i] vectors[i]."""

    def of_leaf(*leaves):
        total = sum(c * leaf for c, leaf in zip(coefficients, leaves, strict=True))
        return total.astype(leaves[0].dtype)

    return jax.tree.map(of_leaf, *vectors)


def difference(a: Tree, b: Tree) -> Tree:
    return combine((1.0, -1.0), a, b)


def normalized(vector: Tree, name: str = "the direction") -> Tree:
    """The unit vector.

    Raises:
      ProbeError: for one whose norm is zero or not finite.
    """
    length = float(norm(vector))
    if not (np.isfinite(length) and length > 0):
        raise ProbeError(f"{name} has the norm {length}: no direction")
    return combine((1.0 / length,), vector)


def take(block: Tree, i: int) -> Tree:
    return jax.tree.map(lambda rows: rows[i], block)


def stack(vectors: list[Tree]) -> Tree:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *vectors)


@partial(jax.jit, static_argnums=2)
def random_like(key: jax.Array, params: Tree, kind: str = "normal") -> Tree:
    """A vector of independent entries, `normal` or `rademacher`."""
    leaves, structure = jax.tree.flatten(params)
    draw = {"normal": jax.random.normal, "rademacher": jax.random.rademacher}[kind]
    keys = jax.random.split(key, len(leaves))
    drawn = [draw(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)


def epsilon(params: Tree) -> float:
    """The coarsest machine epsilon of the leaves."""
    return max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(params))


def precision(params: Tree) -> str:
    """The name of the coarsest floating-point type of the leaves, such as "float32"."""
    return min((leaf.dtype for leaf in jax.tree.leaves(params)), key=lambda d: d.itemsize).name


def size(params: Tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
