"""Nodes that were not kept are made again as they were, to the bit."""

import dataclasses

import pytest
from helpers import Silent, load_config, same

from wsdjax import tree
from wsdjax.branches import BranchStore, MissingNode
from wsdjax.config import Branch, Constant, Cooldown
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
