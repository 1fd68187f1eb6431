"""A probe and a figure that are added from outside, by one entry each in their registries."""

import json
import shutil

import jax
import numpy as np
import pytest
from helpers import call
from matplotlib.figure import Figure

from experiments.report import figures
from experiments.report.figures import Described
from experiments.report.probes import MEASURES
from experiments.report.probes.figures import along_training
from experiments.report.probes.measure import Measure


def largest(node):
    """The parameter that is largest in absolute value."""
    return {"largest": max(float(abs(leaf).max()) for leaf in jax.tree.leaves(node.params))}


TOY = Measure(
    measure=largest,
    headline=lambda result: f"largest {result['largest']:.4g}",
    figure=along_training(lambda result: result["largest"], "largest parameter"),
    caption="Largest parameter against updates.",
)


def branches(run):
    figure = Figure()
    figure.subplots().bar(range(len(run.branches)), 1)
    return figure


@pytest.fixture
def added(monkeypatch):
    """The toys, taken out again at the end."""
    monkeypatch.setitem(MEASURES, "largest", TOY)
    monkeypatch.setitem(figures.FIGURES, "branches", Described(branches, "A bar for each branch."))


@pytest.fixture
def workdir(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "w")


def probe(workdir, name, node="decay"):
    given = (f"--workdir={workdir}", f"--node={node}", f"--probe={name}", "--examples=20")
    return call("experiments.probe", *given)


def test_a_toy_probe_is_measured_told_and_drawn(added, workdir):
    code, out, err = probe(workdir, "largest")
    assert code == 0, err
    (path,) = workdir.glob("branches/decay/probes/largest-36-train20-sample0-*.json")
    from wsdjax.branches import BranchStore

    params = BranchStore(workdir).params("decay", 36)
    for seed, result in enumerate(json.loads(path.read_text())["results"]):
        expected = max(np.abs(leaf[seed]).max() for leaf in jax.tree.leaves(params))
        assert result["largest"] == pytest.approx(float(expected))
        assert result["loss"] > 0
        assert f"largest of decay@36, seed {seed}: largest {expected:.4g}" in out
    page = (workdir / "report.html").read_text()
    assert '<figure id="probe_largest">' in page
    assert "Largest parameter against updates. Lines are means over seeds" in page
    assert (workdir / "figures" / "probe_largest.png").stat().st_size > 0


def test_a_toy_figure_is_in_the_report(added, workdir):
    code, _, err = call("experiments.report", f"--workdir={workdir}")
    assert code == 0, err
    page = (workdir / "report.html").read_text()
    assert '<figure id="branches">' in page
    assert "<figcaption>A bar for each branch.</figcaption>" in page
    assert (workdir / "figures" / "branches.svg").exists()


def test_its_mistakes_are_told_as_those_built_in(added, workdir):
    code, _, err = probe(workdir, "largst")
    assert code == 2
    assert "--probe=largst: the probes are sharpness, preconditioned" in err
    assert "distances, largest" in err
    assert probe(workdir, "largest")[0] == 0
    (path,) = workdir.glob("branches/decay/probes/largest-*.json")
    content = json.loads(path.read_text())
    del content["content_sha256"], content["results"][0]["largest"]
    path.write_text(json.dumps(content))
    _, out, _ = call("experiments.report", f"--workdir={workdir}")
    assert (
        f"Not drawn: decay/{path.name}: is no result of a probe, or lacks some of it; drop it"
        in out
    )
    code, out, err = call("experiments.probe", "drop", f"--workdir={workdir}", f"decay/{path.name}")
    assert code == 0, err
    assert not path.exists()


def test_the_help_lists_it(added):
    code, out, _ = call("experiments.probe", "--help")
    assert code == 0
    assert "    largest          The parameter that is largest in absolute value\n" in out


def test_they_are_gone_again(workdir):
    code, _, err = probe(workdir, "largest")
    assert code == 2
    assert "--probe=largest: the probes are" in err
