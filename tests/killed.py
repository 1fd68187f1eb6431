"""An entry point that dies by SIGKILL at one point of training.

python tests/killed.py (update|save) BRANCH STEP experiments.run --config=... --workdir=...

`update` dies when the row of that update has been read, `save` as soon as the checkpoint of
that step has begun to be written, asynchronously.
"""

import os
import runpy
import signal
import sys

from wsdjax import branches
from wsdjax.train import Trainer

what, branch, step, module = *sys.argv[1:3], int(sys.argv[3]), sys.argv[4]


def die():
    os.kill(os.getpid(), signal.SIGKILL)


save, train_group = branches.BranchStore.save, Trainer._train_group


def save_and_die(self, name, state):
    save(self, name, state)
    if what == "save" and (name, int(state.step)) == (branch, step):
        die()


def train_group_and_die(self, names):
    update = type(self.progress).update

    def update_and_die(progress, n, loss, rate):
        update(progress, n, loss, rate)
        if what == "update" and (names[0], n) == (branch, step):
            die()

    self.progress.update = update_and_die.__get__(self.progress)
    train_group(self, names)


branches.BranchStore.save = save_and_die
Trainer._train_group = train_group_and_die
sys.argv = sys.argv[4:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
