"""experiments.probe on the snapshots of a run, and the snapshots themselves."""

import json
import shutil

import jax
import numpy as np
import pytest
from conftest import TINY, finish, rows_of, same, start

from wsdjax import data, models, probes
from wsdjax.branches import BranchStore


@pytest.fixture(scope="module")
def snapped(tmp_path_factory):
    """The tiny tree with snapshots after every sixth update."""
    workdir = tmp_path_factory.mktemp("snapped") / "w"
    arguments = ("--config.snapshot_every=6", f"--workdir={workdir}")
    code, _, err = finish(start("experiments.run", f"--config={TINY}", *arguments))
    assert code == 0, err
    return workdir


def probe(workdir, node, name, *more):
    arguments = (f"--workdir={workdir}", f"--node={node}", f"--probe={name}", *more)
    return finish(start("experiments.probe", *arguments, "--examples=60"))


def result(workdir, branch, name):
    return json.loads((workdir / "branches" / branch / "probes" / f"{name}.json").read_text())


def test_snapshots_are_the_parameters_and_change_nothing_else(snapped, finished):
    """Beside the checkpoints, for the whole lineage; the run is that without them."""
    store, plain = BranchStore(snapped), BranchStore(finished)
    assert store.nodes("trunk") == [6, 12, 18, 20, 24]
    assert store.nodes("decay") == [6, 12, 18, 20, 24, 30, 35, 36]
    assert plain.nodes("decay") == [20, 24, 35, 36]
    for name in ("trunk", "decay", "cosine"):
        assert rows_of(store, name) == rows_of(plain, name)
        assert same(store.restore(name), plain.restore(name))
    assert same(store.params("decay", 36), store.restore("decay").params)
    assert same(store.params("decay", 20), store.restore("trunk", 20).params)
    edge = store.edges()["trunk"]
    model, split = models.build(edge.model), data.load(edge.data).train
    stream = data.Stream(split, edge.batch_size, edge.replicate_seeds)
    losses = jax.vmap(model.loss)(store.params("decay", 12), stream[12])
    row = store.metrics("decay").updates["loss"][12]
    np.testing.assert_allclose(losses, row, rtol=1e-5)


def test_sharpness_along_a_trunk(snapped):
    """Of each seed at every snapshot; it is that of the probe itself, and not computed twice."""
    code, out, err = probe(snapped, "trunk@6:24:6", "sharpness", "--k=2")
    assert (code, err) == (0, "")
    assert out.count("eigenvalues") == 4
    found = result(snapped, "trunk", "sharpness-12")
    assert found["settings"]["examples"] == 60
    store = BranchStore(snapped)
    edge = store.edges()["trunk"]
    model = models.build(edge.model)
    batches = data.in_order(data.load(edge.data).train, examples=60)
    params = jax.tree.map(lambda leaf: leaf[1], store.params("trunk", 12))
    expected = probes.sharpness(model.loss, params, batches, k=2, tol=1e-3)
    np.testing.assert_allclose(found["results"][1]["eigenvalues"], expected.eigenvalues, rtol=2e-3)
    code, out, _ = probe(snapped, "trunk@6:24:6", "sharpness", "--k=2")
    assert out.count("is there") == 4
    code, out, _ = probe(snapped, "trunk@12", "sharpness", "--k=1")
    assert "is there" not in out
    assert len(result(snapped, "trunk", "sharpness-12")["results"][0]["eigenvalues"]) == 1


def test_the_other_probes_of_a_node(snapped):
    names = ("density", "moments", "noise")
    code, _, err = probe(snapped, "decay", ",".join(names))
    assert (code, err) == (0, "")
    assert all(len(result(snapped, "decay", f"{name}-36")["results"]) == 2 for name in names)


def test_the_probes_of_a_range(snapped):
    """Over a fork; end points are the nodes' own losses."""
    lengths = {"components": 1, "convexity": 3, "alignment": 3, "distances": 4}
    names = ",".join([*lengths, "interpolate"])
    code, _, err = probe(snapped, "decay@18:36:6", names, "--alphas=5")
    assert (code, err) == (0, "")
    for name, length in lengths.items():
        values = next(iter(result(snapped, "decay", f"{name}-18-36-4")["results"][0].values()))
        assert len(values) == length
    losses = result(snapped, "decay", "interpolate-18-36-4")["results"][0]["losses"]
    store = BranchStore(snapped)
    edge = store.edges()["decay"]
    batches = data.in_order(data.load(edge.data).train, examples=60)
    for loss, step in ((losses[0], 18), (losses[-1], 36)):
        params = jax.tree.map(lambda leaf: leaf[0], store.params("decay", step))
        expected = probes.loss(models.build(edge.model).loss, params, batches)
        assert loss == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("node", "name", "said"),
    [
        ("decay", "sharp", "--probe=sharp: the probes are sharpness, density"),
        ("stem", "sharpness", "no branch 'stem'"),
        ("decay@7", "sharpness", "no such node; decay has 6, 12, 18"),
        ("decay@a", "sharpness", "write BRANCH, BRANCH@STEP or"),
        ("decay@36", "distances", "goes along nodes: give a range"),
        ("", "sharpness", "give --node"),
    ],
)
def test_a_mistake_is_answered_in_a_line(snapped, node, name, said):
    code, out, err = probe(snapped, node, name)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_snapshots_of_a_run_that_is_stopped_are_made_again(snapped, tmp_path):
    """Those beyond the newest checkpoint go, and come again the same."""
    workdir = shutil.copytree(snapped, tmp_path / "w")
    store = BranchStore(workdir)
    store.discard_after("cosine", 35)
    assert 36 not in store.nodes("cosine")
    arguments = (f"--config={TINY}", "--config.snapshot_every=6", f"--workdir={workdir}")
    code, _, err = finish(start("experiments.run", *arguments))
    assert code == 0, err
    assert same(store.params("cosine", 36), BranchStore(snapped).params("cosine", 36))
