"""The benchmark's subject: weights and examples at which the Hessian is well defined."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from experiments.probe.nodes import make_again, parse_node
from wsdjax import data, models, probes
from wsdjax.branches import BranchStore
from wsdjax.config import CNN, AdamW, Photos
from wsdjax.errors import ConfigError
from wsdjax.models import Model
from wsdjax.probes.vectors import ProbeError, random_like
from wsdjax.training import optim

_MOVED, _TRIALS, _AT_ONCE = 1e-6, 4, 64


class Subject(NamedTuple):
    """A mean loss over one batch, at some weights."""

    model: Model
    params: Any
    batch: dict[str, jax.Array]
    name: str

    def in_float64(self) -> Subject:
        """The same weights and examples; for use with x64 enabled."""

        def raised(leaf):
            return jnp.asarray(leaf, jnp.float64 if leaf.dtype == jnp.float32 else leaf.dtype)

        params, batch = jax.tree.map(raised, (self.params, self.batch))
        return self._replace(params=params, batch=batch)

    def eigenvalues(self, k: int) -> np.ndarray:
        """The k largest of the Hessian, computed in float64, to 1e-10."""
        with jax.enable_x64(True):
            raised = self.in_float64()
            found = probes.sharpness(
                raised.model.loss, raised.params, [raised.batch], k=k, tol=1e-10, max_basis=150
            )
        if not found.converged.all():
            raise ProbeError(f"no reference: residuals {found.residuals}")
        return found.eigenvalues


def trained(widths: tuple[int, ...], steps: int, examples: int) -> Subject:
    """The CNN after `steps` updates on photographs."""
    model, split = models.build(CNN(widths)), data.load(Photos(noise=0.8)).train
    stream = data.Stream(split, 64, seed=0)
    optimizer = optim.adamw(optim.hyper(AdamW(weight_decay=0.1), rate=1e-3))

    @jax.jit
    def update(params, state, batch):
        updates, state = optimizer.update(jax.grad(model.loss)(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    params = model.init(jax.random.key(0))
    state = optim.init(params)
    for t in range(steps):
        params, state = update(params, state, stream[t])
    name = f"CNN{widths} after {steps} updates on photos"
    # Crops are independent of each other: the first are as good as any.
    first = data.in_order(split, _AT_ONCE, 2 * examples + _AT_ONCE)
    return Subject(model, params, _away_from_kinks(model, params, first, examples), name)


def of_run(workdir: str, node: str, examples: int) -> Subject:
    """The first replicate at a node of a run, such as decay or decay@900."""
    store = BranchStore(workdir)
    branch, (step, *others) = parse_node(node, store)
    if others:
        raise ConfigError(f"--node={node}: curvature is measured at one node, not along a range")
    make_again(store, branch, [step])
    resolved = store.branches()[branch]
    model = models.build(resolved.model)
    params = jax.tree.map(lambda leaf: leaf[0], store.params(branch, step))
    split = data.load(resolved.data).train
    count = min(2 * examples + _AT_ONCE, split.size)
    candidates = data.sample(split, count, batch_size=_AT_ONCE)
    # Every other one first, since about half of them will do: from all over the split.
    candidates = candidates[::2] + candidates[1::2]
    batch = _away_from_kinks(model, params, candidates, examples)
    return Subject(model, params, batch, f"{resolved.model} at {branch}@{step}")


def _away_from_kinks(model: Model, params: Any, among: list[data.Batch], count: int) -> Any:
    """The first `count` examples of which no unit is at a kink.

    One ReLU or maximum that goes by rounding moves an eigenvalue by 1e-5, in one library and
    not in the next: no error of a method. Such a unit gives itself away by a gradient that jumps
    where the weights move by a millionth.
    """
    parts, found = [], 0
    for candidates in among:
        with jax.enable_x64(True):
            raised = Subject(model, params, candidates, "").in_float64()
            kept = np.flatnonzero(_is_smooth(model, raised.params, raised.batch))[: count - found]
        parts.append(jax.tree.map(lambda leaf, kept=kept: leaf[kept], candidates))
        found += len(kept)
        if found == count:
            return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    raise ProbeError(f"only {found} of the first examples are away from kinks, not {count}")


def _is_smooth(model, params, batch):
    here, largest = _slopes(model, params, batch), 0.0
    for seed in range(_TRIALS):
        # Outside of the compiled function: XLA may compute a point that is made inside of it
        # twice, rounded in two ways, and then a maximum is equal to none of its arguments.
        signs = random_like(jax.random.key(seed), params, "rademacher")
        moved = jax.tree.map(lambda p, sign: p * (1 + _MOVED * sign), params, signs)
        jumps = _slopes(model, moved, batch) - here
        largest = np.maximum(largest, jnp.linalg.norm(jumps, axis=1))
    return largest < 100 * _MOVED * jnp.linalg.norm(here, axis=1)


@partial(jax.jit, static_argnums=0)
def _slopes(model, params, batch):
    """[B, n]: the gradient of each example."""

    def of_one(example):
        one = jax.tree.map(lambda leaf: leaf[None], example)
        return ravel_pytree(jax.grad(lambda p: model.loss(p, one))(params))[0]

    return jax.lax.map(of_one, batch)
