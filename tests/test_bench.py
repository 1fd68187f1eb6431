"""experiments.bench on tiny models: what it writes, and that all contestants agree."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg
from helpers import ROOT, call, load_config

from experiments.bench import curvature, lm, measure, race
from experiments.bench.peers import CONTESTANTS, Contestant, Outcome
from experiments.bench.subject import trained
from wsdjax import probes
from wsdjax.training import cost


@pytest.fixture(scope="module")
def subject():
    return trained((4,), steps=10, examples=12)


@pytest.fixture(scope="module")
def exact(subject):
    return subject.eigenvalues(2)


ACCURATE = {
    "wsdjax": {"tol": 1e-3},
    "curvlinops": {"tol": 1e-4, "ncv": 12},
    "hessian-eigenthings": {"steps": 14},
    "PyHessian": {"tol": 1e-5},
    "matfree": {"steps": 14, "linearize": True},
}


@pytest.mark.parametrize("name", CONTESTANTS)
def test_all_contestants_find_the_same_eigenvalues(subject, exact, name):
    try:
        solve = CONTESTANTS[name].build(subject)
    except ImportError:
        pytest.skip("not installed")
    found = solve(2, **ACCURATE[name])
    np.testing.assert_allclose(found.eigenvalues, exact, rtol=2e-3 if name == "PyHessian" else 1e-5)
    assert found.products >= 5


def direction(subject):
    return jax.tree.map(np.sin, jax.device_get(subject.params))


def in_float64(subject):
    """The loss, and a product of the Hessian with the direction."""
    with jax.enable_x64(True):
        raised = subject.in_float64()
        arguments = (raised.model.loss, raised.params, direction(raised), [raised.batch])
        return raised.model.loss(raised.params, raised.batch), probes.hvp(*arguments)


def flat(leaves):
    return np.concatenate([np.asarray(leaf).ravel() for leaf in leaves])


def assert_close(found, expected, tol):
    assert np.linalg.norm(np.subtract(found, expected)) <= tol * np.linalg.norm(expected)


def test_the_loss_and_a_product_in_float32_are_those_in_float64(subject):
    loss, product = in_float64(subject)
    found = probes.hvp(subject.model.loss, subject.params, direction(subject), [subject.batch])
    assert_close(subject.model.loss(subject.params, subject.batch), loss, 1e-6)
    assert_close(flat(jax.tree.leaves(found)), flat(jax.tree.leaves(product)), 1e-5)


def loss_and_product_in_torch(subject):
    """The loss, and v -> H v on flat vectors, differentiating twice backwards."""
    import torch

    from experiments.bench.in_torch import batch_of, cnn

    network, (inputs, targets) = cnn(subject.params), batch_of(subject.batch)
    parameters = list(network.parameters())
    loss = torch.nn.functional.cross_entropy(network(inputs), targets)
    slopes = torch.autograd.grad(loss, parameters, create_graph=True)
    slope = torch.cat([each.reshape(-1) for each in slopes])

    def product(vector):
        along = torch.tensor(vector.ravel())
        return flat(torch.autograd.grad(slope, parameters, grad_outputs=along, retain_graph=True))

    return loss.item(), product


def test_torch_has_the_same_hessian(subject, exact):
    """Its loss and product in float32 are ours in float64, and from its products in float64
    ARPACK finds our eigenvalues."""
    pytest.importorskip("torch")
    from experiments.bench.in_torch import as_torch

    loss, expected = in_float64(subject)
    found, product = loss_and_product_in_torch(subject)
    assert_close(found, loss, 1e-6)
    along = flat(as_torch(direction(subject)))
    assert_close(product(along), flat(as_torch(expected)), 1e-5)
    with jax.enable_x64(True):
        _, product = loss_and_product_in_torch(subject.in_float64())
    operator = scipy.sparse.linalg.LinearOperator((along.size,) * 2, product, dtype=np.float64)
    values = scipy.sparse.linalg.eigsh(
        operator, len(exact), which="LA", tol=1e-12, ncv=24, return_eigenvectors=False
    )
    assert_close(np.sort(values)[::-1], exact, 1e-8)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_a_peer_is_compared_at_its_own_best_error(monkeypatch):
    """By the fastest that is as good, errors below float32's counting as equal."""
    clock = Clock()
    monkeypatch.setattr(measure, "time", types.SimpleNamespace(perf_counter=clock))
    known = {  # setting -> (error, products, seconds)
        "ours": {1: (1e-3, 5, 1.0), 2: (2e-7, 8, 2.0), 3: (1e-8, 12, 9.0), 4: (1e-2, 6, 1.0)},
        "peer": {1: (1e-2, 5, 3.0), 2: (1e-7, 9, 6.0)},
        "rough": {1: (5e-4, 9, 1.0)},
        "hopeless": {1: (np.nan, 9, 1.0)},
    }

    def contestant(name):
        def solve(k, at):
            error, products, seconds = known[name][at]
            clock.now += seconds
            return Outcome(np.full(k, 4 * (1 + error)), products)

        return Contestant(lambda _: solve, lambda k: [{"at": at} for at in known[name]])

    contestants = {name: contestant(name) for name in known}
    solvers = {name: each.build(None) for name, each in contestants.items()}
    points = race.race(contestants, solvers, np.full(2, 4.0), repeats=2)
    assert [(p.name, p.setting["at"]) for p in points] == [
        *(("ours", 1), ("ours", 2)),  # 3 is no better than 2, and 4 no cheaper than 1
        *(("peer", 1), ("peer", 2)),
        ("rough", 1),
    ]
    assert [p.seconds for p in points][1] == [2.0, 2.0]
    peer, rough = race.comparisons(points, "ours")
    settings = [peer.also[whose]["setting"] for whose in ("peer", "ours")]
    assert (settings, peer.values) == ([{"at": 2}, {"at": 2}], [3.0, 3.0])
    assert (rough.also["ours"]["setting"], rough.values) == ({"at": 2}, [0.5, 0.5])
    (alone,) = race.comparisons(points[:2], "ours")
    assert (alone.values, alone.unit) == ([2.0, 2.0], "seconds")
    (missed,) = race.comparisons(points[:1] + points[2:4], "ours")
    assert missed.why == "error 1.0e-07 not reached"


def test_the_command_writes_what_it_measured(subject, monkeypatch, tmp_path):
    monkeypatch.setattr(curvature, "_trained", lambda examples: subject)
    out = tmp_path / "bench.json"
    given = ("--k=2", "--repeats=2", "--minutes=60", "--peers=hessian-eigenthings", f"--out={out}")
    only = "--only=curvature.top2"
    code, printed, err = call("experiments.bench", "curvature", *given, only)
    assert code == 0, err
    assert "curvature.top2" in printed
    assert str(out) in printed
    result = json.loads(out.read_text())
    keys = {"machine", "versions", "date", "load", "threads", "seconds", "minutes"}
    assert keys <= set(result)
    assert result["versions"]["jax"] == jax.__version__
    assert list(result["seconds"]) == ["curvature.top2"]
    line = result["rows"][-1]
    assert line["ours"]["error"] < 1e-2
    assert len(line["turns"]) == 2
    assert line["median"] == pytest.approx(np.mean(line["turns"]))
    if len(result["rows"]) > 1:
        assert "not installed" in result["rows"][0]["why"]
        assert (line["against"], line["unit"], line["met"]) == ("alone", "seconds", "-")
        return
    assert line["against"] == "hessian-eigenthings"
    assert line["goal"] == ">= 2"
    low, high = line["quartiles"]
    assert line["met"] == ("yes" if low >= 2 else "not told" if high >= 2 else "no")
    assert line["ours"]["error"] <= max(line["peer"]["error"], race.FLOOR)


def test_training_is_timed_in_tokens_and_operations(tmp_path):
    """Of both replicates: batches of 4 windows of 16 tokens, and the FLOPs of their shapes; into a
    file that was there already."""
    (tmp_path / "bench.json").write_text("{}")
    out, config = tmp_path / "bench.json", ROOT / "tests" / "configs" / "tiny_lm.py"
    given = (f"--config={config}", "--config.batch_size=4", "--updates=3", f"--out={out}")
    code, printed, err = call("experiments.bench", "training", *given)
    assert code == 0, err
    code, _, err = call("experiments.bench", "training", *given[:-1], f"--out={tmp_path}")
    assert code == 2
    assert "a directory" in err
    assert "tokens a second" in printed
    assert "peak unknown" in printed  # a CPU's is in no table
    result = json.loads(out.read_text())
    median = np.median(result["seconds"])
    assert len(result["seconds"]) == 3
    assert result["tokens_per_second"] == pytest.approx(2 * 4 * 16 / median)
    experiment = load_config(config)
    flops = cost.of_update(experiment.model, cost.batch_shapes(experiment.data, 4)).flops
    assert result["flops_per_second_and_device"] == pytest.approx(2 * flops / median)
    assert result["share_of_peak"] is None
    assert {"machine", "versions", "date"} <= set(result)


@pytest.mark.parametrize(
    ("kind", "dtype", "share"),
    [
        ("NVIDIA H100 80GB HBM3", jnp.bfloat16, 0.5),
        ("NVIDIA H100 80GB HBM3", jnp.float32, None),
        ("TPU v5 lite", jnp.bfloat16, 494.5 / 197),
        ("TPU v5", jnp.bfloat16, 494.5 / 459),
        ("cpu", jnp.bfloat16, None),
    ],
)
def test_the_share_of_the_peak_is_of_the_makers_number(kind, dtype, share, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [types.SimpleNamespace(device_kind=kind)])
    found = lm.of_peak(494.5e12, dtype)
    assert found == (share if share is None else pytest.approx(share))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name the benchmark first: all or train or "),
        (("speed",), "name the benchmark first"),
        (("training",), "give a config file"),
        (("curvature", "--k=0"), "--k: 0 must be 1 or more"),
        (("curvature", "--peers=nobody"), "the peers are curvlinops, "),
        (("curvature", "--node=decay"), "--workdir and --node together"),
    ],
)
def test_a_mistake_has_a_clear_error(arguments, said):
    code, _, err = call("experiments.bench", *arguments)
    assert code == 2
    assert said in err
