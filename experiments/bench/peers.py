"""The top eigenvalues of one Hessian by this library and by others, each over its settings.

A contestant is built from a `Subject` and solves for k eigenvalues under a setting; what
importing it raises where it is not installed is left to the caller. PyTorch's have the same
weights and examples, in its own convolutions, which are the fastest it has.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg
from jax.flatten_util import ravel_pytree

from experiments.bench.subject import Subject
from wsdjax import probes

Setting = dict[str, Any]


class Outcome(NamedTuple):
    eigenvalues: np.ndarray
    """[k], descending."""
    products: int


Solve = Callable[..., Outcome]
"""``solve(k, **setting)``, all that a user waits for once the data are in memory."""


class Contestant(NamedTuple):
    build: Callable[[Subject], Solve]
    sweep: Callable[[int], list[Setting]]


def _ours(subject: Subject) -> Solve:
    def solve(k, tol, repeated=True):
        found = probes.sharpness(
            subject.model.loss, subject.params, [subject.batch], k=k, tol=tol, repeated=repeated
        )
        return Outcome(found.eigenvalues, found.products)

    return solve


def _in_torch(subject: Subject) -> tuple[Callable[[], Any], Any]:
    """(what makes the network anew, the batch)."""
    from experiments.bench import in_torch

    in_torch.prepare(tf32=False)
    return partial(in_torch.cnn, subject.params), in_torch.batch_of(subject.batch)


def _curvlinops(subject: Subject) -> Solve:
    """Its products, and SciPy's `eigsh`, as its documentation has it."""
    import torch
    from curvlinops import HessianLinearOperator

    made, batch = _in_torch(subject)
    network = made()

    def solve(k, tol, ncv):
        hessian = HessianLinearOperator(
            network,
            torch.nn.CrossEntropyLoss(),
            list(network.parameters()),
            [batch],
            check_deterministic=False,
        ).to_scipy(np.float32)
        counted = _Counted(hessian.matvec)
        n = hessian.shape[0]
        operator = scipy.sparse.linalg.LinearOperator((n, n), counted, dtype=np.float32)
        start = np.random.default_rng(0).normal(size=n).astype(np.float32)
        try:
            values = scipy.sparse.linalg.eigsh(
                operator, k, which="LA", tol=tol, ncv=ncv, v0=start, return_eigenvectors=False
            )
        except scipy.sparse.linalg.ArpackNoConvergence as error:
            values = np.full(k, np.nan)
            values[: len(error.eigenvalues)] = error.eigenvalues
        return Outcome(np.sort(values)[::-1], counted.products)

    return solve


def _eigenthings(subject: Subject) -> Solve:
    import torch
    from hessian_eigenthings import HessianOperator, lanczos, supervised_loss

    made, batch = _in_torch(subject)
    network = made()
    loss = supervised_loss(torch.nn.functional.cross_entropy)

    def solve(k, steps):
        operator = HessianOperator(network, [batch], loss)
        found = lanczos(operator, k=k, max_iter=steps, reorthogonalize=True, which="LA", seed=0)
        return Outcome(found.eigenvalues.double().cpu().numpy(), found.iterations)

    return solve


def _pyhessian(subject: Subject) -> Solve:
    import torch

    # By name, since the package has a class of the same name as its module.
    module: Any = importlib.import_module("pyhessian.hessian")
    made, batch = _in_torch(subject)

    def solve(k, tol):
        counted = _Counted(module.hessian_vector_product)
        torch.manual_seed(0)
        with mock.patch.object(module, "hessian_vector_product", counted):
            network = made()  # anew, since it adds to the gradients there are
            hessian = module.hessian(
                network, torch.nn.CrossEntropyLoss(), batch, cuda=batch[0].is_cuda
            )
            values, _ = hessian.eigenvalues(maxIter=100, tol=tol, top_n=k)
            network.zero_grad()  # the graph of the gradient is a cycle through it
        return Outcome(np.sort(values)[::-1], counted.products)

    return solve


class _Counted:
    def __init__(self, function: Callable):
        self._function, self.products = function, 0

    def __call__(self, *arguments: Any) -> Any:
        self.products += 1
        return self._function(*arguments)


def _matfree(subject: Subject) -> Solve:
    from matfree import decomp, eig

    loss = subject.model.loss

    @partial(jax.jit, static_argnums=(3, 4))
    def values(params, batch, start, steps, linearize):
        flat, unravel = ravel_pytree(params)
        slope = jax.grad(lambda flat: loss(unravel(flat), batch))

        def along(vector):
            return jax.jvp(slope, (flat,), (vector,))[1]

        product = jax.linearize(slope, flat)[1] if linearize else along
        with jax.default_matmul_precision("highest"):
            return eig.eigh_partial(decomp.tridiag_sym(steps))(product, start)[0]

    def solve(k, steps, linearize):
        size = sum(leaf.size for leaf in jax.tree.leaves(subject.params))
        start = jax.random.normal(jax.random.key(0), (size,), jnp.float32)
        found = values(subject.params, subject.batch, start, steps, linearize)
        return Outcome(np.sort(np.asarray(found, np.float64))[::-1][:k], steps)

    return solve


def _settings(**values: Any) -> list[Setting]:
    return [dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())]


def _steps(k: int) -> tuple[int, ...]:
    return (5, 6, 7, 8) if k == 1 else (16, 18, 20, 22, 24)


CONTESTANTS = {
    "wsdjax": Contestant(
        _ours,
        # Of several the others do not look for repeated ones, and cannot be asked to.
        lambda k: _settings(tol=(0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3), repeated=(k == 1,)),
    ),
    "curvlinops": Contestant(
        _curvlinops,
        lambda k: _settings(tol=(1e-1, 1e-4), ncv=(5, 6, 7) if k == 1 else (11, 15, 19)),
    ),
    "hessian-eigenthings": Contestant(_eigenthings, lambda k: _settings(steps=_steps(k))),
    "PyHessian": Contestant(
        _pyhessian,
        lambda k: _settings(tol=(1e-2, 1e-3, 1e-4) if k == 1 else (1e-2, 1e-3)),
    ),
    "matfree": Contestant(_matfree, lambda k: _settings(steps=_steps(k), linearize=(False, True))),
}
"""By the name in the table."""
OURS, *PEERS = CONTESTANTS
