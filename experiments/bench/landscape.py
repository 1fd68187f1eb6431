"""The landscape: points on a line and in a plane against a Python loop over them, and principal
components against scikit-learn."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench import lm
from experiments.bench.measure import Work, alternately, contest, ratios
from experiments.bench.ours import ROOT, branch_of
from experiments.bench.rows import OF_ITS_MEMORY, Line, Row, at_least, at_most, on_cpu
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


def _line(_: argparse.Namespace) -> Iterator[Line]:
    place, alphas = _place(), np.linspace(0, 1, 51)
    start, end = place.origin, jax.tree.map(jnp.add, place.origin, place.first)

    def ours(count: int) -> None:
        for _ in range(count):
            probes.interpolate(place.loss, start, end, alphas, place.batches)

    points = np.stack([alphas, 0 * alphas], 1)
    return contest(ours, {"a loop over points": lambda: _looped(place, points)})


def _plane(_: argparse.Namespace) -> Iterator[Line]:
    place, coordinates = _place(), np.linspace(-1, 1, 13 if on_cpu() else 41)

    def ours(count: int) -> None:
        for _ in range(count):
            probes.loss_plane(*place[:4], coordinates, coordinates, place.batches)

    points = np.stack(np.meshgrid(coordinates, coordinates, indexing="ij"), -1).reshape(-1, 2)
    return contest(ours, {"a loop over points": lambda: _looped(place, points)})


def _place() -> Place:
    return Place.of((16, 32, 32, 32), 256) if on_cpu() else Place.of(CNN().widths, 2_000)


def _looped(place: Place, points: np.ndarray) -> Work:
    return lambda count: [over_points(place, points) for _ in range(count)]


def _components(config: Any, count: int, _: argparse.Namespace) -> Iterator[Line]:
    """Of iterates that are read from files, in processes of their own, so that each has its own
    peak of memory."""
    with tempfile.TemporaryDirectory() as directory:
        _write_iterates(models.build(config), count, Path(directory))
        if not find_spec("sklearn"):
            yield Line("scikit-learn", [], why="not installed")
            return
        found = alternately(
            {w: partial(in_process, "components", w, directory) for w in ("ours", "theirs")}
        )
    ours, theirs, against = found["ours"], found["theirs"], "scikit-learn, stacked"
    told = {"iterates": count, **found}
    seconds, memory = (
        [[each[key] for each in who] for who in (ours, theirs)] for key in ("seconds", "bytes")
    )
    yield Line(against, ratios(seconds[1], seconds[0]), also=told)
    yield Line(against, ratios(memory[0], memory[1]), OF_ITS_MEMORY, goal=at_most(0.01, 0.01))


def _write_iterates(model: models.Model, count: int, directory: Path) -> None:
    """A random walk from the initialisation."""
    leaves = [np.array(leaf) for leaf in jax.tree.leaves(model.init(jax.random.key(0)))]
    random = np.random.default_rng(0)
    for i in range(count):
        np.savez(directory / f"{i:04}.npz", *leaves)
        for leaf in leaves:
            leaf += 1e-3 * random.standard_normal(leaf.shape, np.float32)


def in_process(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "experiments.bench.child", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {done.stderr.strip()[-200:]}")
    return json.loads(done.stdout)


def _language() -> Any:
    return branch_of(lm.experiment()).model


ROWS = (
    Row(
        "landscape.line",
        "51 points on a line",
        at_least(1.0, 3.0),
        *(40, 30),
        _line,
    ),
    Row(
        "landscape.plane",
        "41 x 41 points of a plane, on a CPU 13 x 13",
        at_least(1.0, 3.0),
        *(50, 60),
        _plane,
    ),
    Row(
        "landscape.pca_cnn",
        "principal components of 100 iterates of the CNN",
        at_least(1.0, 1.0),
        *(90, 90),
        partial(_components, CNN(), 100),
    ),
    Row(
        "landscape.pca_lm",
        "principal components of 20 iterates of the language model",
        at_least(1.0, 1.0),
        *(90, 200),
        lambda given: _components(_language(), 20, given),
    ),
)
