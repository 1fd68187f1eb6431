"""The loop: trains whatever of a tree is missing, one group of sibling branches at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import jax
import numpy as np

from wsdjax import data, interop, models, tree
from wsdjax.branches import BranchStore, DamagedCheckpoint, MissingNode
from wsdjax.branches.metrics import JsonLines, Rows, TensorBoard
from wsdjax.config import Branch, describe_all, validate_branch
from wsdjax.placement import mesh
from wsdjax.trainer import preflight as trainable
from wsdjax.training import state as states
from wsdjax.training.compiled import Programs
from wsdjax.training.optim import Hyper
from wsdjax.training.state import State
from wsdjax.tree.branch import ResolvedBranch
from wsdjax.tree.rates import hyper_table
from wsdjax.wording import listed

log = logging.getLogger("wsdjax")


class Diverged(RuntimeError):
    """A loss or an update is not finite; `branches` cannot go on."""

    def __init__(self, message: str, branches: Sequence[str]):
        super().__init__(message)
        self.branches = branches


class Stopped(Exception):
    """Training was asked to stop; every branch that was being trained has been saved."""


class Progress(Protocol):
    """Told of every update whose row has been read."""

    def start(self, title: str, step: int, end: int, each: int, unit: str) -> None:
        """`each` update takes so many of a unit: images or tokens."""

    def update(self, step: int, loss: float, rate: float) -> None: ...
    def stop(self) -> None: ...


class Silent:
    """Progress that shows nothing."""

    def start(self, title: str, step: int, end: int, each: int, unit: str) -> None:
        pass

    def update(self, step: int, loss: float, rate: float) -> None:
        pass

    def stop(self) -> None:
        pass


@dataclass
class Trainer:
    """Trains the branches of one store. A branch trains as its record says, and in the
    program of its group, so that how often it was stopped leaves no trace."""

    store: BranchStore
    progress: Progress = field(default_factory=Silent)
    eval_every: int = 100
    checkpoint_every: int = 500
    tensorboard: bool = False
    snapshot_every: int | None = None
    asked_to_stop: Callable[[], bool] = lambda: False
    """Asked after every update; training then saves and raises `Stopped`."""
    _verified: set[str] = field(default_factory=set)
    """Branches whose end has been read back once."""
    _set_aside: set[tuple[str, int]] = field(default_factory=set)
    """Nodes that were found damaged, and are to be made again."""
    _programs: Programs = field(default_factory=Programs)

    def check(self, branches: Mapping[str, ResolvedBranch]) -> None:
        """Finds what would stop these branches from training (`wsdjax.trainer.preflight.check`)."""
        trainable.check(self.store, branches, self._programs, self.tensorboard)

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
                if not self._set_aside_if_damaged(name, branch.end):
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
            trainable.warn_of_other_software(self.store, name)
            try:
                self._train_group(self.store.siblings(name))
            except Diverged as error:
                diverged |= dict.fromkeys(error.branches, str(error))
        if diverged:
            raise Diverged("; ".join(dict.fromkeys(diverged.values())), list(diverged))
        self._check_snapshots(missing)  # one may have gone while its branch was stopped
        return missing

    def _train_group(self, names: Sequence[str], until: int | None = None) -> None:
        """To the end, or to the fork at `until`, of which the checkpoint is kept."""
        branches = self.store.branches()
        group = [branches[name] for name in names]
        first = group[0]
        seeds = [seed for branch in group for seed in branch.stream_seeds]
        placed = mesh.shardings(len(seeds), first.batch_size, first.accumulate)
        model, step, evaluate = self._programs.of(first, placed)
        train = self._programs.train_split(first.data)
        stream = data.Stream(train, first.batch_size, seeds, first.data.augment)
        test = self._programs.test_batches(first.data, placed)
        table = hyper_table(group, branches)

        state = self._begin(group, model, placed)
        begin, end = int(state.step), until or first.end
        rows = self._rows(group, begin)
        save_at = set().union(*(self.store.protected(name) for name in names))

        def read(n: int, metrics: dict[str, jax.Array]) -> None:
            rates = table.rate[n - 1 - first.start]
            rows.write({"step": n, "seconds": clock.lap()}, metrics, rates)
            loss, update = (np.asarray(metrics[name]) for name in ("loss", "update_norm"))
            bad = ~(np.isfinite(loss) & np.isfinite(update))
            if bad.any():
                _raise_diverged(group, n, bad)
            self.progress.update(n, float(loss.mean()), float(rates.mean()))

        title = " + ".join(names)
        if begin > first.start:
            log.info("%s: going on from update %d of %d", title, begin, end)
        each = len(seeds) * first.batch_size * first.data.units
        self.progress.start(title, begin, end, each, first.data.unit)
        clock, unread = _Clock(), None
        try:
            if begin == 0 and first.weights:
                rows.write({"step": 0}, evaluate(state, test))  # what is to be improved on
            for n in range(begin + 1, end + 1):
                batch = jax.device_put(stream[n - 1 - first.data_start], placed.batch)
                hyper = Hyper(*(column[n - 1 - first.start] for column in table))
                state, metrics = step(state, batch, jax.device_put(hyper, placed.replicates))
                # The row before this one is read while this update runs: to wait for this
                # one's here would leave the device idle.
                if unread:
                    read(*unread)
                unread = (n, metrics)
                stop = n < end and self.asked_to_stop()
                save = stop or n in save_at or n % self.checkpoint_every == 0
                snap = self.snapshot_every and n % self.snapshot_every == 0
                if save or snap or n % self.eval_every == 0 or n == end:
                    read(*unread)
                    unread = None
                if n % self.eval_every == 0 or n == first.end:
                    rows.write({"step": n}, evaluate(state, test))
                if snap:
                    for branch, mine in _parts(group, state):
                        self.store.snapshot(branch.name, mine)
                if save:
                    self._save(group, state, rows)
                if stop:
                    for name in names:
                        self.store.wait(name)
                    raise Stopped(f"{title} is saved at update {n} of {end}")
            for name in names:
                self.store.wait(name)
            rows.close()
        finally:
            self.progress.stop()
            rows.abandon()

    def _begin(
        self, group: list[ResolvedBranch], model: models.Model, placed: mesh.Shardings
    ) -> State:
        """The newest checkpoint that all of the group have, else the node they fork from."""
        store, first = self.store, group[0]
        while True:
            common = set.intersection(*(set(store.steps(branch.name)) for branch in group))
            step = max(common, default=first.start)
            try:
                # A part of several may have too few replicates for the group's own sharding.
                sharding = placed.replicates if len(group) == 1 else placed.everywhere
                if common:
                    parts = [store.restore(e.name, step, sharding) for e in group]
                elif first.parent:
                    node = store.restore(first.parent, first.start, sharding)
                    before = store.branches()[first.parent].averages
                    parts = [states.forked(node, branch, before) for branch in group]
                else:
                    seeds = [seed for branch in group for seed in branch.replicate_seeds]
                    begun = interop.starting_from(first.weights, model) if first.weights else model
                    parts = [states.create(begun, seeds, first.averages)]
                break
            except DamagedCheckpoint:
                owners = [e.name for e in group] if common else [first.parent]
                if not any([self._set_aside_if_damaged(owner, step) for owner in owners]):
                    raise
            except MissingNode as error:
                if (first.parent, first.start) in self._set_aside:
                    # What it made after that node is made again too: to its end.
                    until = None
                    for sibling in store.siblings(first.parent):
                        store.discard_after(sibling, first.start)
                elif max(store.steps(first.parent), default=0) > first.start:
                    raise MissingNode(
                        f"{first.name!r} cannot start: {error}. Fork it from a step that is "
                        f"there, or delete the later ones of {first.parent!r} to train it again"
                    ) from None
                else:
                    until = first.start
                    log.info("%s is trained to %d first, for %s", first.parent, until, first.name)
                self._train_group(store.siblings(first.parent), until)
        for branch in group:
            store.discard_after(branch.name, step)
        return states.place(states.join(parts) if len(parts) > 1 else parts[0], placed)

    def _set_aside_if_damaged(self, name: str, step: int) -> bool:
        branch = self.store.branches()[name]
        try:
            placed = mesh.shardings(branch.seeds, branch.batch_size, branch.accumulate)
            self.store.restore(name, step, placed.replicates)
        except DamagedCheckpoint as error:
            log.warning("%s; using the one before it", error)
            self.store.set_aside(name, step)
            self._set_aside.add((name, step))
            return True
        return False

    def _check_snapshots(self, names: Sequence[str]) -> None:
        if not self.snapshot_every:
            return
        lost = {name: gone for name in names if (gone := self.store.lost_snapshots(name))}
        for name in [name for name in lost if not self.store.snapshots(name)]:
            # All of them: no accident, but nothing to be silent about.
            log.warning(
                "%s has no snapshots any more, of %s", name, listed(map(str, lost.pop(name)))
            )
        each = "; ".join(f"{name} those of {listed(map(str, gone))}" for name, gone in lost.items())
        if lost:
            raise MissingNode(
                f"snapshots in {self.store.workdir} are gone, of {each}: bring them back, delete "
                "the others of the branch too to do without, or move its checkpoints away to train "
                "it again"
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

    def _save(self, group: list[ResolvedBranch], state: State, rows: Rows) -> None:
        sums = rows.flush()  # before the checkpoint that comes after them
        # One at a time, so that whenever a kill falls the siblings have a checkpoint in common.
        for branch in group:
            self.store.wait(branch.name)
        for branch, mine in _parts(group, state):
            self.store.save(branch.name, mine, sums[branch.name])

    def _rows(self, group: Sequence[ResolvedBranch], step: int) -> Rows:
        files, boards = [], []
        for branch in group:
            directory = self.store.directory(branch.name)
            recorded = self.store.recorded_rows(branch.name, step) if step > branch.start else ""
            files.append(JsonLines(directory / "metrics.jsonl", branch.start, step, recorded))
            board = self.tensorboard
            boards.append([TensorBoard(directory / "tensorboard", step)] if board else [])
        return Rows(group, files, boards)


def fork(
    store: BranchStore,
    name: str,
    branch: Branch,
    eval_every: int = 100,
    checkpoint_every: int = 500,
    progress: Progress | None = None,
) -> ResolvedBranch:
    """Adds a branch to a workdir, or goes on with it, and trains it to its end.

    Args:
      store: the workdir's.
      name: the new branch's.
      branch: what it is; its `parent` is in the workdir, its lengths are not in percent.
      eval_every, checkpoint_every: in updates.
      progress: told of every update.

    Raises:
      ConfigError, MissingNode: for a branch that cannot be; nothing is written then.
      Diverged: at a loss or an update that is not finite.
    """
    validate_branch(name, branch)
    branches = store.branches()
    store.record(parent := branch.parent.partition("@")[0])
    described = describe_all([branch.data, branches[parent].data])
    resolved = tree.resolve_branch(name, branch, branches[parent], branches, None, described)
    trainer = Trainer(store, progress or Silent(), eval_every, checkpoint_every)
    store.check({name: resolved})
    trainer.check({name: resolved})
    with store.lock():
        store.register({name: resolved})
        trainer.train([name])
    return resolved


def _parts(group: Sequence[ResolvedBranch], state: State) -> Iterator[tuple[ResolvedBranch, State]]:
    """Each branch of a group with its own replicates."""
    for i, branch in enumerate(group):
        whole = len(group) == 1
        yield (
            branch,
            state if whole else states.section(state, i * branch.seeds, (i + 1) * branch.seeds),
        )


class _Clock:
    """Seconds from one row that was read to the next; evaluations and saves fall in between."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        now, last = time.perf_counter(), self._last
        self._last = now
        return round(now - last, 4)


def _raise_diverged(group: list[ResolvedBranch], n: int, bad: np.ndarray) -> None:
    owners = [(branch, seed) for branch in group for seed in branch.replicate_seeds]
    which = [
        f"{branch.name} seed {seed}" for (branch, seed), b in zip(owners, bad, strict=True) if b
    ]
    names = [branch.name for branch in group]
    others = ""
    if len(group) > 1:
        others = (
            f"; {', '.join(names)} train together: to go on without it give the others new names"
        )
    raise Diverged(
        f"not finite at update {n}: {', '.join(which)}. The last good checkpoint is kept; "
        f"lower optimizer.peak_value or set optimizer.clip_norm{others}",
        names,
    )
