"""experiments.probe on the snapshots of a run, and the snapshots themselves."""

import base64
import json
import re
import shutil
import time

import jax
import numpy as np
import pytest
from helpers import NO_CACHE, TINY, call, rows_of, same, start

from experiments.probe.nodes import parse_node
from experiments.report.probes import results as measured
from experiments.report.probes.measure import with_error
from experiments.report.write import write_report
from wsdjax import data, models, probes
from wsdjax.branches import BranchStore
from wsdjax.errors import UserError
from wsdjax.files import DamagedFile, write_json
from wsdjax.training.optim import second_moment
from wsdjax.training.state import replicate

COUNT = 6
"""The nodes of decay from 18 to 36: 18, 20, 24, 30, 35, 36."""


@pytest.fixture(scope="module")
def snapped(tmp_path_factory):
    """The tiny tree with snapshots after every sixth update."""
    workdir = tmp_path_factory.mktemp("snapped") / "w"
    arguments = ("--config.snapshot_every=6", f"--workdir={workdir}")
    code, _, err = call("experiments.run", f"--config={TINY}", *arguments)
    assert code == 0, err
    return workdir


def probe(workdir, node, name, *more):
    arguments = (f"--workdir={workdir}", f"--node={node}", f"--probe={name}", *more)
    return call("experiments.probe", *arguments, "--examples=60")


def file_of(directory, stem):
    """The one file whose name begins so; a hash comes behind."""
    (path,) = directory.glob(f"{stem}*.json")
    return path


def result(workdir, branch, name):
    return json.loads(file_of(workdir / "branches" / branch / "probes", name).read_text())


def test_examples_are_taken_as_few_at_a_time_as_is_asked(snapped, tmp_path):
    """Which changes what is measured by rounding alone, and stands in the result."""
    found = {}
    for at_a_time in (None, 16):
        workdir = shutil.copytree(snapped, tmp_path / f"{at_a_time}")
        flags = [f"--at_a_time={at_a_time}"] if at_a_time else []
        code, _, err = probe(workdir, "decay@36", "sharpness,moments", *flags)
        assert code == 0, err
        sharpness = result(workdir, "decay", "sharpness-36")["results"][0]
        assert sharpness["at_a_time"] == at_a_time
        moments = result(workdir, "decay", "moments-36")["results"][0]
        found[at_a_time] = sharpness["eigenvalues"], moments["trace"]["value"], sharpness["loss"]
    for some, whole in zip(found[16], found[None], strict=True):
        np.testing.assert_allclose(some, whole, rtol=2e-3)
    code, _, err = probe(snapped, "decay@36", "sharpness", "--at_a_time=0")
    assert code == 2
    assert "--at_a_time" in err


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
    branch = store.branches()["trunk"]
    model, split = models.build(branch.model), data.load(branch.data).train
    stream = data.Stream(split, branch.batch_size, branch.replicate_seeds)
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
    found = result(snapped, "trunk", "sharpness-12-train60-k2-tol0.001-sample0")
    assert found["settings"] == {
        "examples": 60,
        "split": "train",
        "sample_seed": 0,
        "k": 2,
        "tol": 0.001,
        "seed": 0,
    }
    assert found["sample"] == {"examples": 60, "of": 2_000, "split": "train", "seed": 0}
    store = BranchStore(snapped)
    branch = store.branches()["trunk"]
    model = models.build(branch.model)
    batches = data.sample(data.load(branch.data).train, 60)
    params = jax.tree.map(lambda leaf: leaf[1], store.params("trunk", 12))
    expected = probes.sharpness(model.loss, params, batches, k=2, tol=1e-3)
    np.testing.assert_allclose(found["results"][1]["eigenvalues"], expected.eigenvalues, rtol=2e-3)
    # Its loss, with the error that five disjoint samples, twelve crops of each, tell of.
    at = np.concatenate([np.asarray(batch["targets"]) for batch in batches])
    assert len(at) == 60
    fifths = [[jax.tree.map(lambda x, i=i: x[i::5], batches[0])] for i in range(5)]
    losses = [probes.loss(model.loss, params, fifth) for fifth in fifths]
    np.testing.assert_allclose(found["results"][1]["losses_of_disjoint_samples"], losses, rtol=1e-5)
    whole = probes.loss(model.loss, params, batches)
    assert found["results"][1]["loss"] == pytest.approx(whole, rel=1e-5)
    error = np.std(losses, ddof=1) / np.sqrt(5) * np.sqrt(1 - 60 / 2_000)
    assert found["results"][1]["loss_error"] == pytest.approx(error, rel=1e-3)
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
    fixed = result(snapped, "decay", "density-36")["settings"]
    assert (fixed["probes"], fixed["depth"], fixed["seed"]) == (4, 60, 0)
    fixed = result(snapped, "decay", "moments-36")["settings"]
    assert (fixed["probes"], fixed["seed"]) == (32, 0)
    store = BranchStore(snapped)
    branch = store.branches()["decay"]
    state = replicate(store.restore("decay", 36), 1)
    nu, count = second_moment(state.opt_state)
    assert count == 36
    scale = probes.adam_preconditioner(nu, 36, branch.optimizer.b2, branch.optimizer.eps)
    batches = data.sample(data.load(branch.data).train, 60)
    hessian = probes.Hessian(models.build(branch.model).loss, state.params, batches)
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
    branch = store.branches()["decay"]
    batches = data.sample(data.load(branch.data).train, 60)
    for loss, step in ((losses[0], 18), (losses[1], 36)):
        params = jax.tree.map(lambda leaf: leaf[0], store.params("decay", step))
        expected = probes.loss(models.build(branch.model).loss, params, batches)
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
    branch = store.branches()["decay"]
    loss_fn = models.build(branch.model).loss
    batches = data.sample(data.load(branch.data).train, 60)
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
    stem = "plane-18-36-4nodes-train60-points3-sample0"
    expected = result(workdir, "decay", stem)["results"]
    file_of(directory, stem).unlink()
    process = start(
        "experiments.probe",
        *(f"--workdir={workdir}", "--node=decay@18:36:6", "--probe=plane", "--points=3"),
        "--examples=60",
    )
    kept = 0
    while process.poll() is None and kept < 2:
        time.sleep(0.01)
        kept = sum(f.read_text().count("loss") for f in directory.glob(f"{stem}-*-seed0.cells"))
    process.kill()
    process.wait()
    (first,) = directory.glob(f"{stem}-*-seed0.cells")
    assert kept >= 2, "it ended before it could be killed"
    assert not list(directory.glob(f"{stem}*.json"))
    marked = first.read_text().splitlines()
    cell = json.loads(marked[1])
    marked[1] = json.dumps(cell | {"loss": 123.0})
    first.write_text("\n".join(marked) + "\n")
    code, _, err = probe(workdir, "decay@18:36:6", "plane", "--points=3")
    assert code == 0, err
    again = result(workdir, "decay", stem)["results"]
    losses = np.ravel(again[0]["losses"])
    assert losses[cell["point"]] == 123
    others = np.arange(9) != cell["point"]
    np.testing.assert_allclose(losses[others], np.ravel(expected[0]["losses"])[others], rtol=1e-5)


@pytest.mark.parametrize(
    ("node", "name", "said"),
    [
        ("decay", "sharp", "--probe=sharp: the probes are sharpness, preconditioned"),
        ("stem", "sharpness", "no branch 'stem'"),
        ("decay@37", "sharpness", "no such node; decay has been trained to 36"),
        ("decay@a", "sharpness", "write BRANCH, BRANCH@STEP or"),
        ("decay@36", "distances", "goes along nodes: give a range"),
        ("decay@24:36", "phases", "the two phases meet at the fork, 24"),
        ("decay@35:36", "plane", "k = 2 components take 3 iterates or more; there are 2"),
        ("decay@36:18", "plane", "the range goes backwards, from 36 to 18"),
        ("", "sharpness", "give --node"),
        ("../branches/trunk", "sharpness", "no branch '../branches/trunk'"),
    ],
)
def test_a_mistake_is_answered_in_a_line(snapped, node, name, said):
    code, _out, err = probe(snapped, node, name)
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert len(err) < 300


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ("trunk@25", "no such node; trunk has been trained to 24"),
        ("trunk@6:60:6", "no such node; trunk has been trained to 24"),
        ("trunk@80%", "a percentage of what? Set the experiment's length"),
        ("trunk@6:24:0", "EVERY is 0"),
        ("../branches/trunk", "no branch '../branches/trunk'"),
        ("./trunk@6", "no branch './trunk'"),
        ("trunk@6@12", "write BRANCH, BRANCH@STEP or"),
        ("trunk@" + "9" * 5_000, "--node=trunk@9999999999999999999999 ... 9999"),
        ("a" * 300, "aaaa: no branch 'aaaa"),
    ],
)
def test_a_node_that_is_not_there_is_refused(snapped, node, said):
    with pytest.raises(UserError, match=re.escape(said)) as error:
        parse_node(node, BranchStore(snapped))
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(("error", "said"), [(0.0, "0"), (None, "unknown"), (0.0123, "0.012")])
def test_a_loss_is_told_with_its_error(error, said):
    assert with_error(1.23456, error) == f"1.235 ± {said}"


def test_more_examples_than_there_are(snapped):
    code, _, err = probe(snapped, "decay", "sharpness", "--split=test")
    assert code == 2
    assert "--examples=60: the split test has 50" in err


def test_a_probe_that_was_killed_gives_what_one_that_was_not_gives(snapped, tmp_path):
    """To the bit: what is measured at a node does not go by what was measured before."""
    options = ("--node=decay@18:36:6", "--probe=sharpness,moments", "--examples=60")
    name = "sharpness-18-train60-k1-tol0.001-sample0-*.json"
    whole, killed = (shutil.copytree(snapped, tmp_path / each) for each in ("whole", "killed"))
    for workdir in (whole, killed):
        shutil.rmtree(workdir / "branches" / "trunk" / "probes", ignore_errors=True)
        shutil.rmtree(workdir / "branches" / "decay" / "probes", ignore_errors=True)
    code, _, err = call("experiments.probe", f"--workdir={whole}", *options)
    assert code == 0, err
    first = killed / "branches" / "trunk" / "probes"
    process = start("experiments.probe", f"--workdir={killed}", *options, **NO_CACHE)
    while process.poll() is None and not list(first.glob(name)):
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert len(list(killed.glob("branches/*/probes/*.json"))) < 4, "it ended before it was killed"
    code, out, err = call("experiments.probe", f"--workdir={killed}", *options)
    assert code == 0, err
    assert out.count("is there") >= 1
    found = sorted(path.relative_to(whole) for path in whole.glob("branches/*/probes/*"))
    assert len(found) == 8
    for path in found:
        assert (killed / path).read_bytes() == (whole / path).read_bytes(), path


@pytest.fixture(scope="module")
def probed(snapped, tmp_path_factory):
    """Three nodes of decay with a sharpness, each, and one of them with another sample."""
    workdir = shutil.copytree(snapped, tmp_path_factory.mktemp("probed") / "w")
    for branch in ("trunk", "decay"):
        shutil.rmtree(workdir / "branches" / branch / "probes", ignore_errors=True)
    assert probe(workdir, "decay@30:36", "sharpness")[0] == 0
    assert probe(workdir, "decay@36", "sharpness", "--sample_seed=1")[0] == 0
    return workdir


def _page(workdir):
    said = write_report(workdir)
    return said, (workdir / "report.html").read_text()


def test_every_choice_of_settings_has_a_figure_with_its_sample(probed):
    _, page = _page(probed)
    one, two = re.findall(r'<figure id="probe_sharpness(?:-2)?">.*?</figure>', page, re.S)
    for figure, seed in ((one, 0), (two, 1)):
        assert f"Loss over 60 of 2,000 training examples, sample seed {seed}; k 1" in figure
        assert re.search(r"loss of the sample \d\S* ± \S+ at decay@3", figure)
        svg = base64.b64decode(re.search(r"base64,([^\"]+)", figure)[1]).decode()
        assert f"loss over 60 of 2,000 training examples, sample seed {seed}; k 1, tol 0.001" in svg
        assert re.search(r"loss of the sample \d\S* ± \S+ at decay@3", svg)
    assert (probed / "figures" / "probe_sharpness-2.png").exists()
    assert "not_drawn" not in page


SHARPNESS = "sharpness-{}-train60-k1-tol0.001-sample0"
CONTENTS = {
    "empty": "",
    "NUL bytes": "\0" * 60,
    "null": "null",
    "a list": "[1, 2]",
    "cut": lambda text: text[:200],
    "a value changed": lambda text: text.replace('"products": ', '"products": 1'),
    "another shape": '{"probe": "sharpness", "steps": [36], "settings": {}, "results": null}',
    "lacking what is drawn": lambda text: text.replace('"eigenvalues"', '"eigenvectors"').replace(
        "content_sha256", "of_before"
    ),
    "another sample": lambda text: text.replace('"of": ', '"off": ').replace(
        "content_sha256", "of_before"
    ),
    "another probe": '{"probe": "smoothness", "steps": [36], "settings": {}, "results": [{}]}',
}


@pytest.mark.parametrize("content", CONTENTS)
def test_a_damaged_result_is_told_and_can_be_dropped(probed, tmp_path, content):
    workdir = shutil.copytree(probed, tmp_path / "w")
    path = file_of(workdir / "branches" / "decay" / "probes", SHARPNESS.format(36))
    name = path.name
    change = CONTENTS[content]
    path.write_text(change(path.read_text()) if callable(change) else change)
    said, page = _page(workdir)
    assert f"Not drawn: decay/{name}: " in said
    assert f"<li>decay/{name}: " in page
    with pytest.raises(
        DamagedFile, match=r"drop it \(python -m experiments.probe drop\) and probe"
    ):
        measured.read(path)
    assert measured.drop(BranchStore(workdir), [f"decay/{name}"]) == [path]
    assert "not_drawn" not in _page(workdir)[1]


def test_no_result_takes_the_place_of_another(tmp_path, capsys):
    """Of other nodes with the same ends, or a value that prints alike; one under a name of before
    is still known, and what a kill left of its sweep goes."""
    given = {"points": 3, "tol": 0.001}
    stem = "distances-6-24-3nodes-points3-tol0.001"
    results = [{"moved": [1.0], "travelled": [1.0]}]
    content = {"probe": "distances", "settings": {}, "results": results}
    first, there = measured.place(tmp_path, stem, [6, 12, 24], {})
    assert not there
    write_json(first, content | {"steps": [6, 12, 24]})
    cells = first.with_name(f"{first.stem}-seed0.cells")
    cells.write_text("")
    assert measured.place(tmp_path, stem, [6, 12, 24], {}) == (first, True)
    assert not cells.exists()
    others = [
        measured.place(tmp_path, stem, *of)
        for of in (
            ([6, 18, 24], {}),
            ([6, 12, 24], given),
            ([6, 12, 24], given | {"tol": 0.00100000001}),
        )
    ]
    assert len({first, *(path for path, _ in others)}) == 4
    assert not any(there for _, there in others)
    before = tmp_path / f"{stem}.json"
    write_json(before, content | {"steps": [6, 18, 24]})
    assert measured.place(tmp_path, stem, [6, 18, 24], {}) == (before, True)
    assert f"{before} is there" in capsys.readouterr().out


def test_a_damaged_result_is_not_measured_over(probed, tmp_path):
    """Whoever asks for it is told to drop it."""
    workdir = shutil.copytree(probed, tmp_path / "w")
    path = file_of(workdir / "branches" / "decay" / "probes", SHARPNESS.format(36))
    path.write_text("null")
    code, _, err = probe(workdir, "decay@35:36", "sharpness")
    assert (code, len(err.splitlines())) == (2, 1)
    assert f"{path.name}: holds null in place of an object; drop it" in err
    assert path.read_text() == "null"


def test_results_that_no_figure_can_take_are_told_apart(probed, tmp_path):
    """Of before there were samples; with values of another shape; with other seeds."""
    workdir = shutil.copytree(probed, tmp_path / "w")
    directory = workdir / "branches" / "decay" / "probes"
    files = [file_of(directory, SHARPNESS.format(step)) for step in (30, 35, 36)]
    old, odd, few = (json.loads(file.read_text()) for file in files)
    for each in (old, odd, few):
        del each["content_sha256"]
    del old["sample"], old["settings"]["sample_seed"], old["settings"]["seed"]
    (directory / "sharpness-30-train60-k1-tol0.001.json").write_text(json.dumps(old))
    for each in odd["results"]:
        each["eigenvalues"] = "many"
    files[1].write_text(json.dumps(odd))
    few["results"].pop()
    files[2].write_text(json.dumps(few))
    said, page = _page(workdir)
    assert said.count("Not drawn: ") == 3
    assert (
        "sharpness-30-train60-k1-tol0.001.json: is no result of a probe, or lacks some of it"
        in said
    )
    assert f"{files[1].name}: is no result of a probe" in said
    assert f"{files[2].name}: has 1 results" in said
    assert page.count('<figure id="probe_sharpness') == 2, "those that are whole are drawn"


def test_results_are_dropped_by_name(probed, tmp_path):
    workdir = shutil.copytree(probed, tmp_path / "w")
    _page(workdir)
    directory = workdir / "branches" / "decay" / "probes"
    names = sorted(path.name for path in directory.glob("*.json"))

    def drop(*arguments):
        return call("experiments.probe", "drop", f"--workdir={workdir}", *arguments)

    for arguments, said in (
        ((), "name the results"),
        (("decay/sharpness-99",), "no result decay/sharpness-99"),
        ((f"decay/{names[0]}", "trunk/../../branch.json"), "no result trunk/../../branch.json"),
        ((str(workdir / "branches" / "decay" / "branch.json"),), "no result"),
        ((f"decay/{names[0]}", "--k=2"), "drop takes no --k"),
    ):
        code, _, err = drop(*arguments)
        assert code == 2
        assert said in err
        assert sorted(path.name for path in directory.glob("*.json")) == names
    sample_1 = next(name for name in names if "sample1" in name)
    code, out, err = drop(f"decay/{sample_1.removesuffix('.json')}", str(directory / names[0]))
    assert code == 0, err
    assert out.count("is deleted") == 2
    left = sorted(path.name for path in directory.glob("*.json"))
    assert left == [name for name in names if name not in (sample_1, names[0])]
    assert not (workdir / "figures" / "probe_sharpness-2.png").exists()


def test_snapshots_of_a_run_that_is_stopped_are_made_again(snapped, tmp_path):
    """Those beyond the newest checkpoint go, and come again the same."""
    workdir = shutil.copytree(snapped, tmp_path / "w")
    store = BranchStore(workdir)
    store.discard_after("cosine", 35)
    assert 36 not in store.nodes("cosine")
    arguments = (f"--config={TINY}", "--config.snapshot_every=6", f"--workdir={workdir}")
    code, _, err = call("experiments.run", *arguments)
    assert code == 0, err
    assert same(store.params("cosine", 36), BranchStore(snapped).params("cosine", 36))
