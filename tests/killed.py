"""An entry point that dies by SIGKILL at one point of training.

python tests/killed.py (update|save) BRANCH STEP experiments.run --config=... --workdir=...

`update` dies when the row of that update has been read, `save` when the checkpoint of that step
has been written and is about to get its name.
"""

import os
import runpy
import signal
import sys

from wsdjax.branches import BranchStore

what, branch, step, module = *sys.argv[1:3], int(sys.argv[3]), sys.argv[4]
point = ({"update": "read", "save": "checkpoints written"}[what], branch, step)


def tell(*event):
    if event == point:
        os.kill(os.getpid(), signal.SIGKILL)


BranchStore.tell = staticmethod(tell)
sys.argv = sys.argv[4:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
