"""Several devices compute what one does, and what they saved is read on any number."""

import functools
import shutil

import jax
import numpy as np
import pytest
from helpers import (
    ROOT,
    TINY,
    call,
    finish,
    grow,
    load_config,
    rows_of,
    run_script,
    same,
    start,
)

from wsdjax.branches import BranchStore
from wsdjax.config import CNN, Branch, ConfigError, Cooldown, Mesh, Transformer
from wsdjax.files import read_json, write_json
from wsdjax.placement import mesh, rules
from wsdjax.trainer import fork

pytestmark = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="the devices are the CPU's, simulated"
)


def test_siblings_of_one_seed_train_on_two_devices(tmp_path):
    """The parent's one replicate cannot be divided by two devices; the siblings' two can."""
    config = tmp_path / "siblings.py"
    config.write_text(
        TINY.read_text()
        .replace("tree=plans.wsd(36, 4, 12) | plans.cosine(36, 4)", "tree=TREE")
        .replace("seeds=2", "seeds=1")
        .replace("def get", SIBLINGS + "def get")
    )
    arguments = ("experiments.run", f"--config={config}", f"--workdir={tmp_path}/w")
    flags = "--xla_force_host_platform_device_count=2"
    code, _, err = finish(start(*arguments, XLA_FLAGS=flags), timeout=120)
    assert code == 0, err
    two, one = BranchStore(tmp_path / "w"), grow(tmp_path / "one", load_config(config))
    assert two.siblings("a") == ["a", "b"]
    for name in ("trunk", "a", "b"):
        assert "2 x cpu" in (two.directory(name) / "branch.json").read_text()
        assert two.is_done(name)
        losses, expected = (store.metrics(name) for store in (two, one))
        np.testing.assert_array_equal(losses.updates["rate"], expected.updates["rate"])
        for key in ("loss", "grad_norm"):
            np.testing.assert_allclose(losses.updates[key], expected.updates[key], rtol=2e-4)
        params, alone = (store.restore(name).params for store in (two, one))
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), params, alone)
    ends = [two.restore(name).params["fc1"]["kernel"] for name in ("a", "b")]
    assert not np.allclose(*ends, atol=1e-5)


SIBLINGS = """
from wsdjax.config import Branch, Constant, Cooldown

TREE = {
    "trunk": Branch(steps=6, schedule=Constant()),
    "a": Branch(parent="trunk", steps=6, schedule=Cooldown()),
    "b": Branch(parent="trunk", steps=6, schedule=Cooldown("sqrt")),
}


"""


def test_a_batch_that_cannot_be_divided_is_refused(monkeypatch):
    monkeypatch.setattr(mesh.jax, "device_count", lambda: 4)
    shardings = functools.partial(mesh.shardings, Mesh(), CNN())
    with pytest.raises(ConfigError, match="batch_size = 7: must be a multiple of 2"):
        shardings(2, 7)
    with pytest.raises(
        ValueError, match=r"a multiple of 8.*leave 2 for each batch in 4 micro-batches"
    ):
        shardings(2, 12, 4)


def test_a_mesh_that_cannot_be_is_refused_by_the_name_of_its_field():
    language, images = Transformer(), CNN()
    for asked, model, replicates, said in (
        (Mesh(data=3), images, 2, r"mesh.data = 3: must divide the 8 devices"),
        (Mesh(replica=4), language, 2, r"mesh.replica = 4: must divide the 2 replicates"),
        (Mesh(1, 2, 2), images, 2, r"2 times as many devices are there, 8; leave one axis out"),
    ):
        with pytest.raises(ConfigError, match=said):
            mesh.shape(asked, model, replicates, 8)


def test_what_is_not_asked_of_a_mesh_is_chosen():
    """A language model's parameters are divided; a CNN's seeds and then its batches are."""
    language, images = Transformer(), CNN()
    for asked, model, replicates, expected in (
        (Mesh(), language, 2, (1, 1, 8)),
        (Mesh(data=2), language, 2, (1, 2, 4)),
        (Mesh(replica=2), language, 2, (2, 1, 4)),
        (Mesh(fsdp=1), language, 1, (1, 8, 1)),
        (Mesh(), images, 5, (1, 8, 1)),
        (Mesh(), images, 12, (4, 2, 1)),
        (Mesh(fsdp=2), images, 4, (4, 1, 2)),
        (mesh.for_one(Mesh(replica=4, data=2)), language, 1, (1, 1, 8)),
    ):
        assert mesh.shape(asked, model, replicates, 8) == expected


def test_the_first_rule_that_is_found_divides_the_last_dimensions():
    """Where the devices of its axis divide the dimension evenly; replicates come first."""
    sizes = {"replica": 2, "data": 1, "fsdp": 4}
    for path, shape, expected in (
        ("params/layers/mlp/up/kernel", (2, 3, 8, 12), ("replica", None, "fsdp", None)),
        ("averages/window/ring/head/kernel", (2, 5, 8, 6), ("replica", None, "fsdp", None)),
        ("opt_state/1/nu/embed/embedding", (2, 7, 8), ("replica", None, "fsdp")),
        ("params/embed/embedding", (2, 8, 7), ("replica", None, None)),
        ("params/layers/mlp/up/bias", (2, 3, 8), ("replica", None, None)),
        ("opt_state/1/count", (2,), ("replica",)),
        ("step", (), ()),
    ):
        assert tuple(rules.spec(path, shape, sizes, "replica")) == expected


EIGHT = """
import jax
jax.config.update("jax_num_cpu_devices", 8)
"""


def test_every_mesh_trains_as_one_device_does():
    """50 updates of a language model and of the CNN, and an evaluation, on 8 devices; what is
    divided among n of them takes an n-th of each, moments and averages too."""
    run_script(EIGHT + EVERY_MESH)


EVERY_MESH = """
import dataclasses, functools, math
import numpy as np
from wsdjax import data, models, tree
from wsdjax.config import (
    CNN, AdamW, Averages, Bigram, Branch, Constant, Experiment, Mesh, Photos, Transformer)
from wsdjax.placement import mesh
from wsdjax.trainer.group import hyper_table
from wsdjax.training import state as states
from wsdjax.training.compiled import Compiled
from wsdjax.training.optim import Hyper

def experiment(model, data, **changes):
    branch = {"t": Branch(steps=50, schedule=Constant(warmup_steps=2))}
    rate = AdamW(peak_value=3e-3, clip_norm=1.0)
    return Experiment(model, data, rate, branch, batch_size=16, seeds=2, **changes)

LM = Transformer(48, 16, 2, 2, hidden=32, rotary_fraction=0.5, loss_chunk=32, remat="dots")
EXPERIMENTS = {
    "lm": experiment(LM, Bigram(48, length=8, size=4096, eval_size=20), accumulate=2,
                     averages=Averages(ema=0.9)),
    "cnn": experiment(CNN((8, 8)), Photos(noise=0.8, size=2000, eval_size=20)),
}

def trained(branch, shape):
    compiled, devices = Compiled(Mesh(*shape)), jax.devices()[: math.prod(shape)]
    sizes = branch.seeds, branch.batch_size, branch.accumulate
    placed = mesh.shardings(Mesh(*shape), branch.model, *sizes, devices)
    program = compiled.program(branch, placed)
    state = states.made(
        lambda seeds: states.create(program.model, seeds, branch.averages),
        placed, np.asarray(branch.replicate_seeds, np.uint32))
    stream = data.Stream(compiled.train_split(branch.data), 16, branch.stream_seeds)
    hypers, losses = hyper_table([branch], {"t": branch}), []
    for t in range(50):
        hyper = jax.device_put(Hyper(*(column[t] for column in hypers)), placed.replicates)
        state, metrics = program.step(state, jax.device_put(stream[t], placed.batch), hyper)
        losses.append(np.asarray(metrics["loss"]))
    evaluated = program.evaluate(state, compiled.test_batches(branch.data, placed))
    return np.array(losses), {k: np.asarray(v) for k, v in evaluated.items()}, state

def on_a_device(tree):
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))

def divided(state):
    pairs = jax.tree_util.tree_leaves_with_path(state)
    return [leaf for path, leaf in pairs if any(
        name in str(path) for name in ("kernel", "embedding"))]

for kind, of in EXPERIMENTS.items():
    branch = tree.resolve(of)["t"]
    losses, evaluated, whole = trained(branch, (1, 1, 1))
    for shape in ((2, 1, 1), (1, 4, 1), (1, 1, 4), (2, 2, 2)):
        others, values, state = trained(branch, shape)
        np.testing.assert_allclose(others, losses, rtol=1e-5)
        for name, value in evaluated.items():
            np.testing.assert_allclose(values[name], value, rtol=1e-5)
        # A sixth of what one update moves a parameter by.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-4), state, whole)
        assert on_a_device(state) <= on_a_device(whole) / shape[0] + 8
        if kind == "lm":
            parts, mine = shape[0] * shape[2], divided(state)
            assert on_a_device(mine) * parts == on_a_device(divided(whole))
            assert len(mine) == 4 * len(divided(state.params))  # two moments and an average

# Kernels that travel in bfloat16: sums of gradients are in float32 even so.
halves = dataclasses.replace(LM, compute="bfloat16")
params = models.build(halves).init(jax.random.key(0))
tokens = np.random.default_rng(0).integers(0, 48, (64, 9))
batch, gradients = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}, []
for shape in ((1, 1, 1), (1, 1, 8)):
    placed = mesh.shardings(Mesh(*shape), halves, devices=jax.devices()[: math.prod(shape)])
    model = models.build(halves, training=True, spread=placed.spread)
    there = jax.device_put(params, placed.of_one(params))
    gradients.append(jax.jit(jax.grad(model.loss))(there, batch))
for path, one in jax.tree_util.tree_leaves_with_path(gradients[0]):
    many = functools.reduce(lambda at, key: at[key.key], path, gradients[1])
    apart = np.linalg.norm(np.subtract(one, many)) / np.linalg.norm(one)
    assert apart < 0.01, (path, apart)
"""


def test_a_tree_goes_on_on_other_devices(tmp_path):
    """WSD-S of a language model on 8 devices: stopped and gone on with it is the same to the bit;
    its nodes are read and forked on 1 device, and those of 1 on 8."""
    (tmp_path / "config.py").write_text(WSD_S)
    run_script(EIGHT + ON_EIGHT, str(tmp_path), str(ROOT / "tests"))
    eight, gone_on = BranchStore(tmp_path / "whole"), BranchStore(tmp_path / "stopped")
    assert same(eight.restore("last"), gone_on.restore("last"))
    assert rows_of(eight, "last") == rows_of(gone_on, "last")
    one = grow(tmp_path / "one", load_config(tmp_path / "config.py"))
    for name in ("first", "again", "last"):
        rows, expected = (store.metrics(name).updates["loss"] for store in (eight, one))
        np.testing.assert_allclose(rows, expected, rtol=1e-4)
    # Forked here, on one device, from what eight saved; and there from what one device saved.
    fork(eight, "here", Branch(parent="first", steps=4, schedule=Cooldown("sqrt")))
    run_script(EIGHT + FORKED_ON_EIGHT, str(tmp_path / "one"))
    here, there = eight.restore("here"), BranchStore(tmp_path / "one").restore("there")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), here.params, there.params
    )


WSD_S = """
from wsdjax.config import *

def get_config():
    cooldown = {"schedule": Cooldown(end_value=1e-4), "steps": 3}
    return Experiment(
        Transformer(48, 16, 2, 2, hidden=32, rotary_fraction=0.5),
        Bigram(48, length=8, size=512, eval_size=12), AdamW(peak_value=3e-3),
        {
            "first": Branch(steps=6, schedule=Constant(warmup_steps=2)),
            "down": Branch(parent="first", **cooldown),
            "again": Branch(parent="down", steps=5, schedule=Constant()),
            "last": Branch(parent="again", **cooldown),
        },
        batch_size=8, seeds=2, eval_every=4, checkpoint_every=4)
"""

ON_EIGHT = """
import pathlib, sys
sys.path.insert(0, sys.argv[2])
from helpers import load_config
from wsdjax import tree
from wsdjax.branches import BranchStore
from wsdjax.trainer import Stopped, Trainer, Watch

root = pathlib.Path(sys.argv[1])
branches = tree.resolve(load_config(root / "config.py"))
for name, stops in (("whole", ()), ("stopped", (3, 9))):
    store = BranchStore(root / name)
    store.register(branches)
    for until in (*stops, None):
        count = iter(range(99))
        stop = (lambda: next(count) >= until) if until else (lambda: False)
        try:
            with store.lock():
                Trainer(store, Watch(4, 4), stop).train(list(branches))
        except Stopped:
            pass
    assert store.restore("last").params["head"]["kernel"].shape == (2, 16, 48)
"""

FORKED_ON_EIGHT = """
import sys
from wsdjax.branches import BranchStore
from wsdjax.config import Branch, Cooldown
from wsdjax.trainer import fork

fork(BranchStore(sys.argv[1]), "there", Branch(parent="first", steps=4, schedule=Cooldown("sqrt")))
"""


def test_probes_of_divided_parameters_are_those_of_whole_ones():
    """A product, eigenvalues, moments, losses along a line, components, convexity, on 8 devices,
    among which nothing of a direction is whole."""
    run_script(EIGHT + PROBES)


PROBES = """
import numpy as np
from wsdjax import models, probes
from wsdjax.config import Mesh, Transformer
from wsdjax.placement import mesh
from wsdjax.probes.vectors import random_like

random = np.random.default_rng(0)
tokens = random.integers(0, 48, (20, 9)).astype(np.int32)
batches = [{"inputs": tokens[a:b, :-1], "targets": tokens[a:b, 1:]} for a, b in ((0, 16), (16, 20))]
config, found = Transformer(48, 16, 2, 2, hidden=32, rotary_fraction=0.5), []
for shape in ((1, 1, 1), (1, 2, 4)):
    placed = mesh.shardings(Mesh(*shape), config, devices=jax.devices()[: np.prod(shape)])
    model = models.for_probes(config, placed.spread)
    init = lambda seed: jax.jit(lambda: model.init(jax.random.key(seed)))()
    iterates = [jax.device_put(tree, placed.of_one(tree)) for tree in map(init, range(4))]
    params, of = iterates[0], (model.loss, iterates[0], [placed.shared(b) for b in batches])
    vector = random_like(jax.random.key(5), params)
    largest = jax.tree.leaves(vector)[0]
    assert largest.sharding.is_equivalent_to(jax.tree.leaves(params)[0].sharding, largest.ndim)
    product = probes.hvp(*of[:2], vector, of[2])
    some = probes.hvp(*of[:2], vector, of[2], at_a_time=8)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), some, product)
    for each in (product, some):
        for leaf, param in zip(jax.tree.leaves(each), jax.tree.leaves(params), strict=True):
            assert leaf.sharding.is_equivalent_to(param.sharding, leaf.ndim)
    found.append({
        "product": product,
        "sharpness": probes.sharpness(*of, k=2, tol=1e-3).eigenvalues,
        "moments": probes.moments(*of, 2, 0).trace.value,
        "line": probes.interpolate(model.loss, params, iterates[1], [-0.2, 0.5, 1], of[2]),
        "components": probes.principal_components(iterates, 2).explained_variance_ratio,
        "tau": probes.weak_quasi_convexity(model.loss, iterates[:-1], iterates[-1], of[2]),
        "alignment": probes.update_alignment(model.loss, iterates, of[2]),
    })
# tau is over a difference of losses, which float32 has few digits of.
taus = [each.pop("tau") for each in found]
np.testing.assert_allclose(*taus, rtol=5e-3)
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), *found)
"""


def test_a_run_of_a_mesh_that_is_not_here_is_probed_and_forked_all_the_same(finished, tmp_path):
    """On one device, of a run on two: with a warning, and not in the name of a field that nobody
    wrote here; to train by the config itself is refused."""
    workdir = tmp_path / "w"
    shutil.copytree(finished, workdir)
    content = read_json(workdir / "config.json", "")
    content["mesh"]["fsdp"] = 2
    write_json(workdir / "config.json", content)
    probe = f"--workdir={workdir}", "--node=decay@24:36", "--probe=distances", "--examples=5"
    code, _, err = call("experiments.probe", *probe)
    assert code == 0, err
    assert "the run's mesh is not for the devices here, which are shared anew: mesh.fsdp = 2" in err
    fork = "fork", "trunk", f"--workdir={workdir}", "--name=here", "--steps=2"
    code, _, err = call("experiments.branch", *fork)
    assert code == 0, err
    for more in ((), ("--dry_run",)):
        run = f"--config={TINY}", f"--workdir={tmp_path}/new", "--config.mesh.fsdp=2", *more
        code, _, err = call("experiments.run", *run)
        assert code == 2
        assert err.strip() == "error: mesh.fsdp = 2: must divide the 1 devices that there are"
