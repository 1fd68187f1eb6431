"""`branch.json`: what each branch is, and what made it."""

from __future__ import annotations

import dataclasses
import itertools
import typing
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from wsdjax.branches import provenance
from wsdjax.branches.checkpoints import MissingNode
from wsdjax.config import Branch, Experiment, is_name
from wsdjax.config.json import differences
from wsdjax.config.validation import check
from wsdjax.errors import ConfigError
from wsdjax.files import DamagedFile, read_json, write_json
from wsdjax.tree import rates as lineage
from wsdjax.tree.branch import ResolvedBranch
from wsdjax.wording import listed, shown

FORMAT, OLDEST = 3, 2
"""Format 2 had rows without checksums."""
_REMEDY = "bring it back, or move the branch's directory away to train it anew"


class Segment(NamedTuple):
    """The part of a lineage that `branch` contributes: its updates start + 1, ..., stop."""

    branch: str
    start: int
    stop: int


class Records:
    """The branches of a workdir, by their records.

    Args:
      workdir: a local directory; made when the first branch is.
    """

    def __init__(self, workdir: str | Path):
        self.workdir = Path(workdir).expanduser().absolute()

    def directory(self, name: str) -> Path:
        return self.workdir / "branches" / name

    def names(self) -> list[str]:
        """The branches, in the order in which they were made."""
        return list(self.branches())

    def branches(self) -> dict[str, ResolvedBranch]:
        """The branches, in the order in which they were made: parents come first.

        Raises:
          DamagedFile: for a branch without a record, or whose parent has none or does not reach
            the fork.
        """
        for directory in self.workdir.glob("branches/*/"):
            if not (directory / "branch.json").exists():
                check_empty(directory)
        records = [read(path) for path in self._files()]
        found = {
            record["branch"]["name"]: ResolvedBranch.from_json(record["branch"])
            for record in sorted(records, key=lambda record: record["order"])
        }
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
        """The content of `branch.json`.

        Raises:
          MissingNode: for a branch that does not exist, naming those that do.
        """
        path = self.directory(name) / "branch.json"
        if not (is_name(name) and path.exists()):
            there = listed(path.parent.name for path in self._files())
            raise MissingNode(f"no branch {shown(name)} in {self.workdir}; there are {there}")
        return read(path)

    def siblings(self, name: str) -> list[str]:
        """The branches that train together with this one, itself among them, in order."""
        return self.record(name)["trained_with"]

    def lineage(self, name: str) -> list[Segment]:
        """The segments from the initialisation to the end of a branch, root first.

        Raises:
          MissingNode: for a branch that does not exist.
        """
        self.record(name)  # or an error that tells which there are
        branches = self.branches()
        branch = branches[name]
        segments = [Segment(name, branch.start, branch.end)]
        while branch.parent:
            fork, branch = branch.start, branches[branch.parent]
            segments.insert(0, Segment(branch.name, branch.start, fork))
        return segments

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
        orders = {name: self.record(name)["order"] for name in branches}
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
    """A branch's record; its directory has the branch's name.

    Raises:
      DamagedFile: for anything else.
      ConfigError: for one of a format that is not read here.
    """
    record = read_json(path, _REMEDY)
    found = record.get("format")
    if isinstance(found, int) and found > 0 and not OLDEST <= found <= FORMAT:
        age = "a newer" if found > FORMAT else "an older"
        raise ConfigError(
            f"{path} has format {found}: written by {age} wsdjax; this one reads {OLDEST} to "
            f"{FORMAT}"
        )
    if wrong := _wrong(record, path.parent.name):
        raise DamagedFile(f"{path}: {wrong}; {_REMEDY}")
    return record


def check_empty(directory: Path) -> None:
    """That nothing lies there of a branch whose record is gone.

    Raises:
      DamagedFile: if something does.
    """
    there = directory.iterdir() if directory.exists() else ()
    if left := sorted(path.name for path in there if not _is_nothing(path)):
        raise DamagedFile(
            f"{directory} has {', '.join(left[:3])} and no branch.json, which tells what they are "
            f"of; {_REMEDY}"
        )


def _is_nothing(path: Path) -> bool:
    return path.name.endswith(".tmp") or (path.is_dir() and not any(path.iterdir()))


_KINDS: dict[str, Any] = {
    "format": int,
    "order": int,
    "trained_with": list,
    "branch": dict,
    "checkpoints": str | None,
    "differs_from_parent": dict,
    "at_the_fork": dict,
    "versions": dict,
    "machine": str,
    "data_revision": int,
    "data_facts": dict,
}
_PIECES = {
    name: kind
    for name, kind in typing.get_type_hints(Experiment).items()
    if name in ("model", "data", "optimizer", "averages")
} | {"schedule": typing.get_type_hints(Branch)["schedule"]}


def _wrong(record: Mapping[str, Any], name: str) -> str | None:
    """Tells what keeps this from being the record of a branch of that name."""
    for key, kind in _KINDS.items():
        if not isinstance(value := record.get(key), kind):
            return f"is no record of a branch ({key} is {value!r:.40})"
    if not all(isinstance(each, str) for each in record["trained_with"]) or record["format"] < 1:
        return "is no record of a branch (trained_with holds names, and format is above 0)"
    try:
        branch = ResolvedBranch.from_json(record["branch"])
        for piece, kind in _PIECES.items():
            check(f"branch.{piece}", getattr(branch, piece), kind, {})
    except (ConfigError, KeyError, TypeError, ValueError, AttributeError) as error:
        return f"is no record of a branch ({error!r:.80})"
    for f in dataclasses.fields(ResolvedBranch):
        value = getattr(branch, f.name)
        if f.type in ("int", "str") and type(value).__name__ != f.type:
            return f"is no record of a branch (branch.{f.name} is {value!r:.40})"
    return None if branch.name == name else f"is the record of {branch.name!r:.40}"
