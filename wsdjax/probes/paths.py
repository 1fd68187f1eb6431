"""Losses along lines and over planes in parameter space."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from wsdjax.compiling import compiled
from wsdjax.probes import vectors
from wsdjax.probes.cells import Cells
from wsdjax.probes.fitting import devices_of, room
from wsdjax.probes.objective import (
    Batches,
    LossFn,
    batch_loss,
    check_function,
    grouped,
    loss,
    weights,
)
from wsdjax.probes.vectors import ProbeError, Tree, combine, difference, dot, norm, normalized

CALL = 64
"""Chunks of points in one compiled call, at most: of a small model many points take a GPU as long
as a call takes the host."""


def interpolate(
    loss_fn: LossFn,
    start: Tree,
    end: Tree,
    alphas: ArrayLike,
    batches: Batches,
    chunk: int | None = None,
    file: str | Path | None = None,
    at_a_time: int | None = None,
) -> np.ndarray:
    """float64 [A]: L((1 - alpha) start + alpha end) for each alpha, beyond [0, 1] too (Goodfellow
    et al.).

    At alpha 0 and 1 it is the end points' own loss, exactly.

    Args:
      alphas: [A].
      chunk: points evaluated in one `vmap`; as many copies of the parameters are in memory. None
        for one on a CPU, where it is the fastest, and elsewhere a few if they fit.
      file: keeps each loss as it is computed; called again, it goes on from there. One of another
        sweep, or of another loss at two of its points, is refused.
      at_a_time: examples in memory at a time, as for `wsdjax.probes.Hessian`.
    """
    start = vectors.as_parameters(start, "start")
    end = vectors.like_parameters(end, start, "end")
    alphas = _numbers(alphas, "alphas")
    points = np.stack([1 - alphas, alphas], -1)
    return _over_points(loss_fn, (start, end), points, batches, chunk, file, at_a_time)


def loss_plane(
    loss_fn: LossFn,
    origin: Tree,
    axis_1: Tree,
    axis_2: Tree,
    coords_1: ArrayLike,
    coords_2: ArrayLike,
    batches: Batches,
    chunk: int | None = None,
    file: str | Path | None = None,
    at_a_time: int | None = None,
) -> np.ndarray:
    """float64 [n1, n2]: L(origin + a axis_1 + b axis_2) at every a of `coords_1`, b of `coords_2`.

    The axes are taken as they are; `orthonormal` makes a pair of them that is, and
    `filter_normalised` scales one to the filters of the parameters (Li et al.). `chunk`, `file` and
    `at_a_time` are as for `interpolate`.
    """
    origin, *axes = _plane(origin, axis_1, axis_2)
    for i, axis in enumerate(axes, start=1):
        normalized(axis, f"axis_{i}")
    first, second = _numbers(coords_1, "coords_1"), _numbers(coords_2, "coords_2")
    grid = np.stack(np.meshgrid(first, second, indexing="ij"), -1).reshape(-1, 2)
    points = np.concatenate([np.ones((len(grid), 1)), grid], axis=1)
    losses = _over_points(loss_fn, (origin, *axes), points, batches, chunk, file, at_a_time)
    return losses.reshape(len(first), len(second))


def orthonormal(axis_1: Tree, axis_2: Tree) -> tuple[Tree, Tree]:
    """Unit vectors of the same plane, the first along `axis_1` (Gram-Schmidt); parallel axes span
    none."""
    first = normalized(vectors.as_parameters(axis_1, "axis_1"), "axis_1")
    second = vectors.as_parameters(axis_2, "axis_2")
    second = normalized(vectors.like_parameters(second, first, "axis_2"), "axis_2")
    for _ in range(2):
        second = combine((1.0, -float(dot(first, second))), second, first)
    if float(norm(second)) < 1e-4:
        raise ProbeError("axis_2 is parallel to axis_1: they span no plane")
    return first, normalized(second, "axis_2")


def filter_normalised(direction: Tree, params: Tree) -> Tree:
    """Each filter of the direction scaled to the norm of the parameters' (Li et al.): along all
    axes of a leaf but its last, the output; biases and gains, of one axis, to zero. Layers
    that are stacked in one leaf are taken apart first (`wsdjax.models.unstacked`)."""

    params = vectors.as_parameters(params)
    direction = vectors.as_parameters(direction, "the direction")
    direction = vectors.like_parameters(direction, params, "the direction")

    def scaled(leaf, param):
        if leaf.ndim < 2:
            return jnp.zeros_like(leaf)
        axes = tuple(range(leaf.ndim - 1))
        ours = jnp.sqrt(jnp.sum(leaf**2, axes, keepdims=True))
        theirs = jnp.sqrt(jnp.sum(param**2, axes, keepdims=True))
        return leaf * theirs / jnp.maximum(ours, jnp.finfo(leaf.dtype).tiny)

    return jax.tree.map(scaled, direction, params)


def plane_coordinates(
    iterates: Sequence[Tree], origin: Tree, axis_1: Tree, axis_2: Tree
) -> np.ndarray:
    """float64 [T, 2]: the least-squares coordinates of iterates in a plane, whose axes need
    not be orthonormal."""
    origin, *axes = _plane(origin, axis_1, axis_2)
    orthonormal(*axes)
    gram = np.array([[float(dot(a, b)) for b in axes] for a in axes])
    inner = []
    for i, iterate in enumerate(vectors.Iterates(iterates)):
        iterate = vectors.like_parameters(iterate, origin, f"iterates[{i}]")
        moved = difference(iterate, origin)
        inner.append([float(dot(moved, axis)) for axis in axes])
    return np.linalg.solve(gram, np.array(inner).T).T


def _plane(origin: Tree, axis_1: Tree, axis_2: Tree) -> tuple[Tree, Tree, Tree]:
    origin = vectors.as_parameters(origin, "origin")
    first = vectors.like_parameters(axis_1, origin, "axis_1")
    return origin, first, vectors.like_parameters(axis_2, origin, "axis_2")


def _numbers(values: ArrayLike, name: str) -> np.ndarray:
    with contextlib.suppress(TypeError, ValueError):
        found = np.asarray(values)
        if found.ndim == 1 and not np.iscomplexobj(found):
            found = found.astype(np.float64)
            if np.isfinite(found).all():
                return found
    raise ProbeError(f"{name} must be a list of finite real numbers")


def _over_points(loss_fn, spanning, points, batches, chunk, file, at_a_time):
    """The loss at sum_i points[:, i] spanning[i], in chunks of points."""
    check_function(loss_fn)
    shares = weights(batches)
    groups, workspace = grouped(batch_loss, loss_fn, spanning[0], batches, at_a_time)
    if chunk is None:
        chunk = _chunk(spanning[0], workspace or 0)
    chunk = min(vectors.whole("chunk", chunk), max(1, len(points)))
    most = 1 if _on_cpu(spanning[0]) else min(CALL, -(-len(points) // chunk))
    cells = Cells(file, points, (spanning, list(batches)))
    own = (np.count_nonzero(points, axis=1) == 1) & (points.max(axis=1, initial=0) == 1)
    cells.compare(own, lambda i: loss(loss_fn, _moved(points[i], spanning), batches, at_a_time))
    for i in cells.missing():
        # One of the vectors itself: its own loss, without the last bit of a sum.
        if own[i]:
            vector = spanning[int(points[i].argmax())]
            cells.put(np.array([i]), np.array([loss(loss_fn, vector, batches, at_a_time)]))
    # Where losses are kept as they come, a stop should cost seconds of work.
    together = 1 if file is not None and jax.process_count() == 1 else most
    while len(missing := cells.missing()):
        some, began = missing[: together * chunk], time.monotonic()
        padded = np.resize(points[some], (most * chunk, len(spanning)))
        losses, chunks = np.zeros(len(padded)), -(-len(some) // chunk)
        found = [
            _losses(loss_fn, spanning, padded, batch, chunks, chunk, groups) for batch in batches
        ]
        for share, values in zip(shares, jax.device_get(found), strict=True):
            losses += share * np.asarray(values, np.float64)
        cells.put(some, losses[: len(some)])
        if time.monotonic() - began < 0.5:
            together = min(2 * together, most)
    return cells.losses


def _on_cpu(params: Tree) -> bool:
    """Where loops inside a compiled function are slow, and one point takes all cores."""
    return next(iter(devices_of(params))).platform == "cpu"


def _chunk(params: Tree, workspace: int) -> int:
    """How many points in one `vmap`."""
    if _on_cpu(params):
        return 1
    devices = devices_of(params)
    copy = sum(leaf.nbytes for leaf in jax.tree.leaves(params)) // len(devices)
    return 4 if 4 * (copy + workspace) <= room(devices) else 1


@compiled(static_argnums=(0, 5, 6))
def _losses(loss_fn, spanning, points, batch, chunks, chunk, groups):
    """[P]: the losses at the first `chunks` x `chunk` of P points, zeros at the others."""

    def at(point):
        return batch_loss(loss_fn, _moved(point, spanning), batch, groups)

    def at_some(some):
        return jax.vmap(at)(some) if chunk > 1 else at(some[0])[None]

    if len(points) == chunk:
        return at_some(points)

    def put(i, losses):
        some = jax.lax.dynamic_slice_in_dim(points, i * chunk, chunk)
        return jax.lax.dynamic_update_slice_in_dim(losses, at_some(some), i * chunk, 0)

    like = jax.eval_shape(at_some, points[:chunk])
    return jax.lax.fori_loop(0, chunks, put, jnp.zeros(len(points), like.dtype))


def _moved(point, spanning):
    return jax.tree.map(
        lambda *leaves: sum(p.astype(x.dtype) * x for p, x in zip(point, leaves, strict=True)),
        *spanning,
    )
