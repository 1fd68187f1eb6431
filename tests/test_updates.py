"""Several updates in one compiled call: how many they are leaves no trace."""

import dataclasses
import json

import numpy as np
import pytest
from helpers import TINY, Silent, load_config, same

from wsdjax import tree
from wsdjax.branches import BranchStore
from wsdjax.config import CNN, Branch, Constant, Photos
from wsdjax.trainer import Diverged, Stopped, Trainer, Watch, replay
from wsdjax.trainer.group import Group
from wsdjax.training.compiled import Compiled

PHOTOS = dataclasses.replace(
    load_config(),
    model=CNN(widths=(4,)),
    data=Photos(size=100, eval_size=20),  # 12 batches an epoch: calls end with it
    tree={"trunk": Branch(steps=40, schedule=Constant(warmup_steps=9))},
)
TEXT = dataclasses.replace(
    load_config(TINY.parent / "tiny_lm.py"),
    tree={"trunk": Branch(steps=40, schedule=Constant(warmup_steps=9))},
)


@pytest.fixture
def calls(monkeypatch):
    """The lengths of the calls that train, and, by ``calls.most = n``, how long they may be."""

    class Calls(list):
        most = 128

    counts, advance, reach = Calls(), Group.advance, Group.reach

    def noted(self, state, n, count):
        counts.append(count)
        return advance(self, state, n, count)

    monkeypatch.setattr(Group, "advance", noted)
    monkeypatch.setattr(Group, "reach", lambda self, n: min(counts.most, reach(self, n)))
    return counts


def trained(workdir, config, every, loops=True, compiled=None, asked_to_stop=lambda: False):
    store = BranchStore(workdir)
    store.register(tree.resolve(config))
    watch = Watch(every, 1_000, progress=Silent())
    trainer = Trainer(store, watch, asked_to_stop, loops=loops)
    trainer._compiled = compiled or trainer._compiled
    trainer.train(["trunk"])
    return store


def rows(store):
    """The training rows without their timings."""
    lines = (store.directory("trunk") / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    timed = {"seconds", "sum"}
    return [{k: v for k, v in row.items() if k not in timed} for row in found if "rate" in row]


@pytest.mark.parametrize("config", [PHOTOS, TEXT], ids=["made by the device", "read by the host"])
def test_calls_of_any_length_are_equal_to_the_bit(tmp_path, calls, config):
    compiled = Compiled(loops=True)
    calls.most = 1
    alone = trained(tmp_path / "1", config, 40, compiled=compiled)
    assert set(calls) == {1}
    for calls.most in (7, 13, 50):
        calls.clear()
        store = trained(tmp_path / f"{calls.most}", config, 40, compiled=compiled)
        assert max(calls) > 3
        assert sum(calls) == 40
        assert same(store.restore("trunk"), alone.restore("trunk"))
        assert rows(store) == rows(alone)


def test_a_stop_leaves_no_trace(tmp_path):
    compiled = Compiled(loops=True)
    whole = trained(tmp_path / "whole", PHOTOS, 50, compiled=compiled)
    asked = iter([False, False, True])
    with pytest.raises(Stopped, match=r"saved at update \d+ of 40"):
        trained(tmp_path / "stopped", PHOTOS, 50, asked_to_stop=lambda: next(asked))
    again = trained(tmp_path / "stopped", PHOTOS, 50, compiled=compiled)
    assert same(again.restore("trunk"), whole.restore("trunk"))
    assert rows(again) == rows(whole)


@pytest.mark.parametrize("config", [PHOTOS, TEXT], ids=["made by the device", "read by the host"])
def test_a_call_is_its_steps_one_by_one(tmp_path, config):
    """The same batches, rates and updates, up to the rounding of another program."""
    config = dataclasses.replace(config, tree={"trunk": Branch(steps=9, schedule=Constant(9))})
    looped = trained(tmp_path / "looped", config, 50)
    stepped = trained(tmp_path / "stepped", config, 50, loops=False)
    for ours, theirs in zip(rows(looped), rows(stepped), strict=True):
        assert ours["rate"] == theirs["rate"]
        for name in ("loss", "grad_norm", "update_norm"):
            np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-3)
    assert len(rows(looped)) == 9
    np.testing.assert_allclose(rows(looped)[0]["loss"], rows(stepped)[0]["loss"], rtol=1e-6)


def test_a_divergence_inside_of_a_call_is_told_by_its_update(tmp_path):
    wild = dataclasses.replace(PHOTOS.optimizer, peak_value=1e30, weight_decay=0.0)
    config = dataclasses.replace(PHOTOS, optimizer=wild)
    found = {}
    for loops in (True, False):
        with pytest.raises(Diverged) as told:
            trained(tmp_path / f"{loops}", config, 50, loops=loops)
        found[loops] = str(told.value), len(rows(BranchStore(tmp_path / f"{loops}")))
    assert found[True] == found[False]


def test_one_program_serves_branches_of_any_length(tmp_path):
    compiled = Compiled(loops=True)
    config = dataclasses.replace(
        PHOTOS,
        tree={
            "trunk": Branch(steps=6, schedule=Constant()),
            "long": Branch(steps=30, schedule=Constant(warmup_steps=3)),
        },
    )
    store = BranchStore(tmp_path)
    store.register(tree.resolve(config))
    trainer = Trainer(store, Watch(50, 50, progress=Silent()), loops=True)
    trainer._compiled = compiled
    trainer.train(["trunk", "long"])
    group = Group.of(store, ["long"], compiled)
    updates = compiled.updates(group.first, group.placed, group._feeding.feed)
    assert updates._cache_size() == 1


def test_a_replay_is_what_was_trained(tmp_path):
    store = trained(tmp_path, PHOTOS, 50, loops=None)
    ((step, state),) = replay(store, "trunk", [40])
    assert step == 40
    assert same(state, store.restore("trunk"))
