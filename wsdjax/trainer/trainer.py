"""What of a tree is missing, and its training, one group of siblings at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from wsdjax.branches import BranchStore, MissingNode
from wsdjax.trainer import loop, preflight, start
from wsdjax.trainer.group import Group, place_of_one
from wsdjax.trainer.loop import Diverged
from wsdjax.trainer.start import Job
from wsdjax.trainer.watch import Watch
from wsdjax.training.compiled import Compiled
from wsdjax.tree.branch import ResolvedBranch
from wsdjax.wording import listed

log = logging.getLogger("wsdjax")


@dataclass
class Trainer:
    """Trains the branches of one store. A branch trains as its record says, and in the
    program of its group, so that how often it was stopped leaves no trace."""

    store: BranchStore
    watch: Watch = field(default_factory=Watch)
    asked_to_stop: Callable[[], bool] = lambda: False
    """Asked after every update; training then saves and raises `Stopped`."""
    _verified: set[str] = field(default_factory=set)
    """Branches whose end has been read back once."""
    _compiled: Compiled = field(default_factory=Compiled)

    def check(self, branches: Mapping[str, ResolvedBranch]) -> None:
        """Finds what would stop these branches from training (`wsdjax.trainer.preflight.check`)."""
        preflight.check(self.store, branches, self._compiled, self.watch.tensorboard)

    def missing(self, names: Sequence[str]) -> list[str]:
        """Those of the branches that do not have a good checkpoint of their end.

        Raises:
          MissingNode: for a branch that lacks a snapshot which it had.
          DamagedFile: for one whose rows are not those that were written.
        """
        there = self.store.branches()
        for name, branch in there.items():
            if name in names and name not in self._verified and self.store.is_done(name):
                self._verified.add(name)
                group = [there[sibling] for sibling in self.store.siblings(name)]
                if start.read(self.store, name, branch.end, place_of_one(group)):
                    self.store.metrics(name)
        self._check_snapshots([name for name in names if name in there])
        self._tell_of_lost_forks([name for name in names if name in there])
        return [name for name in names if not self.store.is_done(name)]

    def train(self, names: Sequence[str]) -> list[str]:
        """Trains those of the named branches that are not done; returns which they were.

        A branch that diverges is left at its last good checkpoint, and the others are trained.

        Raises:
          Diverged: in the end, if a loss or an update was not finite.
          Stopped: once `asked_to_stop` says so, after a checkpoint.
          MissingNode: in the end, for a branch that lacks a snapshot which it had.
        """
        missing = self.missing(names)
        diverged: dict[str, str] = {}
        for name in missing:
            ancestors = {segment.branch for segment in self.store.lineage(name)}
            if self.store.is_done(name) or ancestors & set(diverged):
                continue
            preflight.warn_of_other_software(self.store, name)
            try:
                self._train_group(Job(self.store.siblings(name)))
            except Diverged as error:
                diverged |= dict.fromkeys(error.branches, str(error))
        if diverged:
            raise Diverged("; ".join(dict.fromkeys(diverged.values())), list(diverged))
        self._check_snapshots(missing)  # one may have gone while its branch was stopped
        return missing

    def _train_group(self, job: Job) -> None:
        """After whatever must be trained for it to begin."""
        jobs = [job]
        while jobs:
            job = jobs[-1]
            group = Group.of(self.store, job.names, self._compiled)
            begun = start.begin(self.store, group, job)
            if isinstance(begun, Job):
                jobs.append(begun)
                continue
            end = job.until or group.first.end
            loop.train(self.store, group, begun, end, self.watch, self.asked_to_stop)
            jobs.pop()

    def _check_snapshots(self, names: Sequence[str]) -> None:
        if not self.watch.snapshot_every:
            return
        lost = {name: gone for name in names if (gone := self.store.lost_snapshots(name))}
        for name in [name for name in lost if not self.store.snapshots(name)]:
            # All of them: no accident, but nothing to be silent about.
            log.warning(
                "%s has no snapshots any more, of %s", name, listed(map(str, lost.pop(name)))
            )
        each = "; ".join(
            f"{listed(map(str, gone))} of {self.store.place(name, 'snapshots')}"
            for name, gone in lost.items()
        )
        if lost:
            raise MissingNode(
                f"snapshots are gone, {each}: bring them back, delete the others of the branch too "
                "to do without, or move its checkpoints away to train it again"
            )

    def _tell_of_lost_forks(self, names: Sequence[str]) -> None:
        """Nodes from which branches went their own way: what is trained stands without them."""
        for name, branch in self.store.branches().items():
            if branch.parent not in names or not self.store.is_done(branch.parent):
                continue
            if branch.start not in self.store.steps(branch.parent) and self.store.steps(name):
                log.warning(
                    "%s@%d is gone, from which %s was forked: nothing more can be forked there",
                    *(branch.parent, branch.start, name),
                )
