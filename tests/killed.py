"""An entry point that dies by SIGKILL at one point of training.

python tests/killed.py (update|save) BRANCH STEP experiments.run --config=... --workdir=...

`update` dies when the row of that update has been read, `save` when the checkpoint of that step
has been written and is about to get its name.
"""

import os
import runpy
import signal
import sys

from wsdjax.trainer.loop import Trainer

what, branch, step, module = *sys.argv[1:3], int(sys.argv[3]), sys.argv[4]


def die():
    os.kill(os.getpid(), signal.SIGKILL)


train_group = Trainer._train_group


def dying(rename):
    def rename_or_die(source, target, *more, **options):
        place = (f"branches/{branch}/checkpoints/{step}.orbax-checkpoint-tmp", str(source))
        if what == "save" and place[1].endswith(place[0]):
            die()
        return rename(source, target, *more, **options)

    return rename_or_die


def train_group_and_die(self, names):
    update = type(self.progress).update

    def update_and_die(progress, n, loss, rate):
        update(progress, n, loss, rate)
        if what == "update" and (names[0], n) == (branch, step):
            die()

    self.progress.update = update_and_die.__get__(self.progress)
    train_group(self, names)


os.rename, os.replace = dying(os.rename), dying(os.replace)
Trainer._train_group = train_group_and_die
sys.argv = sys.argv[4:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
