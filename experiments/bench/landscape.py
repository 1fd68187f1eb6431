"""The landscape: points on a line and in a plane against a Python loop over them, and principal
components against scikit-learn."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench import child, lm
from experiments.bench.measure import alternately, contest, ratios, repeating
from experiments.bench.ours import branch_of, widths
from experiments.bench.rows import OF_ITS_MEMORY, Line, here, row
from wsdjax import models, probes
from wsdjax.config import CNN
from wsdjax.probes.vectors import random_like


class Place(NamedTuple):
    """A loss and three points of parameters."""

    loss: Any
    origin: Any
    first: Any
    second: Any
    batches: list[Any]

    @classmethod
    def of(cls, widths: tuple[int, ...], examples: int) -> Place:
        model = models.build(CNN(widths))
        params = model.init(jax.random.key(0))
        first, second = (random_like(jax.random.key(i), params) for i in (1, 2))
        inputs = jax.random.normal(jax.random.key(3), (examples, 32, 32, 3))
        targets = jax.random.randint(jax.random.key(4), (examples,), 0, 10)
        batches = [{"inputs": inputs, "targets": targets}]
        return cls(model.loss, params, first, second, batches)


def over_points(place: Place, points: np.ndarray) -> np.ndarray:
    """[A]: what anybody would write: a jitted loss, called at each of the points (a, b)."""

    @jax.jit
    def at(point, origin, axis_1, axis_2, batch):
        moved = jax.tree.map(
            lambda x, u, v: x + point[0] * u + point[1] * v, origin, axis_1, axis_2
        )
        with jax.default_matmul_precision("highest"):
            return place.loss(moved, batch)

    given = place.origin, place.first, place.second, place.batches[0]
    return np.array([float(at(point, *given)) for point in points.astype(np.float32)])


def _over_a_loop(place: Place, points: np.ndarray, ours: Callable[[], Any]) -> Iterator[Line]:
    looped = repeating(lambda: over_points(place, points))
    return contest(repeating(ours), {"a loop over points": lambda: looped})


@row("landscape.line", (1.0, 3.0), (40, 30))
def line(_: argparse.Namespace) -> Iterator[Line]:
    """51 points on a line."""
    place, alphas = Place.of(widths(), here((256, 2_000))), np.linspace(0, 1, 51)
    ends = place.origin, jax.tree.map(jnp.add, place.origin, place.first)
    ours = partial(probes.interpolate, place.loss, *ends, alphas, place.batches)
    return _over_a_loop(place, np.stack([alphas, 0 * alphas], 1), ours)


@row("landscape.plane", (1.0, 3.0), (50, 60))
def plane(_: argparse.Namespace) -> Iterator[Line]:
    """41 x 41 points of a plane, on a CPU 13 x 13."""
    place = Place.of(widths(), here((256, 2_000)))
    coordinates = np.linspace(-1, 1, here((13, 41)))
    points = np.stack(np.meshgrid(coordinates, coordinates, indexing="ij"), -1).reshape(-1, 2)
    ours = partial(probes.loss_plane, *place[:4], coordinates, coordinates, place.batches)
    return _over_a_loop(place, points, ours)


@row("landscape.pca_cnn", (1.0, 1.0), (90, 90))
def pca_cnn(_: argparse.Namespace) -> Iterator[Line]:
    """Principal components of 100 iterates of the CNN."""
    return _components(CNN(), 100)


@row("landscape.pca_lm", (1.0, 1.0), (90, 200))
def pca_lm(_: argparse.Namespace) -> Iterator[Line]:
    """Principal components of 20 iterates of the language model."""
    return _components(branch_of(lm.experiment()).model, 20)


def _components(config: Any, count: int) -> Iterator[Line]:
    """Of iterates that are read from files, in processes of their own, so that each has its own
    peak of memory."""
    if not find_spec("sklearn"):
        yield Line("scikit-learn", [], why="not installed")
        return
    with tempfile.TemporaryDirectory() as directory:
        write_iterates(models.build(config), count, Path(directory))
        measured = partial(child.in_process, child.components, directory)
        found = alternately({who: partial(measured, who) for who in ("ours", "theirs")})
    told, against = {"iterates": count, **found}, "scikit-learn, stacked"
    seconds, memory = (
        [[each[key] for each in who] for who in found.values()] for key in ("seconds", "bytes")
    )
    yield Line(against, ratios(seconds[1], seconds[0]), also=told)
    yield Line(against, ratios(memory[0], memory[1]), OF_ITS_MEMORY, goal=(0.01, 0.01))


def write_iterates(model: models.Model, count: int, directory: Path) -> None:
    """A random walk from the initialisation."""
    leaves = [np.array(leaf) for leaf in jax.tree.leaves(model.init(jax.random.key(0)))]
    random = np.random.default_rng(0)
    for i in range(count):
        np.savez(directory / f"{i:04}.npz", *leaves)
        for leaf in leaves:
            leaf += 1e-3 * random.standard_normal(leaf.shape, np.float32)
