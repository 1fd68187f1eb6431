"""`branch.json`: what each branch is, and what made it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from wsdjax.branches import provenance
from wsdjax.branches.checkpoints import MissingNode
from wsdjax.config import is_name
from wsdjax.config.json import differences
from wsdjax.config.validation import check
from wsdjax.errors import ConfigError
from wsdjax.files import DamagedFile, read_json, write_json
from wsdjax.tree import rates as lineage
from wsdjax.tree.branch import ResolvedBranch
from wsdjax.wording import listed, shown

FORMAT, OLDEST = 3, 2
"""Format 2 had rows without checksums."""
_FIELDS: dict[str, Any] = {
    "order": int,
    "trained_with": tuple[str, ...],
    "branch": dict,
    "checkpoints": str | None,
    "differs_from_parent": dict,
    "at_the_fork": dict,
    "versions": dict,
    "machine": str,
    "data_revision": int,
    "data_facts": dict,
}
_REMEDY = "bring it back, or move the branch's directory away to train it anew"


class Segment(NamedTuple):
    """The part of a lineage that `branch` contributes: its updates start + 1, ..., stop."""

    branch: str
    start: int
    stop: int


class Records:
    """The branches of a workdir, by their records."""

    def __init__(self, workdir: str | Path):
        self.workdir = Path(workdir).expanduser().absolute()

    def directory(self, name: str) -> Path:
        return self.workdir / "branches" / name

    def names(self) -> list[str]:
        """The branches, in the order in which they were made."""
        return list(self.records())

    def records(self) -> dict[str, dict[str, Any]]:
        """The content of every `branch.json`, in the order in which the branches were made; a
        `DamagedFile` tells of a branch without one, or whose one is none."""
        for directory in self.workdir.glob("branches/*/"):
            if not (directory / "branch.json").exists():
                check_empty(directory)
        found = [read(path) for path in self._files()]
        return {each["branch"]["name"]: each for each in sorted(found, key=lambda r: r["order"])}

    def branches(self) -> dict[str, ResolvedBranch]:
        """The branches, in the order in which they were made, parents first; raises as `records`,
        and for one whose parent is not there or does not reach the fork."""
        records = self.records()
        found = {n: ResolvedBranch.from_json(each["branch"]) for n, each in records.items()}
        for branch in found.values():
            parent = found.get(branch.parent)
            if branch.parent and not (parent and parent.start < branch.start <= parent.end):
                own, lost = (
                    self.directory(n) / "branch.json" for n in (branch.name, branch.parent)
                )
                raise DamagedFile(
                    f"{own}: goes on from {branch.parent!r} at {branch.start}, of which {lost} "
                    f"does not tell; {_REMEDY}"
                )
        return found

    def record(self, name: str) -> dict[str, Any]:
        """The content of `branch.json`; for a branch that does not exist a `MissingNode` names
        those that do."""
        path = self.directory(name) / "branch.json"
        if not (is_name(name) and path.exists()):
            there = listed(path.parent.name for path in self._files())
            raise MissingNode(f"no branch {shown(name)} in {self.workdir}; there are {there}")
        return read(path)

    def siblings(self, name: str) -> list[str]:
        """The branches that train together with this one, itself among them, in order."""
        return self.record(name)["trained_with"]

    def lineage(self, name: str) -> list[Segment]:
        """The segments from the initialisation to the end of a branch, root first; raises as
        `record`."""
        stop = self.record(name)["branch"]["end"]  # or an error that tells which there are
        branches, segments = self.branches(), []
        while name:
            branch = branches[name]
            segments.append(Segment(name, branch.start, stop))
            name, stop = branch.parent, branch.start
        return segments[::-1]

    def owner(self, name: str, step: int) -> str:
        """The branch of the lineage that made the node."""
        return next(each.branch for each in self.lineage(name) if step <= each.stop)

    def protected(self, name: str) -> set[int]:
        """The steps whose checkpoints stay: the branch's end and every fork from it."""
        branches = self.branches()
        return {branches[name].end} | {e.start for e in branches.values() if e.parent == name}

    def write(
        self, branch: ResolvedBranch, trained_with: Sequence[str], checkpoints: PathLike | None
    ) -> None:
        """Writes the record of a new branch, with its siblings and where its checkpoints go if
        not beside it."""
        branches = self.branches()
        orders = {name: record["order"] for name, record in self.records().items()}
        # A branch that is made again takes its old place, but none before its parent's.
        places = itertools.count(orders.get(branch.parent, -1) + 1)
        order = next(place for place in places if place not in orders.values())
        branches[branch.name] = branch
        parent = branches[branch.parent].to_json() if branch.parent else {}
        record = {
            "format": FORMAT,
            "branch": branch.to_json(),
            "order": order,
            "trained_with": list(trained_with),
            "checkpoints": checkpoints and str(checkpoints),
            "differs_from_parent": {
                field: {"parent": old, "here": new}
                for field, old, new in differences(parent, branch.to_json())
                if parent and field not in ("name", "parent", "start", "end")
            },
            "at_the_fork": lineage.at_the_fork(branch, branches),
            "versions": provenance.versions(),
            "machine": provenance.machine(),
            "data_revision": branch.data.revision,
            "data_facts": dict(branch.data.describe().facts),
        }
        self.directory(branch.name).mkdir(parents=True, exist_ok=True)
        write_json(self.directory(branch.name) / "branch.json", record)

    def _files(self) -> list[Path]:
        return sorted(self.workdir.glob("branches/*/branch.json"))


def read(path: Path) -> dict[str, Any]:
    """A branch's record, in the directory of its name; a `DamagedFile` tells of anything else, a
    `ConfigError` of a format that is not read here."""
    record, name = read_json(path, _REMEDY), path.parent.name
    try:
        found: int = check("format", record.get("format"), int, {"ge": 1})
        if known := OLDEST <= found <= FORMAT:
            for key, kind in _FIELDS.items():
                check(key, record.get(key), kind)
            branch = ResolvedBranch.from_json(record["branch"])
    except ConfigError as error:
        raise DamagedFile(f"{path}: is no record of a branch ({error}); {_REMEDY}") from None
    if not known:
        age = "a newer" if found > FORMAT else "an older"
        raise ConfigError(
            f"{path} has format {found}: written by {age} wsdjax; this one reads {OLDEST} to "
            f"{FORMAT}"
        )
    if branch.name != name:
        raise DamagedFile(f"{path}: is the record of {branch.name!r:.40}; {_REMEDY}")
    return record


def check_empty(directory: Path) -> None:
    """That nothing lies there of a branch whose record is gone; else a `DamagedFile` tells."""
    there = [*directory.iterdir()] if directory.exists() else []
    empty = {path for path in there if path.is_dir() and not any(path.iterdir())}
    if left := sorted(p.name for p in there if p not in empty and p.suffix != ".tmp"):
        raise DamagedFile(
            f"{directory} has {', '.join(left[:3])} and no branch.json, which tells what they are "
            f"of; {_REMEDY}"
        )
