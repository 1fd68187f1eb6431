"""A workdir as it stands, its files read once: what figures and reports are made from.

No checkpoint is read: curves come from `metrics.jsonl`, the tree from `branch.json`.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from wsdjax.branches import BranchStore
from wsdjax.branches.metrics import Table
from wsdjax.branches.workdir import experiment_of
from wsdjax.tree.branch import ResolvedBranch


class Run:
    def __init__(self, workdir: str | Path):
        self.store = BranchStore(workdir)
        self.workdir = self.store.workdir
        self.branches: dict[str, ResolvedBranch] = self.store.branches()
        self.experiment = experiment_of(self.workdir)
        """None for a workdir without a config."""
        compare = self.experiment.compare if self.experiment else {}
        self.compared: dict[str, tuple[str, ...]] = {
            method: tuple(name for name in names if name in self.branches)
            for method, names in compare.items()
        }
        self.table: Callable[[str], Table] = functools.cache(self.store.metrics)
        """The rows of a lineage, root to leaf."""
        self.lineage = functools.cache(self.store.lineage)

    def ends(self) -> list[ResolvedBranch]:
        """The branches that have a result: those without children, and those that decay, from
        which others may have been forked."""
        parents = {branch.parent for branch in self.branches.values()}
        return [
            branch
            for name, branch in self.branches.items()
            if name not in parents or branch.schedule.decays
        ]

    def smoothing_window(self, name: str) -> int:
        """Updates in a running mean of the training loss: two in a hundred of the longest
        lineage from this root that has been trained, so that curves go on over a fork."""
        root = self.lineage(name)[0].branch
        kin = [each for each in self.branches if self.lineage(each)[0].branch == root]
        last = [int(self.table(each).updates.get("step", [0])[-1]) for each in kin]
        return max(1, round(0.02 * max(last)))

    def facts(self, name: str) -> dict[str, Any]:
        """The facts that `branch.json` keeps about a branch's data."""
        return self.store.record(name).get("data_facts", {})

    def made(self) -> dict[str, Any]:
        """Machine and versions, by the first branch's record, and the date of the last row."""
        record = self.store.record(next(iter(self.branches)))
        files = self.workdir.glob("branches/*/metrics.jsonl")
        trained = max((path.stat().st_mtime for path in files), default=time.time())
        return {
            "machine": record.get("machine", "not recorded"),
            "versions": record["versions"],
            "date": time.strftime("%Y-%m-%d", time.gmtime(trained)),
        }


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """[T, R]: the mean of the last `window` rows, or of as many as there are by then."""
    sums = np.cumsum(np.concatenate([np.zeros((1, values.shape[1])), values]), axis=0)
    last = np.arange(1, len(values) + 1)
    first = np.maximum(last - window, 0)
    return (sums[last] - sums[first]) / (last - first)[:, None]
