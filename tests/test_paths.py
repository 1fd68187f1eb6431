"""Losses along lines and over planes, against closed forms."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from losses import quadratic

from wsdjax import probes
from wsdjax.errors import UserError
from wsdjax.files import DamagedFile
from wsdjax.probes import ProbeError
from wsdjax.probes.cells import Cells


def test_along_a_line_and_over_a_plane_a_quadratic_is_itself():
    """Beyond [0, 1] too; at the end points exactly their own loss; whatever the chunk."""
    loss_fn, start, batches, matrix = quadratic(np.linspace(1, 4, 24))
    end = jax.tree.map(lambda leaf: -2 * leaf + 0.5, start)
    alphas = np.linspace(-0.5, 1.5, 9)
    losses = probes.interpolate(loss_fn, start, end, alphas, batches, chunk=4)
    x, y = (np.asarray(ravel_pytree(tree)[0], np.float64) for tree in (start, end))
    points = (1 - alphas)[:, None] * x + alphas[:, None] * y
    expected = np.einsum("ai,ij,aj->a", points, np.asarray(matrix, np.float64), points) / 2
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert losses[alphas == 0] == probes.loss(loss_fn, start, batches)
    assert losses[alphas == 1] == probes.loss(loss_fn, end, batches)
    one = probes.interpolate(loss_fn, start, end, alphas, batches, chunk=1)
    np.testing.assert_allclose(one, losses, rtol=1e-6)

    axis_1 = end
    axis_2 = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), end)
    first, second = np.array([-1.0, 0.0, 2.0]), np.array([0.0, 0.5])
    plane = probes.loss_plane(loss_fn, start, axis_1, axis_2, first, second, batches)
    d1, d2 = (np.asarray(ravel_pytree(tree)[0], np.float64) for tree in (axis_1, axis_2))
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            point = x + a * d1 + b * d2
            exact = point @ np.asarray(matrix, np.float64) @ point / 2
            assert plane[i, j] == pytest.approx(exact, rel=1e-5)
    assert plane[1, 0] == probes.loss(loss_fn, start, batches)
    coordinates = probes.plane_coordinates(
        [jax.tree.map(lambda o, p, q: o + 2 * p - 0.5 * q, start, axis_1, axis_2), start],
        *(start, axis_1, axis_2),
    )
    np.testing.assert_allclose(coordinates, [[2, -0.5], [0, 0]], atol=1e-4)


@pytest.mark.parametrize("chunk", [1, 3])
def test_many_points_in_a_call_are_as_one(chunk, tmp_path, monkeypatch):
    """As on an accelerator, where a call has a number of chunks that is told when it is run."""
    loss_fn, start, batches, _ = quadratic(np.linspace(1, 4, 24))
    end = jax.tree.map(jnp.cos, start)
    alphas = np.linspace(-0.5, 1.5, 22)
    one = probes.interpolate(loss_fn, start, end, alphas, batches)
    monkeypatch.setattr("wsdjax.probes.paths._on_cpu", lambda params: False)
    monkeypatch.setattr("wsdjax.probes.paths.CALL", 4)
    for file in (None, tmp_path / "sweep"):
        many = probes.interpolate(loss_fn, start, end, alphas, batches, chunk, file)
        np.testing.assert_allclose(many, one, rtol=1e-6)
    assert len((tmp_path / "sweep").read_text().splitlines()) == 1 + 22


def test_a_sweep_goes_on_where_it_was_stopped(tmp_path):
    """Cell by cell: what the file has is taken from there, a line cut short is computed again,
    and a file of other points, parameters, batches, or of something else is refused."""
    loss_fn, start, batches, _ = quadratic(np.linspace(1, 4, 24))
    other = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), start)
    file, coords = tmp_path / "plane.jsonl", np.linspace(-1, 1, 5)

    def plane(origin=start, coords=coords, batches=batches):
        return probes.loss_plane(
            loss_fn, origin, start, other, coords, coords, batches, chunk=3, file=file
        )

    whole = plane()
    lines = file.read_text().splitlines()
    assert len(lines) == 1 + 25
    marked = json.dumps({"point": 0, "loss": 123.0})
    assert json.loads(lines[2])["point"] == 0
    file.write_text("\n".join([*lines[:2], marked, *lines[3:12], lines[12][:9]]))
    again = plane()
    assert again[0, 0] == 123
    np.testing.assert_allclose(again.ravel()[1:], whole.ravel()[1:], rtol=1e-6)
    assert len(file.read_text().splitlines()) == 1 + 25
    doubled = [{"matrix": 2 * batches[0]["matrix"]}]
    for changed in ({"origin": other}, {"coords": 2 * coords}, {"batches": doubled}):
        with pytest.raises(ProbeError, match=r"plane.jsonl has the losses of other points"):
            plane(**changed)
    beyond = "\n".join([lines[0], '{"point": 99, "loss": 1}', ""])
    for text, said in (
        ("nothing\n", "plane.jsonl, line 1: no JSON"),
        (
            lines[0][:20],
            "plane.jsonl has the losses of other points, parameters or batches, or none",
        ),
        (beyond, "plane.jsonl, line 2: no loss of one of the points"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=f"{said}.*delete it, or name another"):
            plane()
    file.unlink()
    masked = [{"matrix": batches[0]["matrix"], "mask": np.array([True])}]
    np.testing.assert_allclose(plane(batches=masked), whole, rtol=1e-6)


def test_a_sweep_of_another_loss_is_refused(tmp_path):
    """Also where the two agree at the end points, or at a plane's origin."""
    a, b = {"w": jnp.ones(2)}, {"w": 3 * jnp.ones(2)}
    batches, file = [jnp.ones((4, 2))], tmp_path / "sweep"

    def first(p, x):
        return jnp.mean(x @ p["w"])

    def sevenfold(p, x):
        return 7 * jnp.mean((x @ p["w"]) ** 2)

    def pulled(p, x):
        return first(p, x) + jnp.sum((p["w"] - 1) ** 2)

    def interpolate(loss_fn):
        return probes.interpolate(loss_fn, a, b, [0, 1, 0.5, 2], batches, file=file)

    def plane(loss_fn):
        axes = ({"w": jnp.array([1.0, 0])}, {"w": jnp.array([0, 1.0])})
        return probes.loss_plane(loss_fn, a, *axes, [0, 1], [0, 1], batches, file=file)

    for sweep in (interpolate, plane):
        whole = sweep(first)
        kept = file.read_text()
        np.testing.assert_array_equal(sweep(first), whole)
        for other in (sevenfold, pulled):
            with pytest.raises(ProbeError, match="sweep has the losses of another loss function"):
                sweep(other)
            assert file.read_text() == kept
        file.unlink()


@pytest.mark.parametrize(
    "line", ["[1]", '{"point": 1.5, "loss": 1}', '{"point": -1, "loss": 1}', '{"point": 0}', "\0\0"]
)
def test_a_line_that_is_no_loss_is_named(line, tmp_path):
    loss_fn, start, batches, _ = quadratic(np.linspace(1, 4, 24))
    file = tmp_path / "sweep"
    probes.interpolate(loss_fn, start, start, [0, 1], batches, file=file)
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(DamagedFile, match=r"sweep, line 4: .*delete it"):
        probes.interpolate(loss_fn, start, start, [0, 1], batches, file=file)


def test_axes_are_made_orthonormal_or_scaled_to_filters(cnn):
    _, params, _ = cnn
    other = jax.tree.map(jnp.sin, params)
    first, second = probes.orthonormal(params, other)
    flat = [np.asarray(ravel_pytree(tree)[0], np.float64) for tree in (first, second)]
    np.testing.assert_allclose(np.array(flat) @ np.array(flat).T, np.eye(2), atol=1e-6)
    with pytest.raises(ValueError, match="parallel"):
        probes.orthonormal(params, jax.tree.map(lambda leaf: 2 * leaf, params))
    scaled = probes.filter_normalised(other, params)
    kernel, reference = scaled["conv1"]["kernel"], params["conv1"]["kernel"]
    np.testing.assert_allclose(
        jnp.linalg.norm(kernel.reshape(-1, 4), axis=0),
        jnp.linalg.norm(reference.reshape(-1, 4), axis=0),
        rtol=1e-5,
    )
    assert not scaled["conv1"]["bias"].any()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_full_disk_is_told_of_with_the_file(tmp_path):
    path = tmp_path / "cells"
    cells = Cells(path, np.zeros(2), (jnp.zeros(2),))
    path.unlink()
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as error:
        cells.put(np.array([1]), np.array([0.5]))
    assert error.value.filename == str(path)
