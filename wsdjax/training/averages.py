"""Averages of the weights along training: what a constant rate reaches without a decay.

They live in the state, beside the weights they never touch, so that they are saved, resumed
and forked with it. Pure functions for one replicate; the step `vmap`s them.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from wsdjax.config import Averages

State = dict[str, Any]


def init(config: Averages, params: Any) -> State:
    """Nothing averaged yet. For a window of K iterates, a leaf [...] takes K times its memory."""
    state: State = {}
    if config.ema:
        zeros = jax.tree.map(jnp.zeros_like, params)
        state["ema"] = {"count": jnp.int32(0), "sum": zeros}
    if config.window:
        ring = jax.tree.map(
            lambda leaf: jnp.zeros((config.window, *leaf.shape), leaf.dtype), params
        )
        state["window"] = {"count": jnp.int32(0), "ring": ring}
    return state


def update(config: Averages, state: State, params: Any, step: jax.Array) -> State:
    """The averages after update number `step`, which left the weights `params`."""
    new: State = {}
    if config.ema:
        count, total = state["ema"]["count"], state["ema"]["sum"]
        # In this form weights that stand still are a fixed point, however d is rounded.
        total = jax.tree.map(lambda t, p: t + (1 - config.ema) * (p - t), total, params)
        new["ema"] = {"count": count + 1, "sum": total}
    if config.window:
        count, ring = state["window"]["count"], state["window"]["ring"]
        due = step % config.window_every == 0
        slot = count % config.window

        def put(ring, leaf):
            return ring.at[slot].set(jnp.where(due, leaf, ring[slot]))

        ring = jax.tree.map(put, ring, params)
        new["window"] = {"count": count + due, "ring": ring}
    return new


def values(config: Averages, state: State, params: Any) -> dict[str, Any]:
    """The averaged weights by name; `params` stand in for an average of nothing.

    `ema` is sum_i d^(n-i) theta_i / sum_i d^(n-i) over the n updates since it began; `window`
    the mean of the latest iterates, fewer than K until there are as many.
    """
    found: dict[str, Any] = {}
    if config.ema:
        count, total = state["ema"]["count"], state["ema"]["sum"]

        def corrected(t, p):
            # 1 - d^n, which for a d near 1 has no digits left as a difference in float32
            updates = jnp.maximum(count, 1).astype(jnp.promote_types(t.dtype, jnp.float32))
            correction = -jnp.expm1(updates * math.log(config.ema))
            return jnp.where(count > 0, t / correction.astype(t.dtype), p)

        found["ema"] = jax.tree.map(corrected, total, params)
    if config.window:
        count, ring = state["window"]["count"], state["window"]["ring"]
        filled = jnp.minimum(count, config.window)

        def mean(ring, leaf):
            return jnp.where(filled > 0, ring.sum(0) / jnp.maximum(filled, 1), leaf)

        found["window"] = jax.tree.map(mean, ring, params)
    return found
