"""experiments.probe on the snapshots of a run, and the snapshots themselves."""

import json
import re
import shutil
import time

import jax
import numpy as np
import pytest
from conftest import TINY, finish, rows_of, same, start

from wsdjax import data, models, probes
from wsdjax.branches import BranchStore
from wsdjax.optim import second_moment
from wsdjax.state import replicate

COUNT = 6
"""The nodes of decay from 18 to 36: 18, 20, 24, 30, 35, 36."""


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
    """Of the one file whose name begins so."""
    (path,) = (workdir / "branches" / branch / "probes").glob(f"{name}-*.json")
    return json.loads(path.read_text())


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
    assert code == 0, err
    lines = [line for line in out.splitlines() if line.startswith("sharpness of trunk@")]
    assert len(lines) == 8
    assert re.match(r"sharpness of trunk@6, seed 0: \S+, \S+ ± \S+$", lines[0])
    found = result(snapped, "trunk", "sharpness-12-train60-k2")
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
    code, out, _ = probe(snapped, "decay@12:24:6", "sharpness", "--k=2")
    assert out.count("is there") == 3, "nodes are the trunk's, whichever branch they are named by"
    code, out, _ = probe(snapped, "trunk@12", "sharpness", "--k=1")
    assert "is there" not in out, "other settings are another result"
    assert len(list((snapped / "branches" / "trunk" / "probes").glob("sharpness-12-*"))) == 2


def test_the_other_probes_of_a_node(snapped):
    """Each for both seeds; Adam's sharpness is that of the moments in the checkpoint."""
    names = ("density", "moments", "noise", "preconditioned")
    code, _, err = probe(snapped, "decay", ",".join(names))
    assert code == 0, err
    assert all(len(result(snapped, "decay", f"{name}-36")["results"]) == 2 for name in names)
    store = BranchStore(snapped)
    edge = store.edges()["decay"]
    state = replicate(store.restore("decay", 36), 1)
    nu, count = second_moment(state.opt_state)
    assert count == 36
    scale = probes.adam_preconditioner(nu, 36, edge.optimizer.b2, edge.optimizer.eps)
    batches = data.in_order(data.load(edge.data).train, examples=60)
    hessian = probes.Hessian(models.build(edge.model).loss, state.params, batches)
    top = probes.eigenpairs(probes.Preconditioned(hessian, scale), state.params, tol=1e-3)
    found = result(snapped, "decay", "preconditioned-36")["results"][1]["eigenvalues"]
    np.testing.assert_allclose(found, top.eigenvalues, rtol=2e-3)


def test_the_probes_of_a_range(snapped):
    """Over a fork; end points are the nodes' own losses."""
    lengths = {"components": 1, "convexity": COUNT - 1, "alignment": COUNT - 1, "distances": COUNT}
    names = ",".join(["phases", *lengths, "interpolate", "plane"])
    code, _, err = probe(snapped, "decay@18:36", names, "--points=4")
    assert code == 0, err
    for name, length in lengths.items():
        first = result(snapped, "decay", f"{name}-18-36-{COUNT}nodes")["results"][0]
        values = next(iter(first.values()))
        assert len(values) == length
    line = result(snapped, "decay", f"interpolate-18-36-{COUNT}nodes")["results"][0]
    losses = [line["losses"][line["alphas"].index(end)] for end in (0, 1)]
    store = BranchStore(snapped)
    edge = store.edges()["decay"]
    batches = data.in_order(data.load(edge.data).train, examples=60)
    for loss, step in ((losses[0], 18), (losses[1], 36)):
        params = jax.tree.map(lambda leaf: leaf[0], store.params("decay", step))
        expected = probes.loss(models.build(edge.model).loss, params, batches)
        assert loss == pytest.approx(expected, rel=1e-6)
    plane = result(snapped, "decay", f"plane-18-36-{COUNT}nodes")["results"][0]
    assert np.shape(plane["losses"]) == (4, 4)
    np.testing.assert_allclose(plane["trajectory"][-1], [0, 0], atol=1e-6)
    rows = result(snapped, "decay", f"phases-18-36-{COUNT}nodes")["results"][0]["along"]
    assert [(row["direction"], row["step"]) for row in rows] == [
        ("v_s", 24),
        ("v_d", 24),
        ("v_s", 36),
        ("v_d", 36),
    ]
    directory = snapped / "branches" / "decay" / "probes"
    assert not list(directory.glob("*.cells"))
    page = (snapped / "report.html").read_text()
    for name in ("interpolate", "plane", "phases", "convexity", "alignment", "distances"):
        assert f'<figure id="probe_{name}">' in page


def test_each_measure_is_the_probe_itself(snapped):
    """Of the second seed, from the results that the tests above have left, by direct calls."""
    store = BranchStore(snapped)
    edge = store.edges()["decay"]
    loss_fn = models.build(edge.model).loss
    batches = data.in_order(data.load(edge.data).train, examples=60)
    iterates = [
        jax.tree.map(lambda leaf: leaf[1], store.params("decay", step))
        for step in (18, 20, 24, 30, 35, 36)
    ]

    def second(name):
        return result(snapped, "decay", name)["results"][1]

    def along(name):
        return second(f"{name}-18-36-{COUNT}nodes")

    def close(found, expected):
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-6)

    of = (loss_fn, iterates[-1], batches)
    close(second("density-36")["nodes"], probes.spectral_density(*of).nodes)
    moments = probes.moments(*of)
    close(second("moments-36")["trace"]["value"], moments.trace.value)
    close(second("moments-36")["frobenius_norm"]["value"], moments.frobenius_norm.value)
    by_name = second("moments-36")["trace_by_leaf"]
    close(by_name["fc1/bias"]["value"], moments.trace_by_leaf["fc1"]["bias"].value)
    noise = probes.gradient_noise(*of)
    close(second("noise-36")["noise_scale"], noise.noise_scale)
    close(second("noise-36")["trace"], noise.trace)

    line = along("interpolate")
    close(
        line["losses"],
        probes.interpolate(loss_fn, iterates[0], iterates[-1], line["alphas"], batches),
    )
    phases = probes.phase_directions(iterates[:3], iterates[2:])
    close(along("phases")["explained"], phases.explained)
    close(along("phases")["cosine"], phases.cosine)
    cases = [(d, p) for p in (iterates[2], iterates[-1]) for d in (phases.stable, phases.decay)]
    for row, (direction, params) in zip(along("phases")["along"], cases, strict=True):
        found = row["norm_of_product"], row["quotient"], row["signal_to_noise"]
        curvature = probes.curvature_along(loss_fn, params, direction, batches)
        ratio = probes.signal_to_noise(loss_fn, params, direction, batches)
        np.testing.assert_allclose(found, (*curvature, ratio), rtol=2e-3, atol=1e-6)
    tau = probes.weak_quasi_convexity(loss_fn, iterates[:-1], iterates[-1], batches)
    close(along("convexity")["tau"], tau)
    close(along("alignment")["cosines"], probes.update_alignment(loss_fn, iterates, batches))
    close(along("distances")["travelled"], probes.distances(iterates).travelled)
    components = probes.principal_components(iterates, k=2)
    close(along("components")["explained_variance_ratio"], components.explained_variance_ratio[:1])
    plane = along("plane")
    axes = [jax.tree.map(lambda rows, i=i: rows[i], components.directions) for i in (0, 1)]
    close(plane["trajectory"], probes.plane_coordinates(iterates, iterates[-1], *axes))
    coords = plane["coords_1"], plane["coords_2"]
    close(plane["losses"], probes.loss_plane(loss_fn, iterates[-1], *axes, *coords, batches))
    way = np.array(plane["trajectory"])
    for coordinates, along_axis in zip(coords, way.T, strict=True):
        margin = np.ptp(along_axis) / 4
        close(coordinates[0], along_axis.min() - margin)
        close(coordinates[-1], along_axis.max() + margin)


def test_a_plane_goes_on_from_the_cell_at_which_it_was_stopped(snapped, tmp_path):
    """What the file of cells has is not computed again."""
    workdir = shutil.copytree(snapped, tmp_path / "w")
    whole = probe(workdir, "decay@18:36:6", "plane", "--points=3")
    assert whole[0] == 0, whole
    directory = workdir / "branches" / "decay" / "probes"
    stem = "plane-18-36-4nodes-train60-points3"
    expected = result(workdir, "decay", stem.removesuffix("-points3"))["results"]
    (directory / f"{stem}.json").unlink()
    process = start(
        "experiments.probe",
        *(f"--workdir={workdir}", "--node=decay@18:36:6", "--probe=plane", "--points=3"),
        "--examples=60",
    )
    first = directory / f"{stem}-seed0.cells"
    while process.poll() is None and not (first.exists() and first.read_text().count("loss") >= 2):
        time.sleep(0.01)
    process.kill()
    process.wait()
    kept = first.read_text().count("loss") if first.exists() else 0
    assert kept >= 2, "it ended before it could be killed"
    assert not (directory / f"{stem}.json").exists()
    marked = first.read_text().splitlines()
    cell = json.loads(marked[1])
    marked[1] = json.dumps(cell | {"loss": 123.0})
    first.write_text("\n".join(marked) + "\n")
    code, _, err = probe(workdir, "decay@18:36:6", "plane", "--points=3")
    assert code == 0, err
    again = result(workdir, "decay", stem.removesuffix("-points3"))["results"]
    losses = np.ravel(again[0]["losses"])
    assert losses[cell["point"]] == 123
    others = np.arange(9) != cell["point"]
    np.testing.assert_allclose(losses[others], np.ravel(expected[0]["losses"])[others], rtol=1e-5)


@pytest.mark.parametrize(
    ("node", "name", "said"),
    [
        ("decay", "sharp", "--probe=sharp: the probes are sharpness, preconditioned"),
        ("stem", "sharpness", "no branch 'stem'"),
        ("decay@7", "sharpness", "no such node; decay has 6, 12, 18"),
        ("decay@a", "sharpness", "write BRANCH, BRANCH@STEP or"),
        ("decay@36", "distances", "goes along nodes: give a range"),
        ("trunk@12", "preconditioned", "a snapshot has no moments of Adam"),
        ("decay@24:36", "phases", "the two phases meet at the fork, 24"),
        ("decay@35:36", "plane", "2 nodes are too few: it takes 3"),
        ("decay@36:18", "plane", "the range goes backwards, from 36 to 18"),
        ("", "sharpness", "give --node"),
    ],
)
def test_a_mistake_is_answered_in_a_line(snapped, node, name, said):
    code, _out, err = probe(snapped, node, name)
    assert code == 2
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
