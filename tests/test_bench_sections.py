"""What the sections of experiments.bench measure: the same values as those they measure against."""

import os

import numpy as np
import pytest

from experiments.bench import child, growth, landscape, startup
from experiments.report.write import write_report
from wsdjax import models, probes
from wsdjax.branches import BranchStore
from wsdjax.config import CNN


def test_a_loop_over_points_finds_our_plane():
    place, coordinates = landscape.Place.of((4,), 6), np.array([-0.5, 0.0, 1.0])
    points = np.stack(np.meshgrid(coordinates, coordinates, indexing="ij"), -1).reshape(-1, 2)
    found = landscape.over_points(place, points).reshape(3, 3)
    expected = probes.loss_plane(*place[:4], coordinates, coordinates, place.batches)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.ptp(expected) > 0.1


def test_scikit_learn_finds_our_components(tmp_path):
    pytest.importorskip("sklearn")
    landscape.write_iterates(models.build(CNN((4,))), 12, tmp_path)
    ours, theirs = (child.components(str(tmp_path), who) for who in ("ours", "theirs"))
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
