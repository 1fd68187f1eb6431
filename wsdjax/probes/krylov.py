"""A growing orthonormal basis, and a symmetric operator seen through it.

Every product H q_j is orthogonalised against all of it (classical Gram-Schmidt, twice), and its
coefficients are column j of the projection Q H Q'. So a basis may begin with several vectors,
take in new ones and be restarted: nothing relies on the three-term recurrence, which is what
comes out when it begins with one (Lanczos).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wsdjax.probes.basis import Basis
from wsdjax.probes.vectors import (
    Operator,
    ProbeError,
    Tree,
    combine,
    epsilon,
    norm,
    random_like,
    size,
    take,
)


class Ritz(NamedTuple):
    """The projected operator's eigenpairs, by descending eigenvalue."""

    values: np.ndarray
    """float64 [p]."""
    coefficients: np.ndarray
    """float64 [p, p]: column i is eigenvector i in terms of the multiplied vectors."""
    bounds: np.ndarray
    """float64 [p]: ||H y_i - theta_i y_i|| in exact arithmetic."""


class Krylov:
    """Holds m vectors, of which the first p have been multiplied by the operator; the others wait.
    The basis is empty at first, and of no more vectors than there are parameters."""

    def __init__(self, operator: Operator, params: Tree, basis: Basis, key: jax.Array):
        self._operator, self._params, self._key = operator, params, key
        self.basis, self.capacity = basis, basis.capacity
        self._eps = epsilon(params)
        self.m, self.p, self.products = 0, 0, 0
        # Column j holds the coefficients of H q_j; what lay beyond a full basis, its norm alone.
        self._columns = np.zeros((self.capacity, self.capacity))
        self._lost = np.zeros(self.capacity)

    def add(self, vector: Tree) -> bool:
        """Takes in the part of a vector that is new to the basis; False if there is none."""
        before = float(norm(vector))
        if not np.isfinite(before):
            raise ProbeError("a vector to begin with is not finite")
        if self.m == self.capacity or before == 0:
            return False
        # Of unit length first: what is left of a vector that is nearly in the basis is noise.
        vector, _, after = self.basis.orthogonalise(combine((1 / before,), vector))
        if float(after) <= 100 * self._eps:
            return False
        self._append(vector)
        return True

    def add_random(self, towards: Tree | None = None) -> bool:
        """Takes in a random vector, or the sum of one and of `towards`, both of one length."""
        vector = random_like(self.next_key(), self._params)
        length = 0.0 if towards is None else float(norm(towards))
        if np.isfinite(length) and length > 0:
            vector = combine((float(norm(vector)) / length, 1.0), towards, vector)
        return self.add(vector)

    def step(self) -> bool:
        """Multiplies the next vector, a random one if none waits; False if the space is spent."""
        if self.p == self.m and not self.add_random():
            return False
        self.products += 1
        product = self._operator(self.basis.take(self.p))
        rest, found, length = self.basis.orthogonalise(product)
        found, length = jax.device_get((found, length))  # at once, since each way has its delay
        coefficients, after = np.asarray(found, np.float64), float(length)
        if not (np.isfinite(coefficients).all() and np.isfinite(after)):
            raise ProbeError(
                "the operator times a vector is not finite: look for NaN in the loss itself, in "
                "parameters or data, or for a loss without a second derivative there"
            )
        self._columns[: len(coefficients), self.p] = coefficients
        # The greatest coefficient is a lower bound of the operator's norm.
        if after > 10 * self._eps * float(np.abs(self._columns).max()):
            if self.m < self.capacity:
                self._columns[self.m, self.p] = after
                self._append(rest)
            else:
                self._lost[self.p] = after
        self.p += 1
        return True

    def ritz(self) -> Ritz:
        p = self.p
        projected = self._columns[:p, :p]
        values, coefficients = np.linalg.eigh((projected + projected.T) / 2)
        values, coefficients = values[::-1], coefficients[:, ::-1]
        beyond = np.linalg.norm(self._columns[p : self.m, :p] @ coefficients, axis=0)
        return Ritz(values, coefficients, beyond + self._lost[:p] @ np.abs(coefficients))

    def vectors(self, coefficients: np.ndarray) -> Tree:
        """The block of the vectors with these coefficients [p, k], of unit norm."""
        return _normalised_rows(self._block(coefficients))

    def combine(self, coefficients: np.ndarray) -> Tree:
        """The vector with these coefficients [p], or [m] with those that wait."""
        return take(self._block(coefficients[:, None]), 0)

    def times(self, coefficients: np.ndarray) -> np.ndarray:
        """[m, k]: the operator times the vectors with coefficients [p, k], as the products have it
        that were made."""
        return self._columns[: self.m, : self.p] @ coefficients

    @property
    def complete(self) -> bool:
        """Whether the basis holds all of every product."""
        return not self._lost[: self.p].any()

    def next_key(self) -> jax.Array:
        self._key, key = jax.random.split(self._key)
        return key

    def _block(self, coefficients: np.ndarray) -> Tree:
        padded = np.zeros((coefficients.shape[1], self.capacity))
        padded[:, : len(coefficients)] = coefficients.T
        return self.basis.combine(padded)

    def make_room(self, wanted: int) -> None:
        """Of a full basis keeps the Ritz vectors of the wanted largest values, those of a third of
        the others and those that wait, which takes nothing from the projection onto them (Wu and
        Simon's thick restart); one that spans the space stays."""
        if self.m < self.capacity or self.capacity == size(self._params):
            return
        found = self.ritz()
        keep = wanted + (self.capacity - wanted) // 3
        kept, waiting = min(keep, self.p), self.m - self.p
        mixing = np.zeros((self.capacity, self.capacity))
        mixing[:kept, : self.p] = found.coefficients[:, :kept].T
        for i in range(waiting):
            mixing[kept + i, self.p + i] = 1
        columns = np.zeros_like(self._columns)
        columns[:kept, :kept] = np.diag(found.values[:kept])
        coupling = self._columns[self.p : self.m, : self.p] @ found.coefficients[:, :kept]
        columns[kept : kept + waiting, :kept] = coupling
        self.basis.mix(mixing)
        lost = np.zeros_like(self._lost)
        lost[:kept] = self._lost[: self.p] @ np.abs(found.coefficients[:, :kept])
        self._columns, self._lost = columns, lost
        self.p, self.m = kept, kept + waiting

    def _append(self, vector: Tree) -> None:
        self.basis.put(self.m, vector)
        self.m += 1


@jax.jit
def _normalised_rows(block: Tree) -> Tree:
    squares = sum(
        jnp.sum(jnp.square(rows), axis=tuple(range(1, rows.ndim)))
        for rows in jax.tree.leaves(block)
    )

    def scaled(rows):
        return rows / jnp.sqrt(squares).reshape(-1, *(1,) * (rows.ndim - 1)).astype(rows.dtype)

    return jax.tree.map(scaled, block)
