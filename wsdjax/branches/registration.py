"""Decides what may be added to a workdir, and which of its branches train together.

A plan is a function of what is there and what is asked; the store carries it out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from wsdjax import tree
from wsdjax.branches.checkpoints import MissingNode
from wsdjax.config.json import differences
from wsdjax.errors import ConfigError
from wsdjax.tree.branch import ResolvedBranch


class There(NamedTuple):
    """A workdir as it is."""

    workdir: Path
    branches: Mapping[str, ResolvedBranch]
    siblings: Mapping[str, Sequence[str]]
    """The branches that each trains together with, itself among them."""
    saved: Mapping[str, Sequence[int]]
    """The steps of the checkpoints of those that are to be forked, ascending."""


def plan(
    there: There, asked: Mapping[str, ResolvedBranch]
) -> list[tuple[ResolvedBranch, Sequence[str]]]:
    """The branches whose records are to be written, in order, and with which others each trains.

    Raises:
      ConfigError: if a branch exists and now means something else, listing every field, or if
        its name or its siblings cannot be.
      MissingNode: for a fork from a node that is not there and will not be.
    """
    _check_unchanged(there, asked)
    every = {**there.branches, **asked}
    new = {name: branch for name, branch in asked.items() if name not in there.branches}
    for branch in new.values():
        check_new(there, branch, every)
    # A registration that was cut short is completed as it was begun.
    trained_with = {name: names for names in there.siblings.values() for name in names}
    for begun in {tuple(names) for names in trained_with.values()}:
        members = {name: every[name] for name in begun if name in every}
        if len(members) < len(begun) or len(tree.groups(members)) > 1:
            raise ConfigError(
                f"{', '.join(begun)} were begun in {there.workdir} as branches that train "
                "together: declare all of them, as they were, or use another workdir"
            )
    for group in tree.groups({n: b for n, b in new.items() if n not in trained_with}):
        names = [branch.name for branch in group]
        trained_with |= dict.fromkeys(names, names)
    return [(branch, trained_with[name]) for name, branch in new.items()]


def check_new(there: There, branch: ResolvedBranch, parents: Mapping[str, ResolvedBranch]) -> None:
    """That a new branch may have its name, and can start from its node of one of `parents`; else a
    `ConfigError`, or a `MissingNode` if the parent does not exist or does not reach that step."""
    name = branch.name
    if name in there.branches:
        raise ConfigError(f"the branch {name!r} exists already in {there.workdir}")
    if alike := [each for each in there.branches if each.casefold() == name.casefold()]:
        raise ConfigError(
            f"the branch {name!r} would have the directory of {alike[0]!r} where disks do not "
            "tell small letters from capitals: choose another name"
        )
    if not branch.parent:
        return
    if branch.parent not in parents:
        raise MissingNode(f"no branch {branch.parent!r}; there are {', '.join(parents) or 'none'}")
    parent = parents[branch.parent]
    if not parent.start < branch.start <= parent.end:
        steps = f"{parent.start + 1} to {parent.end}"
        raise MissingNode(f"{branch.parent!r} has the steps {steps}, not {branch.start}")
    saved = there.saved.get(branch.parent)
    if saved and saved[-1] > branch.start and branch.start not in saved:
        steps = ", ".join(map(str, saved))
        nearest = min(saved, key=lambda step: abs(step - branch.start))
        raise MissingNode(
            f"{branch.parent}@{branch.start} was not kept; there are steps {steps}, the nearest is "
            f"{branch.parent}@{nearest}"
        )
    for field in ("model", "seed", "seeds"):
        old, new = getattr(parent, field), getattr(branch, field)
        if old != new:
            raise ConfigError(
                f"{name!r} cannot go on from {branch.parent!r}: {field} is {new!r}, "
                f"the parent's is {old!r}"
            )


def _check_unchanged(there: There, asked: Mapping[str, ResolvedBranch]) -> None:
    changed: dict[str, list[str]] = {}
    for name, old in there.branches.items():
        if name in asked:
            for path, was, now in differences(old.to_json(), asked[name].to_json()):
                changed.setdefault(f"{path} is {was!r} there, {now!r} now", []).append(name)
    if changed:
        rows = "; ".join(f"{what} ({', '.join(names)})" for what, names in changed.items())
        raise ConfigError(
            f"branches in {there.workdir} mean something else: {rows}. "
            "Give the new branches other names, or use another workdir"
        )
