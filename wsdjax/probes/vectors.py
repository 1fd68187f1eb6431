"""Parameters as vectors of an inner-product space, leaf by leaf: never one flat array.

A block of m vectors is a pytree whose leaves have a leading axis m; sharded parameters keep
their sharding. Inner products are summed in float32, or in float64 for float64 leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from wsdjax.compiling import Program, for_once
from wsdjax.errors import UserError
from wsdjax.wording import listed, shortened

Tree = Any
Operator = Callable[[Tree], Tree]


class ProbeError(UserError, ValueError):
    """A probe that has no answer; the message says why, and what would have one."""


def as_parameters(tree: Tree, name: str = "params") -> Tree:
    """The tree with leaves in float32 or float64; 16-bit ones are raised to float32.

    Curvature in bfloat16 is off by half a percent, which no residual can see.
    """

    def raised(path, leaf):
        dtype = jnp.result_type(leaf) if is_numeric(leaf) and not isinstance(leaf, int) else None
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating) or dtype.itemsize < 2:
            raise ProbeError(
                f"{name}{_at(path)} is {told(leaf)}: a direction needs floating-point parameters "
                "of 16 bits or more; close over the others in the loss (of an Equinox module, "
                "eqx.partition(module, eqx.is_inexact_array) takes the arrays out)"
            )
        return jnp.asarray(leaf, jnp.promote_types(dtype, jnp.float32))

    found = jax.tree.map_with_path(raised, tree)
    if not any(leaf.size for leaf in jax.tree.leaves(found)):
        raise ProbeError(f"{name} has no arrays, or empty ones alone")
    return found


def is_numeric(leaf: object) -> bool:
    """Whether it is a number, or an array of numbers or of random keys."""
    if isinstance(leaf, bool | int | float | complex):
        return True
    arrays = np.ndarray | np.generic | jax.Array
    if not (isinstance(leaf, arrays) or hasattr(leaf, "__jax_array__")):
        return False
    try:
        jnp.result_type(leaf)
    except TypeError:
        return False
    return True


def told(value: object) -> str:
    """The kind of a value, for a message: "a function", "a str", "an array of float32 (2, 3)"."""
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return f"an array of {value.dtype} {value.shape}"
    if isinstance(value, bool | int | float | complex):
        return f"a Python {type(value).__name__}"
    if callable(value):
        return "a function"
    return "None" if value is None else f"a {type(value).__name__}"


def _at(path: jax.tree_util.KeyPath) -> str:
    return shortened(jax.tree_util.keystr(path))


def whole(name: str, value: object, least: int = 1) -> int:
    """The value, if it is a whole number that is large enough; else a ProbeError."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ProbeError(f"{name} = {shortened(repr(value))}: must be a whole number")
    if value < least:
        raise ProbeError(f"{name} = {value}: must be at least {least}")
    return int(value)


def key_of(seed: int) -> jax.Array:
    """The key of a seed. JAX takes larger seeds and negative ones too, but gives them other keys
    where 64 bits are enabled."""
    if whole("seed", seed, 0) >= 2**32:
        raise ProbeError(f"seed = {shortened(str(seed))}: must be below 2^32")
    return jax.random.key(seed)


def like_parameters(tree: Tree, params: Tree, name: str) -> Tree:
    """`tree` in the structure and the dtypes of `params`: each leaf is the one of the same path,
    in whatever order the tree has them."""
    # What an operator gives and takes is so as a rule: names are made only of what is not.
    structure: Any = jax.tree.structure(params)
    if jax.tree.structure(tree) == structure and all(
        isinstance(leaf, jax.Array) and (leaf.shape, leaf.dtype) == (param.shape, param.dtype)
        for leaf, param in zip(jax.tree.leaves(tree), jax.tree.leaves(params), strict=True)
    ):
        return tree
    found, wanted = (_by_path(each) for each in (tree, params))
    if found.keys() != wanted.keys():
        differing = (("lacks", wanted.keys() - found), ("has", found.keys() - wanted))
        said = [f"{what} {listed(sorted(paths), 2)}" for what, paths in differing if paths]
        raise ProbeError(f"{name} is no tree like the parameters: it {' and '.join(said)}")

    def fitted(path, param):
        leaf = found[jax.tree_util.keystr(path)]
        real = is_numeric(leaf) and not jnp.iscomplexobj(leaf)
        if not real or jnp.shape(leaf) != jnp.shape(param):
            raise ProbeError(f"{name}{_at(path)} is {told(leaf)}, the parameter {told(param)}")
        return jnp.asarray(leaf, param.dtype)

    return jax.tree.map_with_path(fitted, params)


def _by_path(tree: Tree) -> dict[str, Any]:
    pairs = jax.tree_util.tree_leaves_with_path(tree)
    found = {jax.tree_util.keystr(path): leaf for path, leaf in pairs}
    if len(found) < len(pairs):
        raise ProbeError(
            "two leaves of a tree have one path, by which trees are matched: rename one of them"
        )
    return found


def rows_like(block: Tree | None, params: Tree, name: str) -> list[Tree]:
    """The vectors of a block, each like the parameters; none for None."""
    leaves = jax.tree.leaves(block)
    counts = {jnp.shape(leaf)[:1] if is_numeric(leaf) else () for leaf in leaves}
    if not leaves:
        return []
    if len(counts) > 1 or counts == {()}:
        raise ProbeError(f"{name}: each leaf must have one row for each vector, as eigenvectors do")
    block = jax.tree.map(jnp.asarray, block)
    return [like_parameters(take(block, i), params, name) for i in range(*counts.pop())]


class Iterates(Sequence):
    """Trees as they are asked for, one or more, in float32 or float64, each like the first."""

    def __init__(self, iterates: Sequence[Tree]):
        sequence = hasattr(iterates, "__getitem__") and hasattr(iterates, "__len__")
        if not sequence or isinstance(iterates, dict | str):
            raise ProbeError(f"iterates must be a sequence of trees, not {told(iterates)}")
        if not len(iterates):
            raise ProbeError("there is no iterate")
        self._iterates = iterates
        self._first = as_parameters(iterates[0], "iterates[0]")
        self._structure: Any = jax.tree.structure(self._first)

    def __len__(self) -> int:
        return len(self._iterates)

    def __iter__(self) -> Iterator[Tree]:
        # Python would go on until there is an IndexError, which not all that loads one raises.
        return (self[i] for i in range(len(self)))

    def __getitem__(self, i: Any) -> Any:
        return self._checked(self._iterates[i], i)

    def on_host(self, i: int) -> list[np.ndarray]:
        """The leaves of an iterate; NumPy arrays of the first's shapes and dtypes, as files give
        them, do not go to a device and back."""
        iterate, first = self._iterates[i], jax.tree.leaves(self._first)
        leaves, structure = jax.tree.flatten(iterate)
        alike = structure == self._structure and all(
            type(leaf) is np.ndarray and (leaf.shape, leaf.dtype) == (like.shape, like.dtype)
            for leaf, like in zip(leaves, first, strict=True)
        )
        return leaves if alike else jax.device_get(jax.tree.leaves(self._checked(iterate, i)))

    def _checked(self, iterate: Tree, i: Any) -> Tree:
        iterate = as_parameters(iterate, f"iterates[{i}]")
        return like_parameters(iterate, self._first, f"iterates[{i}]")


@jax.jit
def dot(a: Tree, b: Tree) -> jax.Array:
    """The inner product of two vectors."""
    return jax.tree.reduce(jnp.add, jax.tree.map(leaf_dot, a, b))


def leaf_dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.vdot(a, b, precision="highest")


@jax.jit
def norm(a: Tree) -> jax.Array:
    return jnp.sqrt(dot(a, a))


@jax.jit
def combine(coefficients: Sequence[float], *vectors: Tree) -> Tree:
    """sum_i coefficients[i] vectors[i]."""

    def of_leaf(*leaves):
        total = sum(c * leaf for c, leaf in zip(coefficients, leaves, strict=True))
        return total.astype(leaves[0].dtype)

    return jax.tree.map(of_leaf, *vectors)


def difference(a: Tree, b: Tree) -> Tree:
    return combine((1.0, -1.0), a, b)


def normalized(vector: Tree, name: str = "the direction") -> Tree:
    """The unit vector."""
    length = float(norm(vector))
    if not (np.isfinite(length) and length > 0):
        raise ProbeError(f"{name} has the norm {length}: no direction")
    return combine((1.0 / length,), vector)


@jax.jit
def take(block: Tree, i: int) -> Tree:
    return jax.tree.map(lambda rows: rows[i], block)


@jax.jit
def stack(vectors: list[Tree]) -> Tree:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *vectors)


def random_like(key: jax.Array, params: Tree, kind: str = "normal") -> Tree:
    """A vector of independent entries, `normal` or `rademacher`, which lies where the parameters
    do."""
    leaves, structure = jax.tree.flatten(params)
    where = [getattr(leaf, "sharding", None) for leaf in leaves]
    divided = all(isinstance(each, NamedSharding) for each in where)
    like = tuple((leaf.shape, np.dtype(leaf.dtype)) for leaf in leaves)
    draw = _drawing(like, tuple(where) if divided else None, kind)
    return jax.tree.unflatten(structure, draw(jax.random.key_data(key)))


@lru_cache(maxsize=32)
def _drawing(like: tuple, where: tuple[NamedSharding, ...] | None, kind: str) -> Callable:
    draw: Callable[..., jax.Array] = jax.random.normal if kind == "normal" else _signs

    @partial(Program, told=for_once, out_shardings=where)
    def drawn(key_data):
        keys = jax.random.split(jax.random.wrap_key_data(key_data), len(like))
        pairs = zip(keys, like, strict=True)
        return tuple(draw(key, shape, dtype) for key, (shape, dtype) in pairs)

    def of(key_data):
        # Of several processes each has a key of its own, and they are equal.
        return drawn(np.asarray(key_data) if where else key_data)

    return of


def _signs(key: jax.Array, shape: tuple[int, ...], dtype: np.dtype) -> jax.Array:
    # jax.random.rademacher draws in the process's default type, and others under x64.
    return 2 * jax.random.bernoulli(key, jnp.float32(0.5), shape).astype(dtype) - 1


def epsilon(params: Tree) -> float:
    """The coarsest machine epsilon of the leaves."""
    return max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(params))


def precision(params: Tree) -> str:
    """The name of the coarsest floating-point type of the leaves, such as "float32"."""
    return min((leaf.dtype for leaf in jax.tree.leaves(params)), key=lambda d: d.itemsize).name


def size(params: Tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
