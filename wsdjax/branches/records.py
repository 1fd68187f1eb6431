"""`branch.json`: what a branch is, and what made it."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsdjax.branches import provenance
from wsdjax.config import Branch, Experiment
from wsdjax.config.json import differences
from wsdjax.config.validation import check
from wsdjax.errors import ConfigError
from wsdjax.files import DamagedFile, read_json, write_json
from wsdjax.tree import rates as lineage
from wsdjax.tree.branch import ResolvedBranch

FORMAT, OLDEST = 3, 2
"""Format 2 had rows without checksums."""
_REMEDY = "bring it back, or move the branch's directory away to train it anew"


def write(
    path: Path, branch: ResolvedBranch, branches: Mapping[str, ResolvedBranch], **more: Any
) -> None:
    """Writes the record of a branch; `branches` has it and its ancestors, `more` what else is kept:
    `order`, `trained_with` and `checkpoints`."""
    parent = branches[branch.parent].to_json() if branch.parent else {}
    record = {
        "format": FORMAT,
        "branch": branch.to_json(),
        **more,
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
    write_json(path, record)


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


def branches(workdir: Path, records: Mapping[str, Mapping[str, Any]]) -> dict[str, ResolvedBranch]:
    """What each branch of a workdir is, by its records: parents come first.

    Raises:
      DamagedFile: for a branch whose parent has no record, or one that does not reach the fork.
    """
    in_order = sorted(records.values(), key=lambda record: record["order"])
    found = {each["branch"]["name"]: ResolvedBranch.from_json(each["branch"]) for each in in_order}
    for branch in found.values():
        parent = found.get(branch.parent)
        if branch.parent and not (parent and parent.start < branch.start <= parent.end):
            own, lost = (
                workdir / "branches" / n / "branch.json" for n in (branch.name, branch.parent)
            )
            raise DamagedFile(
                f"{own}: goes on from {branch.parent!r} at {branch.start}, of which {lost} does "
                f"not tell; {_REMEDY}"
            )
    return found


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
    """What keeps this from being the record of a branch of that name."""
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
