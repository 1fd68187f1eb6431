"""Losses whose Hessians are known, for the tests of probes."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree


def mlp_loss(params, batch):
    """A two-layer network on three classes: a Hessian of both signs."""
    hidden = jnp.tanh(batch["inputs"] @ params["in"]["kernel"] + params["in"]["bias"][None])
    logits = hidden @ params["out"]
    labels = jax.nn.one_hot(batch["targets"], 3)
    return -(jax.nn.log_softmax(logits) * labels).sum(-1).mean()


def mlp(dtype=np.float64, seed=0, batch_sizes=(7, 4, 2)):
    random = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(random.normal(size=shape), dtype)

    params = {"in": {"kernel": draw(4, 5), "bias": draw(5)}, "out": draw(5, 3)}
    batches = [
        {"inputs": draw(n, 4), "targets": jnp.asarray(random.integers(0, 3, n))}
        for n in batch_sizes
    ]
    return params, batches


def dense(loss_fn, params, batches):
    """The Hessian of the mean over all examples together, as one matrix."""
    whole = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *batches)
    flat, unravel = ravel_pytree(params)
    return np.asarray(jax.hessian(lambda x: loss_fn(unravel(x), whole))(flat)), unravel


def quadratic(spectrum, seed=0):
    """1/2 x'Ax with a given spectrum, over two leaves."""
    n = len(spectrum)
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))
    matrix = jnp.asarray(basis @ np.diag(spectrum) @ basis.T, jnp.float32)
    params = {"a": jnp.ones((2, n // 4)), "b": jnp.ones(n - 2 * (n // 4))}
    return quadratic_loss, params, [{"matrix": matrix[None]}], matrix


def quadratic_loss(params, batch):
    x = jnp.concatenate([params["a"].ravel(), params["b"]])
    return x @ jnp.matmul(batch["matrix"][0], x, precision="highest") / 2
