"""A run that is killed and started again ends as one that was never stopped, to the bit."""

import random
import shutil
import signal
import time

import numpy as np
import pytest
from conftest import NO_CACHE, TINY, finish, load_config, rows_of, same, start

from wsdjax import tree
from wsdjax.branches import BranchStore
from wsdjax.train import Trainer

BRANCHES = ("trunk", "decay", "cosine")


def assert_same_run(workdir, reference):
    store, expected = BranchStore(workdir), BranchStore(reference)
    for name in BRANCHES:
        assert rows_of(store, name) == rows_of(expected, name)
        assert same(store.restore(name), expected.restore(name))


def test_ten_kills_leave_no_trace(finished, tmp_path):
    """SIGKILL at ten random moments of start-up, training, saving and drawing."""
    workdir, random_ = tmp_path / "killed", random.Random(0)
    arguments = ("experiments.run", f"--config={TINY}", f"--workdir={workdir}")
    kills = 0
    while kills < 10:
        process = start(*arguments, **NO_CACHE)
        # Most moments are within training, which begins when the first branch exists.
        while not (workdir / "branches").exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(random_.uniform(0, 6))
        if process.poll() is not None:  # it finished: the later kills find a part of it missing
            shutil.rmtree(workdir / "branches" / random_.choice(("cosine", "decay")))
            continue
        process.send_signal(signal.SIGKILL)
        finish(process)
        kills += 1
    code, _, err = finish(start(*arguments))
    assert code == 0, err
    assert_same_run(workdir, finished)


def test_rows_beyond_the_checkpoint_are_made_again_once(finished, tmp_path, trainer):
    """Stopped between two checkpoints, with rows on disk beyond the newest one."""
    workdir = shutil.copytree(finished, tmp_path / "w")
    store = BranchStore(workdir)
    store.discard_after("cosine", 35)
    assert store.steps("cosine") == [35]
    trainer(store).grow(["cosine"])
    assert_same_run(workdir, finished)
    assert [row["step"] for row in rows_of(store, "cosine") if "loss" in row] == [*range(1, 37)]


def test_a_flipped_byte_is_noticed_named_and_the_one_before_it_used(finished, tmp_path, trainer):
    """The newest checkpoint of an unfinished branch has one byte flipped."""
    workdir = shutil.copytree(finished, tmp_path / "w")
    store = BranchStore(workdir, keep=3)
    store.discard_after("cosine", 0)
    trainer(store, keep_until=21).grow(["cosine"])
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


def run_again(workdir) -> str:
    # In a process of its own: this one has what it wrote in TensorStore's cache.
    code, _, err = finish(start("experiments.run", f"--config={TINY}", f"--workdir={workdir}"))
    assert code == 0, err
    return err


def flip_a_byte(checkpoint):
    numbers = [path for path in checkpoint.glob("state/*/c/**/*") if path.is_file()]
    largest = max(numbers, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


class Stop(Exception):
    pass


class Silent:
    """Progress that shows nothing, and can stop the run after an update."""

    def __init__(self, until=None):
        self.until = until

    def start(self, title, step, end, images_per_step):
        pass

    def update(self, step, loss, rate):
        assert np.isfinite(loss)
        if step == self.until:
            raise Stop

    def stop(self):
        pass


@pytest.fixture
def trainer():
    config = load_config()

    def make(store, keep_until=None):
        inner = Trainer(store, Silent(keep_until), config.eval_every, config.checkpoint_every)
        if keep_until is None:
            return inner

        class Interrupted:
            def grow(self, names):
                with store.lock(), pytest.raises(Stop):
                    inner.grow(names)

        return Interrupted()

    assert set(tree.resolve(config)) == set(BRANCHES)
    return make
