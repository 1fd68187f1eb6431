"""A run that is killed and started again ends as one that was never stopped, to the bit."""

import dataclasses
import errno
import json
import os
import random
import shutil
import signal
import time

import jax
import pytest
from helpers import (
    NO_CACHE,
    TINY,
    Silent,
    Stop,
    finish,
    flip_a_byte,
    grow,
    kill,
    load_config,
    rows_of,
    run_script,
    same,
    start,
    with_tree,
)

from wsdjax import trainer as train
from wsdjax import tree
from wsdjax.branches import BranchStore, MissingNode
from wsdjax.branches.checkpoints import Checkpoints
from wsdjax.branches.metrics import read
from wsdjax.config import Branch, Constant, Cooldown, Overrides
from wsdjax.errors import UserError
from wsdjax.files import read_json, write_json
from wsdjax.trainer import Stopped, Trainer, Watch

BRANCHES = ("trunk", "decay", "cosine")


def assert_same_run(workdir, reference):
    store, expected = BranchStore(workdir), BranchStore(reference)
    for name in BRANCHES:
        assert rows_of(store, name) == rows_of(expected, name)
        assert same(store.restore(name), expected.restore(name))


def test_ten_kills_leave_no_trace(finished, tmp_path):
    """SIGKILL ten times on the way: at start-up, after random updates of every branch, and while
    random checkpoints are being written."""
    workdir, random_ = tmp_path / "killed", random.Random(0)
    arguments = ("experiments.run", f"--config={TINY}", f"--workdir={workdir}")
    for seconds in (random_.uniform(0, 1.5), random_.uniform(1.5, 3)):
        process = start(*arguments, **NO_CACHE)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        finish(process)
    begun, unsaved = 0, 0
    for branch, first, last in (("trunk", 1, 24), ("decay", 25, 36), ("cosine", 1, 36)):
        updates = sorted(random_.sample(range(first, last + 1), 2))
        saves = [s for s in range(first, last + 1) if s % 5 == 0 or s == last]
        points = [("update", n) for n in updates]
        if branch != "cosine":
            points.append(("save", random_.choice([s for s in saves if s > updates[0]])))
        for what, step in sorted(points, key=lambda point: point[1]):
            assert kill(what, branch, step, *arguments) == -signal.SIGKILL
            store = BranchStore(workdir)
            begun += len(list((workdir / f"branches/{branch}").rglob("*.orbax-checkpoint-tmp")))
            unsaved += what == "update" and step not in store.steps(branch)
    # The points were what they should be: saves cut short, and updates that no node holds.
    assert begun >= 1
    assert unsaved >= 4
    code, _, err = finish(start(*arguments))
    assert code == 0, err
    assert_same_run(workdir, finished)


@pytest.mark.parametrize("seeds", [1, 2])
def test_siblings_that_were_stopped_end_as_if_they_had_not_been(tmp_path, seeds):
    """Three stops; once the newest checkpoint of one is lost, and the group goes back to the
    newest that all have."""
    branches = {
        "a": Branch(steps=16, schedule=Constant(2)),
        "b": Branch(steps=16, schedule=Constant(), optimizer=Overrides(b2=0.9)),
    }
    config = dataclasses.replace(load_config(), tree=branches, seeds=seeds)
    resolved = tree.resolve(config)
    stores = [BranchStore(tmp_path / name) for name in ("stopped", "whole")]
    for store in stores:
        store.register(resolved)
    stopped, whole = stores
    assert stopped.siblings("b") == ["a", "b"]
    for until in (7, 12, 13):
        with stopped.lock(), pytest.raises(Stop):
            Trainer(stopped, Watch(4, 5, progress=Silent(until))).train(["a", "b"])
        if until == 12:
            assert stopped.steps("b") == stopped.steps("a") == [5, 10]
            stopped.discard_after("b", 5)
    for store in stores:
        with store.lock():
            Trainer(store, Watch(4, 5, progress=Silent())).train(["a", "b"])
    for name in branches:
        assert rows_of(stopped, name) == rows_of(whole, name)
        assert same(stopped.restore(name), whole.restore(name))
        assert stopped.steps(name) == [15, 16]


def test_a_stop_that_is_asked_for_saves_first(finished, tmp_path):
    """Asked at update 9 of the trunk, between two checkpoints; then the run goes on from there."""
    store = BranchStore(tmp_path / "w")
    store.register(tree.resolve(load_config()))
    progress = Silent()
    seen = []
    progress.update = lambda step, loss, rate: seen.append(step)
    with store.lock(), pytest.raises(Stopped, match="trunk is saved at update 9 of 24"):
        Trainer(store, Watch(7, 5, progress=progress), lambda: len(seen) >= 8).train(["trunk"])
    assert store.steps("trunk") == [5, 9]
    code, _, err = finish(
        start("experiments.run", f"--config={TINY}", f"--workdir={tmp_path / 'w'}")
    )
    assert code == 0, err
    assert "trunk: going on from update 9 of 24" in err
    assert_same_run(tmp_path / "w", finished)


def test_rows_that_are_gone_are_missed(finished, tmp_path, trainer):
    """Training does not go on behind a gap in its rows."""
    workdir = shutil.copytree(finished, tmp_path / "w")
    store = BranchStore(workdir)
    store.discard_after("cosine", 35)
    path = workdir / "branches/cosine/metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:12]))
    with pytest.raises(UserError, match=r"metrics.jsonl should have a row for each update from 1"):
        trainer(store).train(["cosine"])


def test_an_evaluation_that_is_gone_is_missed(finished, tmp_path, trainer):
    """The last one of an unfinished branch, and of a finished one, which is not drawn without."""
    workdir = shutil.copytree(finished, tmp_path / "w")
    store = BranchStore(workdir)
    path = workdir / "branches/cosine/metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match=r"metrics.jsonl, line 42: a row is missing, or .* 36"):
        store.metrics("cosine")
    store.discard_after("cosine", 35)
    assert [row["step"] for row in read(path).rows][-2:] == [35, 36]
    lines = path.read_text().splitlines(keepends=True)
    assert '"eval_loss"' in lines[39]
    path.write_text("".join(lines[:39]))
    with pytest.raises(UserError, match=r"metrics.jsonl, line 40: a row is missing, or .* 35"):
        trainer(store).train(["cosine"])


def test_rows_of_what_is_finished_are_missed(finished, tmp_path, trainer):
    """A run that has lost rows is not called finished, and nothing forks from a parent without."""
    workdir = shutil.copytree(finished, tmp_path / "w")
    store = BranchStore(workdir)
    path = workdir / "branches/trunk/metrics.jsonl"
    path.write_text(path.read_text().replace('"step": 9, ', '"step": 9,  ', 1))
    with pytest.raises(UserError, match=r"trunk/metrics.jsonl, line 10: is not what was written"):
        trainer(store).missing(["trunk", "decay"])
    with pytest.raises(UserError, match=r"trunk/metrics.jsonl, line 10: "):
        train.fork(store, "new", Branch(parent="trunk", steps=2, schedule=Cooldown()))
    assert not (workdir / "branches/new").exists()


def test_a_directory_without_its_record_is_missed(finished, tmp_path):
    """By whoever looks at the tree, so that nothing of it is drawn without a word."""
    workdir = shutil.copytree(finished, tmp_path / "w")
    (workdir / "branches/decay/branch.json").unlink()
    with pytest.raises(UserError, match=r"branches/decay has checkpoints, .* no branch.json"):
        BranchStore(workdir).branches()
    shutil.move(workdir / "branches/decay", tmp_path / "away")
    assert list(BranchStore(workdir).branches()) == ["trunk", "cosine"]
    (workdir / "branches/trunk/branch.json").unlink()
    shutil.rmtree(workdir / "branches/trunk")
    shutil.move(tmp_path / "away", workdir / "branches/decay")
    shutil.copy(finished / "branches/decay/branch.json", workdir / "branches/decay")
    with pytest.raises(UserError, match=r"decay/branch.json: goes on from 'trunk' at 24"):
        BranchStore(workdir).branches()


@pytest.mark.parametrize(
    "change",
    [
        {"checkpoints": 3},
        {"trained_with": [3]},
        {"differs_from_parent": []},
        {"at_the_fork": []},
        {"format": 0},
        {"branch.schedule": None},
        {"branch.data": None},
        {"branch.seeds": "2"},
        {"branch.optimizer": {"type": "AdamW", "b1": "x"}},
        {"branch.name": "cosine"},
    ],
    ids=str,
)
def test_a_record_of_another_shape_is_named(finished, tmp_path, change):
    """Of a record without a checksum, as those of a9c6116 are."""
    workdir = shutil.copytree(finished, tmp_path / "w")
    path = workdir / "branches/decay/branch.json"
    record = read_json(path, "")
    for name, value in change.items():
        of = record["branch"] if name.startswith("branch.") else record
        of[name.removeprefix("branch.")] = value
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"decay/branch.json: is (no|the) record .*bring it back"):
        BranchStore(workdir).record("decay")


@pytest.mark.parametrize(
    ("flag", "value"), [("jax_default_prng_impl", "rbg"), ("jax_threefry_partitionable", False)]
)
def test_a_flag_that_would_change_what_is_drawn_is_refused(tmp_path, trainer, flag, value):
    branches = tree.resolve(load_config())
    was = getattr(jax.config, flag)
    jax.config.update(flag, value)
    try:
        with pytest.raises(UserError, match=rf"{flag.upper()} = {value}: .*; unset it"):
            trainer(BranchStore(tmp_path / "w")).check(branches)
    finally:
        jax.config.update(flag, was)
    assert not (tmp_path / "w").exists()


def test_other_software_is_warned_of(finished, tmp_path, trainer, caplog):
    """What is trained under another jax may differ in the last bits; a new branch may not."""
    workdir = shutil.copytree(finished, tmp_path / "w")
    store = BranchStore(workdir)
    store.discard_after("cosine", 35)
    path = workdir / "branches/cosine/branch.json"
    record = read_json(path, "")
    record["versions"]["jax"] = "0.4.1"
    write_json(path, record)
    with caplog.at_level("WARNING", logger="wsdjax"):
        trainer(store).train(["cosine"])
    assert "cosine goes on from what was trained with jax 0.4.1 (here " in caplog.text


def test_rows_beyond_the_checkpoint_are_made_again_once(finished, tmp_path, trainer):
    """Stopped between two checkpoints, with rows on disk beyond the newest one."""
    workdir = shutil.copytree(finished, tmp_path / "w")
    store = BranchStore(workdir)
    store.discard_after("cosine", 35)
    assert store.steps("cosine") == [35]
    trainer(store).train(["cosine"])
    assert_same_run(workdir, finished)
    assert [row["step"] for row in rows_of(store, "cosine") if "loss" in row] == [*range(1, 37)]


def test_a_flipped_byte_is_noticed_named_and_the_one_before_it_used(finished, tmp_path, trainer):
    """The newest checkpoint of an unfinished branch has one byte flipped."""
    workdir = shutil.copytree(finished, tmp_path / "w")
    store = BranchStore(workdir, keep=3)
    store.discard_after("cosine", 0)
    trainer(store, keep_until=21).train(["cosine"])
    flip_a_byte(workdir / "branches/cosine/checkpoints/20")
    err = run_again(workdir)
    assert "cosine/checkpoints/20 is damaged" in err
    assert (workdir / "branches/cosine/checkpoints/20.damaged").exists()
    assert_same_run(workdir, finished)


def test_a_damaged_fork_point_is_made_again(finished, tmp_path):
    """A child's start is the end of a finished trunk, and it is damaged on disk."""
    workdir = shutil.copytree(finished, tmp_path / "w")
    flip_a_byte(workdir / "branches/trunk/checkpoints/24")
    shutil.rmtree(workdir / "branches/decay/checkpoints")
    assert "trunk/checkpoints/24 is damaged" in run_again(workdir)
    assert_same_run(workdir, finished)


def test_what_cannot_be_made_again_loses_nothing(tmp_path):
    """A damaged fork point whose branch has lost its own: the end of that branch stays."""
    branches = {
        "root": Branch(steps=8, schedule=Constant(2)),
        "mid": Branch(parent="root@3", steps=9, schedule=Constant(2)),
        "leaf": Branch(parent="mid@6", steps=2, schedule=Cooldown()),
    }
    store = grow(tmp_path, with_tree(branches))
    mid = store.steps("mid")
    flip_a_byte(tmp_path / "branches/mid/checkpoints/6")
    shutil.rmtree(tmp_path / "branches/root/checkpoints/3")
    shutil.rmtree(tmp_path / "branches/leaf/checkpoints/8")
    with pytest.raises(MissingNode, match="'mid' cannot start: no checkpoint root@3"):
        grow(tmp_path, with_tree(branches))
    assert BranchStore(tmp_path).steps("mid") == [step for step in mid if step != 6]


def test_a_damaged_fork_point_inside_a_trunk_is_made_again(tmp_path):
    """The trunk, which is past it, goes back to the checkpoint before and trains to its end
    again; all ends as it was."""
    branches = {
        "trunk": Branch(steps=20, schedule=Constant(2)),
        "early": Branch(parent="trunk@8", steps=3, schedule=Cooldown()),
    }
    config = dataclasses.replace(load_config(), tree=branches)
    stores = [BranchStore(tmp_path / name) for name in ("damaged", "whole")]
    for store in stores:
        store.register(tree.resolve(config))
        with store.lock():
            Trainer(store, Watch(7, 5, progress=Silent())).train(["trunk", "early"])
    damaged, whole = stores
    flip_a_byte(tmp_path / "damaged/branches/trunk/checkpoints/8")
    shutil.rmtree(tmp_path / "damaged/branches/early")
    script = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from helpers import *\n"
        "from wsdjax.config import *\n"
        "from wsdjax.trainer import Trainer, Watch\n"
        f"branches = {branches!r}\n"
        "config = dataclasses.replace(load_config(), tree=branches)\n"
        f"store = BranchStore({str(tmp_path / 'damaged')!r})\n"
        "store.register(tree.resolve(config))\n"
        "watch = Watch(7, 5, progress=Silent())\n"
        "with store.lock(): Trainer(store, watch).train(['trunk', 'early'])\n"
    )
    said = run_script(script)
    assert "trunk/checkpoints/8 is damaged" in said
    for name in branches:
        assert rows_of(damaged, name) == rows_of(whole, name)
        assert same(damaged.restore(name), whole.restore(name))


def run_again(workdir) -> str:
    # In a process of its own: this one has what it wrote in TensorStore's cache.
    code, _, err = finish(start("experiments.run", f"--config={TINY}", f"--workdir={workdir}"))
    assert code == 0, err
    return err


@pytest.fixture
def with_snapshots(tmp_path):
    """A trunk and its decay with a snapshot at every third update, and how to train it again."""
    branches = {
        "trunk": Branch(steps=12, schedule=Constant(2)),
        "decay": Branch(parent="trunk", steps=6, schedule=Cooldown()),
    }
    resolved = tree.resolve(dataclasses.replace(load_config(), tree=branches))

    def grow(workdir, until=None):
        store = BranchStore(workdir)
        with store.lock():
            store.register(resolved)
            Trainer(store, Watch(7, 6, 3, progress=Silent(until))).train(list(resolved))
        return store

    return grow


def assert_same_nodes(store, whole):
    for name in ("trunk", "decay"):
        assert rows_of(store, name) == rows_of(whole, name)
        assert same(store.restore(name), whole.restore(name))
        assert store.nodes(name) == whole.nodes(name)
        for step in whole.nodes(name):
            assert same(store.params(name, step), whole.params(name, step))


def test_a_snapshot_that_is_not_written_is_made_again(with_snapshots, tmp_path, monkeypatch):
    """The disk fails the one of update 6, where a checkpoint is saved too: the run ends with that
    error, has no checkpoint that would hide it, and goes on to what it would have been."""
    whole = with_snapshots(tmp_path / "whole")
    assert whole.nodes("decay") == [3, 6, 9, 12, 15, 18]
    save = Checkpoints.save

    def full(self, state, facts=None):
        if int(state.step) == 6 and not state.opt_state:
            self.wait()
            self._pending = (6, Fails())
        else:
            save(self, state, facts)

    class Fails:
        def result(self):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Checkpoints, "save", full)
    with pytest.raises(OSError, match=r"trunk@6 was not saved in .*/snapshots: No space left"):
        with_snapshots(tmp_path / "w")
    assert BranchStore(tmp_path / "w").steps("trunk") == []
    monkeypatch.undo()
    assert_same_nodes(with_snapshots(tmp_path / "w"), whole)


def test_snapshots_that_are_gone_are_missed(with_snapshots, tmp_path, caplog):
    """One of a branch that is done, and one that went while it was stopped. Nothing that was
    trained is touched, and there is a way out: all of them may go."""
    whole = with_snapshots(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "w")
    shutil.rmtree(tmp_path / "w/branches/trunk/snapshots/9")
    said = "snapshots are gone, 9 of .*trunk/snapshots: bring them back, delete"
    with pytest.raises(MissingNode, match=said):
        with_snapshots(tmp_path / "w")
    assert BranchStore(tmp_path / "w").steps("trunk") == whole.steps("trunk")
    shutil.rmtree(tmp_path / "w/branches/trunk/snapshots")
    with caplog.at_level("WARNING", logger="wsdjax"):
        with_snapshots(tmp_path / "w")
    assert "trunk has no snapshots any more, of 3, 6, 9, 12" in caplog.text
    with pytest.raises(Stop):
        with_snapshots(tmp_path / "stopped", until=10)
    shutil.rmtree(tmp_path / "stopped/branches/trunk/snapshots/3")
    with pytest.raises(MissingNode, match="snapshots are gone, 3 of "):
        with_snapshots(tmp_path / "stopped")


def test_a_fork_that_is_gone_is_told_of(finished, tmp_path, trainer, caplog):
    """What was forked there stands without it, and nothing else can be forked there."""
    store = BranchStore(shutil.copytree(finished, tmp_path / "w"))
    step = store.steps("trunk")[0]
    assert step < store.branches()["trunk"].end
    train.fork(store, "new", Branch(parent=f"trunk@{step}", steps=2, schedule=Cooldown()))
    shutil.rmtree(store.directory("trunk") / f"checkpoints/{step}")
    with caplog.at_level("WARNING", logger="wsdjax"):
        assert not trainer(BranchStore(store.workdir)).train(["trunk", "new"])
    assert f"trunk@{step} is gone, from which new was forked" in caplog.text


def test_a_snapshot_stays_in_the_record_of_later_checkpoints(with_snapshots, tmp_path):
    """Gone while a process trains, which has counted what was there when it began."""
    workdir = tmp_path / "w"
    with pytest.raises(Stop):
        with_snapshots(workdir, until=10)
    store = BranchStore(workdir)
    state = store.restore("trunk", 6)
    store.save("trunk", dataclasses.replace(state, step=state.step + 1))
    store.wait("trunk")
    again = BranchStore(workdir)
    shutil.rmtree(workdir / "branches/trunk/snapshots/3")
    assert again.lost_snapshots("trunk") == [3]


@pytest.fixture
def trainer():
    config = load_config()

    def make(store, keep_until=None):
        watch = Watch(config.eval_every, config.checkpoint_every, progress=Silent(keep_until))
        inner = Trainer(store, watch)
        if keep_until is None:
            return inner

        class Interrupted:
            def train(self, names):
                with store.lock(), pytest.raises(Stop):
                    inner.train(names)

        return Interrupted()

    assert set(tree.resolve(config)) == set(BRANCHES)
    return make
