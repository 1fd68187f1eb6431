"""The tree on disk: a directory for each branch.

    WORKDIR/branches/NAME/branch.json      what it is: its `ResolvedBranch`, and its siblings
    WORKDIR/branches/NAME/metrics.jsonl    a row for every update
    WORKDIR/branches/NAME/checkpoints/     the newest few, every fork point, the end
    WORKDIR/branches/NAME/snapshots/       parameters alone, for probes

A node is (branch, step). A child's first node is its parent's: nothing is copied, and a parent is
never written by its children. Reading takes no lock.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from etils import epath

from wsdjax.branches import metrics, records, registration
from wsdjax.branches.checkpoints import Checkpoints, DamagedCheckpoint
from wsdjax.branches.records import Records
from wsdjax.errors import ConfigError
from wsdjax.files import sweep
from wsdjax.lock import held
from wsdjax.training import state as states
from wsdjax.training.state import Place, State
from wsdjax.tree.branch import ResolvedBranch

T = TypeVar("T")


class BranchStore(Records):
    """The branches of one workdir.

    Args:
      workdir: a local directory; made when the first branch is.
      checkpoint_dir: where checkpoints go if not into the workdir: any path orbax can write,
        a bucket too.
      keep: how many of a branch's newest checkpoints stay beside its fork points and end.

    One that several processes train in is opened by `wsdjax.branches.shared.open_store`.
    """

    @staticmethod
    def tell(event: str, branch: str, step: int) -> None:
        """Called when the row of an update was `read`, and when `checkpoints` or `snapshots` are
        `written` and about to get their names. It does nothing: tests put theirs in its place."""

    def __init__(self, workdir: str | Path, checkpoint_dir: str | None = None, keep: int = 2):
        super().__init__(workdir)
        self._checkpoint_dir, self.keep = checkpoint_dir, keep
        self._home = self.workdir
        self.aside: set[tuple[str, int]] = set()
        """Nodes that were found damaged, and are to be made again."""
        self._opened: dict[tuple[str, str], Checkpoints] = {}
        self._read: dict[str, tuple[Any, list[dict[str, Any]]]] = {}

    may_be_home = True
    """Whether checkpoints that went elsewhere may since lie in the workdir."""
    leads = True
    """Whether this process keeps the records and the rows."""

    def agreed(self, tell: Callable[[], T], what: str) -> T:
        """``tell()``; of a store that several processes share, that of the one that leads."""
        return tell()

    def check_seen(self) -> None:
        """That all processes that share the store have the place for checkpoints before them."""

    def create(self, branch: ResolvedBranch, trained_with: Sequence[str] = ()) -> None:
        """Writes the record of a new branch, a root or one that starts from the node
        (branch.parent, branch.start), or raises as `registration.check_new`. It has no checkpoint
        until one is saved."""
        there = self._there([branch.parent])
        registration.check_new(there, branch, there.branches)
        self._check_place(branch.name)
        self.write(branch, trained_with or [branch.name], self._elsewhere(branch.name))

    fork = create

    def check(
        self, branches: Mapping[str, ResolvedBranch]
    ) -> list[tuple[ResolvedBranch, Sequence[str]]]:
        """The branches whose records `register` would write, and with which others each trains;
        raises as `registration.plan`."""
        there = self._there({branch.parent for branch in branches.values()})
        planned = registration.plan(there, branches)
        for branch, _ in planned:
            self._check_place(branch.name)
        return planned

    def register(self, branches: Mapping[str, ResolvedBranch]) -> None:
        """Makes the workdir hold these branches, writing the records of the new ones, or nothing
        if it raises as `check`.

        Which branches train together is decided here, once, and is part of their records.
        """
        for branch, trained_with in self.check(branches):
            self.write(branch, trained_with, self._elsewhere(branch.name))

    def _there(self, forked: Iterable[str]) -> registration.There:
        branches, records = self.branches(), self.records()
        siblings = {name: record["trained_with"] for name, record in records.items()}
        # In an order that all processes have, as a set has not.
        saved = {name: self.steps(name) for name in sorted(forked) if name in branches}
        return registration.There(self.workdir, branches, siblings, saved)

    def _check_place(self, name: str) -> None:
        records.check_empty(self.directory(name))
        if (place := self._elsewhere(name)) and place.exists():
            raise ConfigError(
                f"{place} exists, and belongs to another run: choose another place for checkpoints"
            )

    def metrics(self, name: str) -> metrics.Table:
        """The rows of a branch and of its ancestors up to their forks, as one table; a
        `DamagedFile` names those that are not what was written."""
        rows = [
            row
            for branch, start, stop in self.lineage(name)
            for row in self._rows(branch)
            if (start or -1) < row["step"] <= stop
        ]
        return metrics.table(rows)

    def check_rows(self, name: str) -> None:
        """That the rows of a branch are those that were written; else a `DamagedFile` tells."""
        self.agreed(lambda: self.metrics(name) and None, f"the rows of {name}")

    def _rows(self, name: str) -> list[dict[str, Any]]:
        """A branch's own, read again only if its file has changed or reaches a new checkpoint,
        since every lineage through a trunk asks for the trunk's."""
        path, start = self.directory(name) / "metrics.jsonl", self.record(name)["branch"]["start"]
        # Before the rows, which are written before a checkpoint. Not worth a journey to a bucket.
        saved = self._checkpoints(name)
        steps = saved.steps() if saved.is_local else []
        status = path.stat() if path.exists() else None
        stamp = (status and (status.st_size, status.st_mtime_ns), steps)
        if name not in self._read or self._read[name][0] != stamp:
            kept = metrics.read(path)
            if steps:
                recorded = self.recorded_rows(name, steps[-1])
                metrics.check_end(path, kept, start, steps[-1], recorded)
            self._read[name] = stamp, kept.rows
        return self._read[name][1]

    def steps(self, name: str) -> list[int]:
        """The steps of a branch's own complete checkpoints, ascending."""
        return self.agreed(self._checkpoints(name).steps, f"which checkpoints {name} has")

    def is_done(self, name: str) -> bool:
        """Whether the branch has the checkpoint of its end."""
        return self.record(name)["branch"]["end"] in self.steps(name)

    def save(self, name: str, state: State, rows: str = "") -> None:
        """Begins to save a node, with the checksum of the branch's `rows` so far; returns once the
        state may be donated.

        The snapshots that were begun before are whole by then: a branch that has a checkpoint has
        every snapshot up to it that it was to keep.

        Raises:
          OSError: if a save before this one failed, or this one was skipped.
        """
        self._checkpoints(name, "snapshots").wait()
        kept = {*self._checkpoints(name, "snapshots").steps(), *self._lost_snapshots(name)}
        self._checkpoints(name).save(state, {"rows": rows, "snapshots": sorted(kept)})

    def wait(self, *names: str) -> None:
        """Returns when the branches' last saves are complete on disk; raises if one failed."""
        for name in names:
            self._checkpoints(name).wait()

    def lost_snapshots(self, name: str) -> list[int]:
        """Those that the branch's newest checkpoint tells of and that are not there now."""
        lost = functools.partial(self._lost_snapshots, name)
        return self.agreed(lost, f"which snapshots {name} lost")

    def _lost_snapshots(self, name: str) -> list[int]:
        saved = self._checkpoints(name)
        facts = saved.facts(newest[0]) if (newest := saved.steps()[-1:]) else {}
        return sorted(
            {*facts.get("snapshots", ())} - {*self._checkpoints(name, "snapshots").steps()}
        )

    def place(self, name: str, kind: str = "checkpoints") -> epath.Path:
        """The directory of a branch's "checkpoints" or "snapshots", which may be in a bucket."""
        return self._checkpoints(name, kind).directory

    def snapshots(self, name: str) -> list[int]:
        """The steps of a branch's own, ascending."""
        found = self._checkpoints(name, "snapshots").steps
        return self.agreed(found, f"which snapshots {name} has")

    def recorded_rows(self, name: str, step: int) -> str:
        """The checksum of the branch's rows that its checkpoint keeps; "" if it keeps none."""
        return self._checkpoints(name).facts(step).get("rows", "")

    def restore(self, branch: str, step: int | None = None, place: Place | None = None) -> State:
        """The state at a node: leaves of `params` and `opt_state` are [R, ...].

        Args:
          branch: its name.
          step: completed updates; None for the branch's newest checkpoint. The nodes up to
            its fork are those of its ancestors.
          place: where it is to live; the default device if None.

        Raises:
          MissingNode: if there is no such branch or checkpoint.
          DamagedCheckpoint: if what is on disk is not what was saved.
        """
        resolved, steps = self.record(branch)["branch"], self.steps(branch)
        if step is None:
            step = steps[-1] if steps else resolved["start"]
        if resolved["parent"] and step <= resolved["start"] and step not in steps:
            return self.restore(resolved["parent"], step, place)
        return self._checkpoints(branch).load(step, place)

    def snapshot(self, name: str, state: State) -> None:
        """Begins to keep the parameters of a node, for probes; raises if those before were not
        kept."""
        self._checkpoints(name, "snapshots").save(states.parameters_alone(state))

    def nodes(self, name: str) -> list[int]:
        """The steps of a branch whose parameters can be read, ascending: of checkpoints, of
        snapshots, and of the ancestors' up to the fork."""
        found: set[int] = set()
        for branch, _, stop in self.lineage(name):
            found |= {s for s in (*self.steps(branch), *self.snapshots(branch)) if s <= stop}
        return sorted(found)

    def params(self, branch: str, step: int, place: Place | None = None) -> Any:
        """The parameters [R, ...] at a node, from a checkpoint or a snapshot, placed and raising as
        `restore` if there is neither, or not what was saved."""
        resolved = self.record(branch)["branch"]
        if step in self.snapshots(branch):
            try:
                return self._checkpoints(branch, "snapshots").load(step, place).params
            except DamagedCheckpoint as error:
                remedy = "bring it back, or move the branch's checkpoints away to train it again"
                raise DamagedCheckpoint(f"{error}; {remedy}") from error
        if resolved["parent"] and step <= resolved["start"] and step not in self.steps(branch):
            return self.params(resolved["parent"], step, place)
        return self.restore(branch, step, place).params

    def set_aside(self, name: str, step: int) -> None:
        """Takes a checkpoint out of use, renamed to `STEP.damaged`."""
        saved = self._checkpoints(name)
        saved.close()
        self.agreed(lambda: saved.set_aside(step), f"that {name}@{step} is set aside")
        self.aside.add((name, step))

    def discard_after(self, name: str, step: int) -> None:
        """Deletes the nodes of later steps, which training is about to make again."""
        for each in (self._checkpoints(name), self._checkpoints(name, "snapshots")):
            if self.agreed(each.steps, f"what {name} has")[-1:] > [step]:
                each.close()
                delete = functools.partial(each.discard_after, step)
                self.agreed(delete, f"that {name} goes back to {step}")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the workdir for one writing process, and the system frees it when that dies;
        raises `WorkdirBusy` if another holds it."""
        with held(self.workdir):
            self.sweep()
            try:
                yield
                for each in self._opened.values():
                    each.wait()
                    each.close()
            except BaseException:
                for each in self._opened.values():
                    with contextlib.suppress(Exception):  # what is raised already comes first
                        each.close()
                raise

    def sweep(self) -> None:
        """Deletes what processes that were killed have left half written."""
        places = ("figures", "branches/*", "branches/*/probes")
        sweep([self.workdir, *(each for place in places for each in self.workdir.glob(place))])

    def _checkpoints(self, name: str, kind: str = "checkpoints") -> Checkpoints:
        if (name, kind) not in self._opened:
            # Where the record says, so that a later command need not repeat --checkpoint_dir; but
            # they may have been brought home since.
            own = self._home / "branches" / name
            elsewhere = self.record(name)["checkpoints"]
            if self.may_be_home and any(own.glob("checkpoints/[0-9]*")):
                elsewhere = None
            directory = epath.Path(elsewhere or own / "checkpoints").parent / kind
            protected = functools.partial(self.protected, name)
            keep = self.keep if kind == "checkpoints" else None
            written = functools.partial(self.tell, f"{kind} written", name)
            self._opened[name, kind] = Checkpoints(name, directory, keep, protected, written)
        return self._opened[name, kind]

    def _elsewhere(self, name: str) -> epath.Path | None:
        if not self._checkpoint_dir:
            return None
        place = epath.Path(self._checkpoint_dir).expanduser() / name / "checkpoints"
        return place if "://" in str(place) else place.absolute()
