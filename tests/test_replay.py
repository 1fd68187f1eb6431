"""Nodes that were not kept are made again as they were, to the bit."""

import dataclasses

import pytest
from helpers import Silent, call, grow, load_config, same

from wsdjax import tree
from wsdjax.branches import BranchStore, MissingNode
from wsdjax.config import Branch, Constant, Cooldown
from wsdjax.config.json import to_json
from wsdjax.errors import ConfigError
from wsdjax.files import write_json
from wsdjax.trainer import Trainer, Watch, replay

TREE = {
    "trunk": Branch(steps=20, schedule=Constant(2)),
    "decay": Branch(parent="trunk@12", steps=6, schedule=Cooldown()),
    "sqrt": Branch(parent="trunk@12", steps=6, schedule=Cooldown("sqrt")),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two siblings, and a trunk that keeps few checkpoints but the parameters of all updates."""
    store = BranchStore(tmp_path_factory.mktemp("replayed"))
    branches = tree.resolve(dataclasses.replace(load_config(), tree=TREE))
    store.register(branches)
    watch = Watch(100, 8, snapshot_at={"trunk": range(21), "sqrt": {14, 15}}, progress=Silent())
    with store.lock():
        Trainer(store, watch).train(list(branches))
    return store


def test_what_is_kept_is_what_was_asked_for(store):
    assert store.snapshots("trunk") == list(range(1, 21))
    assert store.snapshots("sqrt") == [14, 15]
    assert store.snapshots("decay") == []


@pytest.mark.parametrize(("branch", "steps"), [("trunk", [1, 9, 10, 20]), ("sqrt", [5, 14, 15])])
def test_a_replayed_state_is_the_one_that_was(store, branch, steps):
    found = []
    before = store.steps(branch), store.snapshots(branch)
    for step, state in replay(store, branch, steps):
        assert int(state.step) == step
        assert same(state.params, store.params(branch, step))
        found.append(step)
    assert found == steps
    assert (store.steps(branch), store.snapshots(branch)) == before


def test_a_replayed_state_has_the_moments_too(store):
    *_, (_, end) = replay(store, "decay", [12, 18])
    assert same(end.opt_state, store.restore("decay").opt_state)


def test_what_is_beyond_the_end_cannot_be_replayed(store):
    with pytest.raises(MissingNode, match="has the updates 0 to 18, not 19"):
        list(replay(store, "decay", [19]))


def test_a_node_that_was_not_kept_is_probed(tmp_path):
    """By its share of the run's length, and along a range; it is kept from then on."""
    workdir = tmp_path / "run"
    config = load_config()
    branches = {"trunk": Branch("100%", Constant(2)), "decay": Branch("50%", Cooldown(), "trunk")}
    config = dataclasses.replace(config, tree=branches, length=20, checkpoint_every=8)
    grow(workdir, config)
    write_json(workdir / "config.json", to_json(config))
    assert BranchStore(workdir).nodes("decay") == [16, 20, 24, 30]
    flags = (f"--workdir={workdir}", "--probe=distances")
    code, out, err = call("experiments.probe", *flags, "--node=decay@50%:26:8")
    assert code == 0, err
    assert "decay@10, 18, 26: not kept, and made again" in err
    assert "decay has the nodes 10, 18, 26 there" in out
    store = BranchStore(workdir)
    assert (store.snapshots("trunk"), store.snapshots("decay")) == ([10, 18], [26])
    whole = grow(tmp_path / "whole", dataclasses.replace(config, checkpoint_every=2, keep=20))
    for step in (10, 18, 26):
        assert same(store.params("decay", step), whole.params("decay", step))
    assert "not kept" not in call("experiments.probe", *flags, "--node=decay@10:26:8")[2]


def test_moments_of_a_node_that_has_no_checkpoint_are_made_again(store):
    flags = (
        f"--workdir={store.workdir}",
        "--node=trunk@3",
        "--probe=preconditioned",
        "--examples=4",
    )
    code, out, err = call("experiments.probe", *flags)
    assert code == 0, err
    assert "preconditioned of trunk@3, seed 0: " in out


def test_other_data_are_not_replayed(store, monkeypatch):
    record = store.record("trunk")
    monkeypatch.setattr(store, "record", lambda name: record | {"data_facts": {"hash": "other"}})
    with pytest.raises(ConfigError, match="these are not the data that 'trunk' was trained on"):
        list(replay(store, "trunk", [3]))
