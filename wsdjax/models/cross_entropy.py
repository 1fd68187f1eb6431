"""The cross-entropy of a linear head whose logits exist once, and never whole.

The slope of a token's loss along its logits is softmax minus one-hot, which the forward pass has at
hand: the gradients to features and head are made there, chunk by chunk, and the backward pass
multiplies them by a number. So no logits are kept and none computed twice, as in Hsu et al., "Liger
Kernel". There is no second derivative.
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def cross_entropy(
    features_TxD: jax.Array,
    kernel_DxV: jax.Array,
    targets_T: jax.Array,
    chunk: int,
    compute: DTypeLike,
) -> tuple[jax.Array, jax.Array]:
    """(the mean over tokens of the cross-entropy of the logits ``features @ kernel``, in nats; the
    part of tokens whose largest logit, of equal ones the first, is the target's): scalars, float32
    at least.

    The logits of at most `chunk` tokens exist at a time. `compute` is the dtype of the products'
    operands and of the logits; sums over tokens are float32 at least.
    """

    def add(sums, part):
        loss, right, _ = _of_chunk(kernel, *part)
        return (sums[0] + loss.sum(), sums[1] + right.sum()), None

    kernel, zero = kernel_DxV.astype(compute), _zero(compute)
    sums, _ = _by_chunks(add, (zero, zero), (features_TxD, targets_T), chunk)
    return jax.tree.map(lambda total: total / len(targets_T), sums)


def _with_slopes(features_TxD, kernel_DxV, targets_T, chunk, compute):
    def add(sums, part):
        features, targets = part
        loss, right, softmax = _of_chunk(kernel, features, targets)
        classes = jax.lax.broadcasted_iota(targets.dtype, softmax.shape, 1)
        slope = (softmax - (classes == targets[:, None])) / len(targets_T)
        slope = slope.astype(compute)
        of_features = jnp.matmul(slope, kernel.T, preferred_element_type=zero.dtype)
        of_kernel = jnp.matmul(features.astype(compute).T, slope, preferred_element_type=zero.dtype)
        new = loss.sum(), right.sum(), of_kernel
        return jax.tree.map(jnp.add, sums, new), of_features.astype(features.dtype)

    kernel, zero = kernel_DxV.astype(compute), _zero(compute)
    zeros = zero, zero, jnp.zeros(kernel.shape, zero.dtype)
    (loss, right, of_kernel), of_features = _by_chunks(add, zeros, (features_TxD, targets_T), chunk)
    means = loss / len(targets_T), right / len(targets_T)
    return means, (of_features, of_kernel.astype(kernel_DxV.dtype))


def _backward(chunk, compute, slopes, cotangents):
    along, _ = cotangents  # the accuracy has no slope
    return *((slope * along).astype(slope.dtype) for slope in slopes), None


cross_entropy.defvjp(_with_slopes, _backward)


def _zero(compute):
    return jnp.zeros((), jnp.promote_types(compute, jnp.float32))


def _of_chunk(kernel, features, targets):
    """Of each token the loss, whether the prediction is right, and the softmax."""
    logits = features.astype(kernel.dtype) @ kernel
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    most = logits.max(-1, keepdims=True)
    of_target = jnp.take_along_axis(logits, targets[:, None], 1)
    exponentials = jnp.exp(logits - most)
    total = exponentials.sum(-1, keepdims=True)
    # The first of the largest, in the pass of the sum: XLA's argmax is a slow pass of its own.
    classes = jax.lax.broadcasted_iota(targets.dtype, logits.shape, 1)
    first = jnp.where(logits == most, classes, logits.shape[1]).min(-1)
    loss = jnp.log(total) + most - of_target
    return loss, (first == targets).astype(loss.dtype), exponentials * (1 / total)


def _by_chunks(add, sums, tokens, chunk):
    """``(sums, part) -> (sums, each)`` over parts of at most `chunk` tokens, equal but for the
    last; one that holds them all is no loop, since XLA's cost on CPUs."""
    count = len(tokens[-1])
    size = math.ceil(count / math.ceil(count / chunk))
    whole = count - count % size
    if whole == size == count:
        return add(sums, tokens)
    parts = [each[:whole].reshape(-1, size, *each.shape[1:]) for each in tokens]
    sums, found = jax.lax.scan(add, sums, parts)
    found = jax.tree.map(lambda each: each.reshape(whole, *each.shape[2:]), found)
    if whole == count:
        return sums, found
    sums, last = add(sums, [each[whole:] for each in tokens])
    return sums, jax.tree.map(lambda *each: jnp.concatenate(each), found, last)
