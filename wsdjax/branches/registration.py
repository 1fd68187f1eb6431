"""What may be added to a workdir, and which of its branches train together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from wsdjax import tree
from wsdjax.branches.checkpoints import MissingNode
from wsdjax.config.json import differences
from wsdjax.errors import ConfigError
from wsdjax.tree.branch import ResolvedBranch

if TYPE_CHECKING:
    from wsdjax.branches.store import BranchStore


def check_fork(
    store: BranchStore, branch: ResolvedBranch, parents: Mapping[str, ResolvedBranch]
) -> None:
    """That a branch can start from the node (branch.parent, branch.start), of one of `parents`.

    Raises:
      MissingNode, ConfigError: as `BranchStore.fork`.
    """
    existing = store.branches()
    if branch.parent not in parents:
        raise MissingNode(f"no branch {branch.parent!r}; there are {', '.join(parents) or 'none'}")
    parent = parents[branch.parent]
    if not parent.start < branch.start <= parent.end:
        steps = f"{parent.start + 1} to {parent.end}"
        raise MissingNode(f"{branch.parent!r} has the steps {steps}, not {branch.start}")
    saved = store.steps(branch.parent) if branch.parent in existing else []
    if saved and saved[-1] > branch.start and branch.start not in saved:
        there = ", ".join(map(str, saved))
        nearest = min(saved, key=lambda step: abs(step - branch.start))
        raise MissingNode(
            f"{branch.parent}@{branch.start} was not kept; there are steps {there}, the nearest is "
            f"{branch.parent}@{nearest}"
        )
    for name in ("model", "seed", "seeds"):
        old, new = getattr(parent, name), getattr(branch, name)
        if old != new:
            raise ConfigError(
                f"{branch.name!r} cannot go on from {branch.parent!r}: {name} is {new!r}, "
                f"the parent's is {old!r}"
            )


def groups(store: BranchStore, branches: Mapping[str, ResolvedBranch]) -> dict[str, list[str]]:
    """The names that train together with each of the branches, old and new.

    Raises:
      ConfigError: if a branch exists and now means something else, listing every field.
      MissingNode: for a fork from a node that is not there and will not be.
    """
    existing = store.branches()
    changed: dict[str, list[str]] = {}
    for name in [name for name in branches if name in existing]:
        for path, old, new in differences(existing[name].to_json(), branches[name].to_json()):
            changed.setdefault(f"{path} is {old!r} there, {new!r} now", []).append(name)
    if changed:
        rows = "; ".join(f"{what} ({', '.join(names)})" for what, names in changed.items())
        raise ConfigError(
            f"branches in {store.workdir} mean something else: {rows}. "
            "Give the new branches other names, or use another workdir"
        )
    every = {**existing, **branches}
    for name, branch in branches.items():
        if name not in existing:
            store.check_new(name)
            if branch.parent:
                check_fork(store, branch, every)
    # A registration that was cut short is completed as it was begun.
    trained_with = {n: store.siblings(name) for name in existing for n in store.siblings(name)}
    for begun in {tuple(names) for names in trained_with.values()}:
        members = {name: every[name] for name in begun if name in every}
        if len(members) < len(begun) or len(tree.groups(members)) > 1:
            raise ConfigError(
                f"{', '.join(begun)} were begun in {store.workdir} as branches that train "
                "together: declare all of them, as they were, or use another workdir"
            )
    new = {name: branch for name, branch in branches.items() if name not in trained_with}
    for group in tree.groups(new):
        names = [branch.name for branch in group]
        trained_with |= dict.fromkeys(names, names)
    return trained_with
