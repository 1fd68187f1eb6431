"""What the sections of experiments.bench measure: the same values as those they measure against."""

import os

import jax
import numpy as np
import pytest

from experiments.bench import child, growth, landscape, startup
from experiments.bench.data import write_text
from experiments.report.write import write_report
from wsdjax import data, models, probes
from wsdjax.branches import BranchStore
from wsdjax.config import CNN, Text


def test_a_loop_over_points_finds_our_plane():
    place, coordinates = landscape.Place.of((4,), 6), np.array([-0.5, 0.0, 1.0])
    points = np.stack(np.meshgrid(coordinates, coordinates, indexing="ij"), -1).reshape(-1, 2)
    found = landscape.over_points(place, points).reshape(3, 3)
    expected = probes.loss_plane(*place[:4], coordinates, coordinates, place.batches)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.ptp(expected) > 0.1


def test_scikit_learn_finds_our_components(tmp_path):
    pytest.importorskip("sklearn")
    landscape._write_iterates(models.build(CNN((4,))), 12, tmp_path)
    ours, theirs = (child.components(who, str(tmp_path)) for who in ("ours", "theirs"))
    np.testing.assert_allclose(ours["shares"], theirs["shares"], rtol=1e-3)
    assert ours["seconds"] > 0


def test_a_start_is_timed_by_what_its_terminal_shows():
    """`this` prints the Zen of Python."""
    assert startup.seconds_until(r"Explicit is better", ["this"], os.environ) > 0
    with pytest.raises(RuntimeError, match="No module named nothing_such"):
        startup.seconds_until("loss", ["nothing_such"], os.environ)


def test_rows_that_were_written_are_drawn(tmp_path):
    workdir = growth.written(tmp_path / "run", 120)
    table = BranchStore(workdir).metrics("trunk")
    assert table.updates["loss"].shape == (120, 2)
    assert list(table.evaluations["step"]) == [100]
    assert "trunk" in write_report(workdir)


def test_text_that_was_written_is_a_stream(tmp_path):
    write_text(tmp_path, 50, 20_000)
    batch = data.Stream(data.load(Text(str(tmp_path), 16)).train, 4, [0])[3]
    shapes = jax.tree.map(np.shape, batch)
    assert shapes == {"inputs": (1, 4, 16), "targets": (1, 4, 16)}
    assert (batch["inputs"][..., 1:] == batch["targets"][..., :-1]).all()
    assert batch["inputs"].max() < 50
