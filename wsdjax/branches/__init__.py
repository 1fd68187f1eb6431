"""The tree on disk: what each branch is, its checkpoints, snapshots and metrics."""

from wsdjax.branches.checkpoints import DamagedCheckpoint, MissingNode
from wsdjax.branches.store import BranchStore
from wsdjax.lock import WorkdirBusy
