"""The eigenvalues in float64, and whether all contestants see the same Hessian."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import scipy.sparse.linalg

from experiments.bench.subject import Subject
from wsdjax import probes


def reference(subject: Subject, k: int) -> np.ndarray:
    """The k largest eigenvalues in float64, to 1e-10.

    Raises:
      probes.ProbeError: where Lanczos does not get there.
    """
    with jax.enable_x64(True):
        raised = subject.in_float64()
        found = probes.sharpness(
            raised.model.loss, raised.params, [raised.batch], k=k, tol=1e-10, max_basis=150
        )
    if not found.converged.all():
        raise probes.ProbeError(f"no reference: residuals {found.residuals}")
    return found.eigenvalues


def check(subject: Subject) -> None:
    """That the loss and a product in float32 are those in float64.

    Raises:
      probes.ProbeError: where they are not.
    """
    loss, product = _in_float64(subject)
    ours = probes.hvp(subject.model.loss, subject.params, _direction(subject), [subject.batch])
    _agree("the loss", subject.model.loss(subject.params, subject.batch), loss, 1e-6)
    _agree("the product", _flat(ours), _flat(product), 1e-5)


def check_torch(subject: Subject, exact: np.ndarray) -> None:
    """That PyTorch's loss and product in float32 are ours in float64, and that ARPACK finds
    the reference from PyTorch's products in float64.

    Raises:
      probes.ProbeError: where they are not.
    """
    from experiments.bench.in_torch import as_torch, flattened, loss_and_product

    loss, expected = _in_float64(subject)
    found, product = loss_and_product(subject)
    _agree("PyTorch's loss", found, loss, 1e-6)
    direction = flattened(as_torch(_direction(subject)))
    _agree("PyTorch's product", product(direction), flattened(as_torch(expected)), 1e-5)
    with jax.enable_x64(True):
        _, product = loss_and_product(subject.in_float64())
    n, k = direction.size, len(exact)
    operator = scipy.sparse.linalg.LinearOperator((n, n), product, dtype=np.float64)
    values = scipy.sparse.linalg.eigsh(
        operator, k, which="LA", tol=1e-12, ncv=min(n, 4 * k + 16), return_eigenvectors=False
    )
    _agree("ARPACK's eigenvalues", np.sort(values)[::-1], exact, 1e-8)


def _direction(subject: Subject) -> Any:
    return jax.tree.map(np.sin, jax.device_get(subject.params))


def _in_float64(subject: Subject) -> tuple[Any, Any]:
    with jax.enable_x64(True):
        raised = subject.in_float64()
        arguments = (raised.model.loss, raised.params, _direction(raised), [raised.batch])
        return raised.model.loss(raised.params, raised.batch), probes.hvp(*arguments)


def _flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)])


def _agree(what: str, found: Any, expected: Any, tol: float) -> None:
    off = np.linalg.norm(np.subtract(found, expected)) / np.linalg.norm(expected)
    if not off <= tol:
        raise probes.ProbeError(f"{what} is off by {off:.1e}, more than {tol:.0e}: nothing timed")
