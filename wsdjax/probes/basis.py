"""Where the vectors of a Krylov basis are kept: on the devices, there in bfloat16, or on the host.

A basis has room for `capacity` vectors, those not yet put being zero. On the devices it is a
pytree with a leading axis, sharded as the parameters are, which grows: every product is
orthogonalised against all rows there are. The kinds differ in what a vector
costs: 4 bytes a parameter, 2, or none of the device's memory and the way across the bus.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from wsdjax.compiling import compiled
from wsdjax.probes.fitting import devices_of, room
from wsdjax.probes.vectors import ProbeError, Tree, epsilon, norm, stack
from wsdjax.wording import shortened

FIRST = 16
"""Rows on the devices to begin with; they double."""
FEWEST = 24
"""A basis of fewer vectors restarts too often to get anywhere."""


class DeviceBasis:
    """Rows in `dtype`, None for that of the parameters; all sums are in theirs."""

    def __init__(self, params: Tree, capacity: int, dtype: type | None = None):
        self.capacity = capacity
        self.rows = jax.tree.map(partial(_zeros, min(FIRST, capacity), dtype), params)
        self.epsilon = epsilon(self.rows)
        self._params = params

    def orthogonalise(self, vector: Tree) -> tuple[Tree, jax.Array | np.ndarray, jax.Array]:
        """(what of the vector is orthogonal to the basis, its coefficients, of no more vectors than
        the capacity, the norm of the rest)."""
        return _orthogonalise(self.rows, vector)

    def put(self, at: int, vector: Tree) -> None:
        """Keeps the unit vector along `vector` as number `at`."""
        while at >= self._there:
            self._change(partial(_grown, min(self._there, self.capacity - self._there)))
        self.rows = _put(self.rows, at, vector)

    def take(self, at: int) -> Tree:
        """Vector `at`, in the precision of the parameters."""
        return _take(self.rows, at, self._params)

    def combine(self, coefficients: np.ndarray) -> Tree:
        """The block of the sums with coefficients [k, capacity]."""
        return expand(self.rows, jnp.asarray(coefficients[:, : self._there]))

    def mix(self, coefficients: np.ndarray) -> None:
        """Replaces vector i by the sum with coefficients[i], for [capacity, capacity]."""
        self._change(lambda leaf: _mix(leaf, jnp.asarray(coefficients)))

    @property
    def _there(self) -> int:
        return len(jax.tree.leaves(self.rows)[0])

    def _change(self, of_leaf: Callable[[jax.Array], jax.Array]) -> None:
        # Leaf by leaf, so that there are never two whole bases.
        leaves, structure = jax.tree.flatten(self.rows)
        self.rows = None
        for i in range(len(leaves)):
            leaves[i] = of_leaf(leaves[i])
        self.rows = jax.tree.unflatten(structure, leaves)


class HostBasis:
    """As `DeviceBasis`, but rows in the host's memory; each sum over the basis is done there."""

    def __init__(self, params: Tree, capacity: int):
        self.capacity, self.epsilon, self._params = capacity, epsilon(params), params
        self._rows = jax.tree.map(lambda p: np.zeros((capacity, p.size), p.dtype), params)

    def orthogonalise(self, vector: Tree) -> tuple[Tree, jax.Array | np.ndarray, jax.Array]:
        flat, total = jax.tree.map(np.ravel, jax.device_get(vector)), np.zeros(self.capacity)
        for _ in range(2):
            coefficients = sum(jax.tree.leaves(jax.tree.map(np.matmul, self._rows, flat)))
            flat = jax.tree.map(lambda r, x, c=coefficients: x - c @ r, self._rows, flat)
            total += coefficients
        rest = self._on_device(flat)
        return rest, total, norm(rest)

    def put(self, at: int, vector: Tree) -> None:
        length = float(norm(vector))
        leaves = jax.tree.leaves(jax.device_get(vector))
        for rows, leaf in zip(jax.tree.leaves(self._rows), leaves, strict=True):
            rows[at] = leaf.ravel() / length

    def take(self, at: int) -> Tree:
        return self._on_device(jax.tree.map(lambda rows: rows[at], self._rows))

    def combine(self, coefficients: np.ndarray) -> Tree:
        sums = [
            jax.tree.map(lambda r, c=c: c.astype(r.dtype) @ r, self._rows) for c in coefficients
        ]
        return stack([self._on_device(each) for each in sums])

    def mix(self, coefficients: np.ndarray) -> None:
        for rows in jax.tree.leaves(self._rows):
            rows[:] = coefficients.astype(rows.dtype) @ rows

    def _on_device(self, flat: Tree) -> Tree:
        def placed(x, param):
            return jax.device_put(x.reshape(param.shape), param.sharding)

        return jax.tree.map(placed, flat, self._params)


Basis = DeviceBasis | HostBasis
KINDS: dict[str, Callable[[Tree, int], Basis]] = {
    "full": DeviceBasis,  # float32, or float64 for parameters in float64
    "bfloat16": partial(DeviceBasis, dtype=jnp.bfloat16),
    "host": HostBasis,
}


def make(params: Tree, capacity: int, kind: str) -> Basis:
    """A basis of one of `KINDS`."""
    if kind not in KINDS:
        said, known = shortened(repr(kind)), ", ".join(KINDS)
        raise ProbeError(f"basis = {said}: must be one of {known}, or None to choose")
    if kind == "host" and not all(leaf.is_fully_addressable for leaf in jax.tree.leaves(params)):
        raise ProbeError(
            "the basis would be on the host, which of several processes has but a part of each "
            "vector: give a smaller max_basis, or more devices"
        )
    return KINDS[kind](params, capacity)


def choose(params: Tree, wanted: int, fewest: int, memory: int | None = None) -> tuple[str, int]:
    """(kind, capacity): `wanted` vectors in full if they fit into `memory` bytes of each device
    (None: half of what is free), else as many as fit, not below `fewest`; else as many in
    bfloat16; else all of them on the host."""
    if memory is None:
        memory = room(devices_of(params))
    shards = [
        (int(np.prod(leaf.sharding.shard_shape(leaf.shape))), leaf.dtype.itemsize)
        for leaf in jax.tree.leaves(params)
    ]
    full, rounded = sum(size * width for size, width in shards), sum(2 * size for size, _ in shards)
    for kind, vector in {"full": full, "bfloat16": rounded}.items():
        if (fit := memory // vector) >= min(wanted, fewest):
            return kind, min(wanted, fit)
    return "host", wanted


@compiled()
def _orthogonalise(rows: Tree, vector: Tree) -> tuple[Tree, jax.Array, jax.Array]:
    coefficients = project(rows, vector)
    vector = jax.tree.map(jnp.subtract, vector, expand(rows, coefficients))
    again = project(rows, vector)
    vector = jax.tree.map(jnp.subtract, vector, expand(rows, again))
    return vector, coefficients + again, norm(vector)


@jax.jit
def _take(rows: Tree, at: int, like: Tree) -> Tree:
    return jax.tree.map(lambda r, leaf: r[at].astype(leaf.dtype), rows, like)


@partial(jax.jit, donate_argnums=0)
def _put(rows: Tree, at: int, vector: Tree) -> Tree:
    length = norm(vector)
    return jax.tree.map(lambda r, leaf: r.at[at].set((leaf / length).astype(r.dtype)), rows, vector)


@compiled(donate_argnums=0)
def _mix(rows: jax.Array, coefficients: jax.Array) -> jax.Array:
    return expand(rows, coefficients).astype(rows.dtype)


@compiled()
def project(rows: Tree, vector: Tree) -> jax.Array:
    """[capacity]: the inner products of the rows with a vector."""

    def of_leaf(r, leaf):
        axes = (tuple(range(leaf.ndim)), tuple(range(1, r.ndim)))
        return _contract(leaf, r, axes)

    return jax.tree.reduce(jnp.add, jax.tree.map(of_leaf, rows, vector))


@compiled()
def expand(rows: Tree, coefficients: jax.Array) -> Tree:
    """The sum of rows with coefficients [capacity]; for [k, capacity] the block of k sums."""
    return jax.tree.map(lambda r: _contract(coefficients, r, 1), rows)


def _contract(exact: jax.Array, rows: jax.Array, axes: Any) -> jax.Array:
    if rows.dtype != jnp.bfloat16:
        return jnp.tensordot(exact.astype(rows.dtype), rows, axes, precision="highest")
    # A float32 is the sum of three bfloat16: so no copy of the rows in float32 is needed.
    rest, products = exact.astype(jnp.float32), []
    for _ in range(3):
        # XLA would take a cast there and back for the identity.
        part = jax.lax.reduce_precision(rest, 8, 7)
        rest = rest - part
        low = part.astype(jnp.bfloat16)
        products.append(jnp.tensordot(low, rows, axes, preferred_element_type=jnp.float32))
    return products[0] + products[1] + products[2]


def _grown(more: int, rows: jax.Array) -> jax.Array:
    zeros = jnp.zeros((more, *rows.shape[1:]), rows.dtype, device=rows.sharding)
    return jax.device_put(jnp.concatenate([rows, zeros]), rows.sharding)


def _zeros(capacity: int, dtype: type | None, leaf: jax.Array) -> jax.Array:
    sharding = leaf.sharding
    if isinstance(sharding, NamedSharding):
        sharding = NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))
    return jnp.zeros((capacity, *leaf.shape), dtype or leaf.dtype, device=sharding)
