"""The noise of the stochastic gradient: its covariance over examples, and what it drowns."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wsdjax.compiling import compiled
from wsdjax.probes import objective
from wsdjax.probes.eigenpairs import eigenpairs
from wsdjax.probes.groups import Groups, examples, mean
from wsdjax.probes.objective import Batches, LossFn
from wsdjax.probes.vectors import Tree, as_parameters, dot, like_parameters, normalized


class GradientNoise(NamedTuple):
    """Measures of the gradients g_i of single examples, with mean g and covariance
    Sigma = mean_i (g_i - g)(g_i - g)'."""

    trace: float
    """tr Sigma."""
    top_eigenvalue: float
    """The largest eigenvalue of Sigma."""
    residual: float
    """||Sigma y - rho y|| of that."""
    gradient_norm: float
    """||g||."""
    noise_scale: float
    """tr Sigma / ||g||^2: the batch at which signal and noise are equal (McCandlish et al.)."""
    examples: int


def gradient_noise(
    loss_fn: LossFn,
    params: Tree,
    batches: Batches,
    tol: float = 1e-3,
    seed: int = 0,
    at_a_time: int | None = None,
) -> GradientNoise:
    """The covariance of the gradient over all examples of all batches.

    No gradient of a single example is kept: products with Sigma are of forward and reverse
    mode through the vector of the examples' losses, and the trace is summed in chunks. `at_a_time`
    is as for `wsdjax.probes.Hessian`.
    """
    covariance = Covariance(loss_fn, params, batches, at_a_time)
    mean = covariance.mean
    squares = [
        np.asarray(_squares(loss_fn, covariance.params, mean, b), np.float64) for b in batches
    ]
    norm_squared = float(dot(mean, mean))
    trace = float(np.concatenate(squares).mean())
    top = eigenpairs(covariance, covariance.params, 1, tol, seed=seed)
    return GradientNoise(
        trace=trace,
        top_eigenvalue=float(top.eigenvalues[0]),
        residual=float(top.residuals[0]),
        gradient_norm=norm_squared**0.5,
        noise_scale=trace / norm_squared if norm_squared else np.inf,
        examples=sum(len(each) for each in squares),
    )


def signal_to_noise(
    loss_fn: LossFn,
    params: Tree,
    direction: Tree,
    batches: Batches,
    at_a_time: int | None = None,
) -> float:
    """(g'v)^2 / v' Sigma v along the unit vector v of a direction, for one example; a batch of B
    has B times as much. `at_a_time` is as for `wsdjax.probes.Hessian`."""
    covariance = Covariance(loss_fn, params, batches, at_a_time)
    unit = normalized(like_parameters(direction, covariance.params, "the direction"))
    noise = float(np.square(np.concatenate(covariance.slopes(unit))).mean())
    signal = float(dot(unit, covariance.mean)) ** 2
    return signal / noise if noise else np.inf


class Covariance:
    """v -> Sigma v = mean_i g_i c_i for the centred slopes c_i = g_i'v - mean_j g_j'v."""

    def __init__(
        self, loss_fn: LossFn, params: Tree, batches: Batches, at_a_time: int | None = None
    ):
        self.params = as_parameters(params)
        self.mean = objective.gradient(loss_fn, self.params, batches, at_a_time)
        self._loss_fn, self._batches, self._shares = loss_fn, batches, objective.weights(batches)
        slopes = np.zeros(max(map(examples, batches)), np.float64)
        of = _pulled_back, loss_fn, self.params, batches, at_a_time, slopes
        self._groups, self.workspace = objective.grouped(*of)
        self.at_a_time = self._groups and self._groups.size

    def slopes(self, vector: Tree) -> list[np.ndarray]:
        """c_i, float64, [B] for each batch: centred before anything is squared or summed, since
        the gradients may have far more in common than apart."""
        vector = like_parameters(vector, self.params, "the vector")
        with objective.forward_mode():
            found = [
                np.asarray(
                    _slopes(self._loss_fn, self.params, batch, vector, self._groups), np.float64
                )
                for batch in self._batches
            ]
        mean = np.concatenate(found).mean()
        return [each - mean for each in found]

    def __call__(self, vector: Tree) -> Tree:
        pulled = (
            _pulled_back(self._loss_fn, self.params, batch, slopes, self._groups)
            for batch, slopes in zip(self._batches, self.slopes(vector), strict=True)
        )
        return objective.total(self._shares, pulled)


def _each(loss_fn, params, batch):
    """[B]: the loss of each example, as a batch of one."""
    one = jax.tree.map(lambda leaf: leaf[:, None], batch)
    return jax.vmap(lambda example: objective.batch_loss(loss_fn, params, example))(one)


@compiled(static_argnums=(0, 4))
def _slopes(loss_fn, params, batch, vector, groups: Groups | None):
    """[B]: g_i'v."""

    def of(some):
        return jax.jvp(lambda p: _each(loss_fn, p, some), (params,), (vector,))[1]

    if groups is None or groups.size >= examples(batch):
        return of(batch)
    one = jax.tree.map(lambda leaf: leaf[:, None], jax.tree.map(jnp.asarray, batch))
    return jax.lax.map(lambda some: of(some)[0], one, batch_size=groups.size)


@compiled(static_argnums=(0, 4))
def _pulled_back(loss_fn, params, batch, slopes, groups: Groups | None):
    """mean_i g_i slopes_i."""

    def of(some):
        batch, slopes = some
        losses, pull_back = jax.vjp(lambda p: _each(loss_fn, p, batch), params)
        return pull_back((slopes / len(losses)).astype(losses.dtype))[0]

    return mean(of, (batch, slopes), groups)


@compiled(static_argnums=0)
def _squares(loss_fn, params, mean, batch):
    """[B]: ||g_i - g||^2, a few examples at a time."""

    def of_one(example):
        one = jax.tree.map(lambda leaf: leaf[None], example)
        slope = jax.grad(objective.differentiable(loss_fn, one))(params)
        apart = jax.tree.map(jnp.subtract, slope, mean)
        return dot(apart, apart)

    return jax.lax.map(of_one, jax.tree.map(jnp.asarray, batch), batch_size=8)
