"""Several devices compute what one does, and what they saved is read on any number."""

import functools

import jax
import numpy as np
import pytest
from helpers import ROOT, TINY, finish, grow, load_config, run_script, start

from wsdjax.branches import BranchStore
from wsdjax.config import CNN, Mesh
from wsdjax.placement import mesh, rules

pytestmark = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="the devices are the CPU's, simulated"
)


def test_four_devices_train_as_one_does(finished, tmp_path):
    """Two along the replicates, two along the batch; equal over the first updates."""
    process = start(
        "experiments.run",
        f"--config={TINY}",
        f"--workdir={tmp_path}/w",
        XLA_FLAGS="--xla_force_host_platform_device_count=4",
    )
    code, _, err = finish(process)
    assert code == 0, err
    four, one = BranchStore(tmp_path / "w"), BranchStore(finished)
    assert "4 x cpu" in (four.directory("trunk") / "branch.json").read_text()
    for name in ("loss", "grad_norm"):
        losses = [store.metrics("decay").updates[name][:6] for store in (four, one)]
        np.testing.assert_allclose(*losses, rtol=2e-5)
    assert four.restore("decay").params["conv1"]["kernel"].shape == (2, 3, 3, 3, 4)


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
    with pytest.raises(ValueError, match="batch_size = 7: must be a multiple of 2"):
        shardings(2, 7)
    with pytest.raises(
        ValueError, match=r"a multiple of 8.*leave 2 for each batch in 4 micro-batches"
    ):
        shardings(2, 12, 4)


def test_the_first_rule_that_is_found_divides_the_last_dimensions():
    toy = ((r"mlp/up/kernel$", ("data", None)), (r"kernel$", (None, "data")), (r"", ()))
    for path, ndim, expected in (
        ("params/layers/mlp/up/kernel", 4, ("replicate", None, "data", None)),
        ("averages/window/ring/head/kernel", 4, ("replicate", None, None, "data")),
        ("opt_state/1/nu/head/kernel", 3, ("replicate", None, "data")),
        ("params/head/bias", 2, ("replicate", None)),
        ("opt_state/1/count", 1, ("replicate",)),
        ("step", 0, ()),
    ):
        assert tuple(rules.spec(toy, path, ndim, "replicate")) == expected


@pytest.mark.parametrize("devices", [4, 8])
def test_a_rule_that_divides_a_kernel_is_honoured(finished, tmp_path, devices):
    """By what is created, forked, stepped, saved and restored, alone and beside a sibling; the
    numbers are those of the undivided, and the loop knows nothing of it."""
    script = f"import jax; jax.config.update('jax_num_cpu_devices', {devices})\n" + DIVIDED
    run_script(script, str(tmp_path / "w"), str(ROOT / "tests"))
    divided, whole = BranchStore(tmp_path / "w"), BranchStore(finished)
    for name in ("loss", "grad_norm"):
        rows = [store.metrics("decay").updates[name][:6] for store in (divided, whole)]
        np.testing.assert_allclose(*rows, rtol=2e-5)
    last = divided.metrics("decay").evaluations["eval_loss"][-1]
    np.testing.assert_allclose(last, whole.metrics("decay").evaluations["eval_loss"][-1], rtol=0.02)
    # What was saved by many devices is read by one, and is one array.
    assert divided.restore("twin").params["fc1"]["kernel"].shape == (2, 4, 10)


DIVIDED = """
import dataclasses, math, sys
sys.path.insert(0, sys.argv[2])
from helpers import load_config
from wsdjax import tree
from wsdjax.branches import BranchStore
from wsdjax.config import Averages, Branch, Cooldown
from wsdjax.placement import rules
from wsdjax.trainer import Trainer, Watch, loop

rules.RULES = (("fc1/kernel$", ("data", None)), ("conv2/kernel$", ("data",)), ("", ()))
seen = []
train = loop.train

def looked_at(store, group, state, *more):
    def check(state, replicates="replicate"):
        for leaf, axes in (
            (state.params["fc1"]["kernel"], ("data", None)),
            (state.opt_state[1].mu["fc1"]["kernel"], ("data", None)),
            (state.params["conv2"]["kernel"], (None, None, None, "data")),
            (state.params["fc1"]["bias"], (None,)),
            *([(state.averages["ema"]["sum"]["fc1"]["kernel"], ("data", None))]
              if "ema" in state.averages else []),
        ):
            spec = tuple(leaf.sharding.spec)
            assert spec + (None,) * (leaf.ndim - len(spec)) == (replicates, *axes), spec
            along = group.placed.replicates.mesh.shape
            parts = [along[a] for a in leaf.sharding.spec if a]
            for shard in leaf.addressable_shards:
                assert shard.data.size * math.prod(parts) == leaf.size
    check(state)
    step = group.program.step
    def stepped(*arguments):
        new, metrics = step(*arguments)
        check(new)
        return new, metrics
    seen.append(group.names)
    program = group.program._replace(step=stepped)
    train(store, dataclasses.replace(group, program=program), state, *more)

loop.train = looked_at
config = load_config()
twin = Branch(parent="trunk@20", steps=2, schedule=Cooldown(), averages=Averages(ema=0.9))
other = dataclasses.replace(twin, schedule=Cooldown("sqrt"))
config.tree |= {"twin": twin, "other": other}
store = BranchStore(sys.argv[1])
branches = tree.resolve(config)
store.register(branches)
for until in (4, 11, None):
    count = iter(range(99))
    stop = (lambda: next(count) >= until) if until else (lambda: False)
    try:
        with store.lock():
            Trainer(store, Watch(7, 5), stop).train(["trunk", "decay", "twin", "other"])
    except loop.Stopped:
        pass
assert seen == [["trunk"]] * 3 + [["decay"], ["twin", "other"]], seen
"""
