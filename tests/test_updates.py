"""Several updates in one compiled call: how many they are leaves no trace."""

import dataclasses
import json
from functools import partialmethod

import numpy as np
import pytest
from helpers import TINY, Silent, load_config, same

from wsdjax import tree
from wsdjax.branches import BranchStore
from wsdjax.config import CNN, Branch, Constant, Photos
from wsdjax.trainer import Diverged, Stopped, Trainer, Watch, group, loop, replay
from wsdjax.trainer.group import Group, hyper_table
from wsdjax.training.compiled import Compiled

PHOTOS = dataclasses.replace(
    load_config(),
    model=CNN(widths=(4,)),
    data=Photos(size=160, eval_size=20),  # 20 batches an epoch: calls end with it
    tree={"trunk": Branch(steps=70, schedule=Constant(warmup_steps=9))},
)
TEXT = dataclasses.replace(
    load_config(TINY.parent / "tiny_lm.py"),
    tree={"trunk": Branch(steps=70, schedule=Constant(warmup_steps=9))},
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

    monkeypatch.setattr(loop, "_CALL", 1e9)  # or a busy machine would make them shorter
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


def rows(store, name="trunk"):
    """The training rows without their timings."""
    lines = (store.directory(name) / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    timed = {"seconds", "sum"}
    return [{k: v for k, v in row.items() if k not in timed} for row in found if "rate" in row]


@pytest.mark.parametrize(
    ("config", "longest"),
    [(PHOTOS, 20), (TEXT, 16)],
    ids=["made by the device", "read by the host"],
)
def test_calls_of_any_length_are_equal_to_the_bit(tmp_path, calls, config, longest):
    """As long as an epoch, or what the host reads for a call, allows."""
    compiled = Compiled(loops=True)
    calls.most = 1
    alone = trained(tmp_path / "1", config, 70, compiled=compiled)
    assert set(calls) == {1}
    for calls.most in (7, 13, 50):
        calls.clear()
        store = trained(tmp_path / f"{calls.most}", config, 70, compiled=compiled)
        assert max(calls) == min(calls.most, longest)
        assert sum(calls) == 70
        assert same(store.restore("trunk"), alone.restore("trunk"))
        assert rows(store) == rows(alone)


def test_a_stop_leaves_no_trace(tmp_path):
    compiled = Compiled(loops=True)
    whole = trained(tmp_path / "whole", PHOTOS, 50, compiled=compiled)
    asked = iter([False, False, True])
    with pytest.raises(Stopped, match=r"saved at update \d+ of 70"):
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


def test_a_branch_with_data_of_its_own_begins_their_epochs_at_its_fork(tmp_path):
    """In the middle of the trunk's: what a call makes of an epoch is what single steps see."""
    own = Branch(
        parent="trunk@17", steps=30, schedule=Constant(), data=Photos(size=80), data_seed=5
    )
    config = dataclasses.replace(PHOTOS, tree={**PHOTOS.tree, "own": own})
    found = []
    for loops in (True, False):
        store = BranchStore(tmp_path / f"{loops}")
        store.register(tree.resolve(config))
        Trainer(store, Watch(100, 17, progress=Silent()), loops=loops).train(["own"])
        found.append([row["loss"] for row in rows(store, "own")])
    np.testing.assert_allclose(*found, rtol=2e-3)


def test_a_divergence_inside_of_a_call_is_told_by_its_update(tmp_path, calls, monkeypatch):
    def diverging(*arguments):
        table = hyper_table(*arguments)
        table.rate[8] = 1e38
        return table

    monkeypatch.setattr(group, "hyper_table", diverging)
    with pytest.raises(Diverged, match=r"not finite at update 9: trunk seed 0, trunk seed 1\."):
        trained(tmp_path, PHOTOS, 50)
    assert calls[:4] == [1, 1, 1, 17]
    assert len(rows(BranchStore(tmp_path))) == 9


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


def test_a_replay_in_calls_is_what_was_trained(tmp_path, monkeypatch):
    store = trained(tmp_path / "looped", PHOTOS, 50)
    monkeypatch.setattr(Compiled, "__init__", partialmethod(Compiled.__init__, loops=True))
    found = dict(replay(store, "trunk", [33, 70]))
    assert list(found) == [33, 70]
    assert same(found[70], store.restore("trunk"))
    shorter = dataclasses.replace(PHOTOS, tree={"trunk": Branch(33, Constant(warmup_steps=9))})
    assert same(found[33], trained(tmp_path / "shorter", shorter, 50).restore("trunk"))
