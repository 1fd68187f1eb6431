"""How a workdir grows by branches: from a command, a config or a session of Python."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsdjax import tree
from wsdjax.branches import BranchStore, MissingNode, workdir
from wsdjax.config import Branch, Experiment, Mesh, describe_all, validate_branch
from wsdjax.config.json import differences, to_json
from wsdjax.errors import ConfigError
from wsdjax.files import write_json
from wsdjax.placement import processes
from wsdjax.trainer import loop, preflight, start
from wsdjax.trainer.group import Group
from wsdjax.trainer.loop import Diverged, Stopped
from wsdjax.trainer.start import Job
from wsdjax.trainer.watch import Progress, Watch
from wsdjax.training.compiled import Compiled
from wsdjax.tree.branch import ResolvedBranch
from wsdjax.wording import listed

log = logging.getLogger("wsdjax")


@dataclass
class Trainer:
    """Trains what is missing of a store's branches, one group of siblings at a time: each as its
    record says, in the program of its group, so that how often it was stopped leaves no trace."""

    store: BranchStore
    watch: Watch = field(default_factory=Watch)
    asked_to_stop: Callable[[], bool] = lambda: False
    """Asked after every call of updates; training then saves and raises `Stopped`."""
    mesh: Mesh = field(default_factory=Mesh)
    """How devices are shared."""
    loops: bool | None = None
    """Whether several updates are one call, as for `wsdjax.training.compiled.Compiled`."""

    def __post_init__(self) -> None:
        self._compiled = Compiled(self.mesh, loops=self.loops)

    def check(self, branches: Mapping[str, ResolvedBranch]) -> None:
        """Finds what would stop these branches from training (`wsdjax.trainer.preflight.check`)."""
        preflight.check(self.store, branches, self._compiled, self.watch.tensorboard)

    def missing(self, names: Sequence[str]) -> list[str]:
        """Those of the branches that do not have a good checkpoint of their end; a `MissingNode`
        tells of a snapshot that is gone, a `DamagedFile` of rows that are not what was written."""
        store, there = self.store, self.store.branches()
        for name, branch in there.items():
            forked = branch.parent in names and store.is_done(branch.parent) and store.steps(name)
            if forked and branch.start not in store.steps(branch.parent):
                log.warning(  # what is trained stands without it
                    "%s@%d is gone, from which %s was forked: nothing more can be forked there",
                    *(branch.parent, branch.start, name),
                )
            if name in names and store.is_done(name):
                group = [there[sibling] for sibling in store.siblings(name)]
                if start.read(store, name, branch.end, self._compiled.place_of_one(group)):
                    store.check_rows(name)
            if name in names:
                self._check_snapshots(name)
        return [name for name in names if not store.is_done(name)]

    def train(self, names: Sequence[str]) -> list[str]:
        """Trains those of the named branches that are not done; returns which they were.

        A branch that diverges is left at its last good checkpoint, and the others are trained.

        Raises:
          Diverged: in the end, if a loss or an update was not finite.
          Stopped: once `asked_to_stop` says so, after a checkpoint.
          MissingNode, DamagedFile: as `missing`.
        """
        missing = self.missing(names)
        diverged: dict[str, str] = {}
        for name in missing:
            ancestors = {segment.branch for segment in self.store.lineage(name)}
            if self.store.is_done(name) or ancestors & diverged.keys():
                continue
            preflight.warn_of_other_software(self.store, name)
            try:
                self._train_group(Job(self.store.siblings(name)))
            except Diverged as error:
                diverged |= dict.fromkeys(error.branches, str(error))
        if diverged:
            raise Diverged("; ".join(dict.fromkeys(diverged.values())), list(diverged))
        return missing

    def _train_group(self, job: Job) -> None:
        """After whatever must be trained for it to begin."""
        group = Group.of(self.store, job.names, self._compiled)
        while isinstance(begun := start.begin(self.store, group, job.newest), Job):
            self._train_group(begun)
        end = job.until or group.first.end
        loop.train(self.store, group, begun, end, self.watch, self.asked_to_stop)

    def _check_snapshots(self, name: str) -> None:
        kept = self.watch.snapshot_every or self.watch.snapshot_at.get(name)
        if not kept or not (lost := self.store.lost_snapshots(name)):
            return
        gone = listed(map(str, lost))
        if self.store.snapshots(name):
            raise MissingNode(
                f"snapshots are gone, {gone} of {self.store.place(name, 'snapshots')}: bring them "
                "back, delete the others of the branch too to do without, or move its checkpoints "
                "away to train it again"
            )
        # All of them: no accident, but nothing to be silent about.
        log.warning("%s has no snapshots any more, of %s", name, gone)


def grow(
    store: BranchStore,
    branches: Mapping[str, ResolvedBranch],
    watch: Watch,
    declares: Experiment | None = None,
    asked_to_stop: Callable[[], bool] = lambda: False,
    planned: Callable[[list[str]], None] = lambda missing: None,
    draw: Callable[[Path], None] = lambda workdir: None,
    mesh: Mesh | None = None,
) -> list[str]:
    """Trains whatever is missing of some branches; returns which they were.

    Args:
      store: the workdir's.
      branches: what is to be trained, old and new.
      watch: how it is watched.
      declares: the experiment that declares these branches, if it is to be the workdir's config.
      asked_to_stop: asked after every update, of several in one call after the last.
      planned: told what is missing, before it is trained.
      draw: draws the report, of a workdir whose branches or comparisons are others than before.
        One that is there is deleted first, so that none is out of date.
      mesh: how devices are shared.

    Raises:
      ConfigError, MissingNode: for branches that cannot be; nothing is written then.
      Diverged, Stopped: as `Trainer.train`; the workdir's status tells.
    """
    _check_same(store, branches)
    trainer = Trainer(store, watch, asked_to_stop, mesh or Mesh())
    there = store.names()
    done = [name for name in branches if name in there and store.is_done(name)]
    store.check(branches)
    for name in branches:
        if name in there and name not in done:
            _check_siblings(store, name, branches)
    trainer.check({name: branch for name, branch in branches.items() if name not in done})
    with store.lock():
        store.check_seen()
        store.register(branches)
        missing = trainer.missing(list(branches))
        page = workdir.report_of(store.workdir)
        old = workdir.experiment_of(store.workdir)
        # How a finished run would be watched is no news; what its report compares is.
        if old and declares and not missing:
            declares = dataclasses.replace(old, compare=declares.compare)
        drawn = store.agreed(page.exists, "whether there is a report")
        if not missing and drawn and declares in (None, old):
            _write_status(store)  # which a kill may have kept from being told
            return []
        if declares:
            write_json(store.workdir / "config.json", to_json(declares))
        page.unlink(missing_ok=True)
        planned(missing)
        _write_status(store, "running")
        status: str | None = "incomplete"
        diverged: Diverged | None = None
        try:
            trainer.train(missing)
            status = None
        except Stopped as error:
            status = f"stopped: {error}"
            raise
        except Diverged as error:
            status, diverged = f"diverged: {error}", error
        finally:
            _write_status(store, status)  # before the report is drawn, which a kill may cut short
        if store.leads:
            draw(store.workdir)
        if diverged:
            raise diverged
    return missing


def fork(
    store: BranchStore,
    name: str,
    branch: Branch,
    watch: Watch | None = None,
    progress: Progress | None = None,
) -> ResolvedBranch:
    """Adds a branch, whose parent is there, to a workdir, or goes on with it, and trains it to its
    end; raises as `grow`.

    It is watched as `watch` says or, if that is None, the workdir's config, with `progress`.
    """
    experiment = workdir.experiment_of(store.workdir)
    resolved = resolved_in(store, name, branch, experiment)
    if watch is None:
        watch = Watch.of(experiment, progress) if experiment else Watch()
    grow(store, {name: resolved}, watch, mesh=workdir.mesh_of(store.workdir, resolved))
    return resolved


def resolved_in(
    store: BranchStore, name: str, branch: Branch, experiment: Experiment | None
) -> ResolvedBranch:
    """A branch of a workdir, whose experiment says what its lengths in percent are of; a
    `ConfigError` or `MissingNode` tells of one that cannot be."""
    validate_branch(name, branch)
    branches, parent = store.branches(), branch.parent.partition("@")[0]
    store.record(parent)  # or an error that tells which there are
    sets = experiment.data_sets() if experiment else []
    described = describe_all([*sets, branch.data, branches[parent].data])
    length = tree.run_length(experiment, described) if experiment else None
    return tree.resolve_branch(name, branch, branches[parent], branches, length, described)


def _check_same(store: BranchStore, branches: Mapping[str, ResolvedBranch]) -> None:
    """That all processes were given the same branches, and have the same data."""

    def told() -> dict[str, Any]:
        return {
            name: {**branch.to_json(), "data_facts": dict(branch.data.describe().facts)}
            for name, branch in branches.items()
        }

    if not processes.several():
        return
    first, mine = store.agreed(told, "its branches"), json.loads(json.dumps(told()))
    for path, theirs, ours in differences(first, mine):
        raise ConfigError(f"{path} is {theirs!r:.80} in process 0, and here {ours!r:.80}")


def _check_siblings(store: BranchStore, name: str, asked: Container[str]) -> None:
    """That no branch is trained which is not asked for: those that were begun together stay in
    one program, since alone they would not be the same to the bit."""
    if others := [each for each in store.siblings(name) if each not in asked]:
        raise ConfigError(
            f"{name} was begun in one program with {', '.join(others)}, which would be trained "
            "with it and is not declared here: declare it too, as it was, or use another workdir"
        )


def _write_status(store: BranchStore, status: str | None = None) -> None:
    """By default whether all is done."""
    done = "done" if all(map(store.is_done, store.names())) else "incomplete"
    workdir.write_status(store.workdir, status or done)
