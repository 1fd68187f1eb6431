"""How a group begins: first a plan, made by reading what is there, then the state.

Only reading a checkpoint tells whether it is good, so that a plan holds what was read.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from jax.sharding import Sharding

from wsdjax import interop
from wsdjax.branches import BranchStore, DamagedCheckpoint, MissingNode
from wsdjax.config import Averages
from wsdjax.trainer.group import Group
from wsdjax.training import state as states
from wsdjax.training.state import State
from wsdjax.tree.branch import ResolvedBranch
from wsdjax.wording import listed

log = logging.getLogger("wsdjax")


class Job(NamedTuple):
    """A group that is to be trained."""

    names: list[str]
    until: int | None = None
    """The fork at which to stop; None for the end."""
    newest: int | None = None
    """The newest checkpoint to go on from: later ones are made again. None for any."""


class Start(NamedTuple):
    """Where a group begins."""

    step: int
    own: list[State]
    """Its branches' states there; none at a fork or an initialisation."""
    node: State | None = None
    """The parent's, which it forks from."""


def begin(store: BranchStore, group: Group, job: Job) -> State | Job:
    """The state in which the group begins; or what must be trained first.

    Raises:
      MissingNode: if the node that it forks from is gone and its branch is past it.
    """
    found = plan(store, group, job)
    return found if isinstance(found, Job) else carried_out(store, group, found)


def plan(store: BranchStore, group: Group, job: Job) -> Start | Job:
    """The newest good checkpoint that all of the group have, else the node they fork from, else
    the initialisation; or what must be trained first for that node to be there."""
    first = group.first
    # A part of several may have too few replicates for the group's own sharding.
    placed = group.placed.replicates if len(group.branches) == 1 else group.placed.everywhere
    while common := set.intersection(
        *({s for s in store.steps(n) if job.newest is None or s <= job.newest} for n in job.names)
    ):
        own = []
        for name in job.names:
            if (state := read(store, name, max(common), placed)) is None:
                break
            own.append(state)
        else:
            return Start(max(common), own)
    parent, fork = first.parent, first.start
    if not parent:
        return Start(0, [])
    if fork in (there := store.steps(parent)) and (node := read(store, parent, fork, placed)):
        return Start(fork, [], node)
    if (parent, fork) in store.aside:
        # What was made after that node is made again too: to its end.
        return Job(store.siblings(parent), newest=fork)
    if max(there, default=0) > fork:
        raise MissingNode(
            f"{first.name!r} cannot start: no checkpoint {parent}@{fork}; the steps saved are "
            f"{listed(map(str, there))}. Fork it from a step that is there, or delete the later "
            f"ones of {parent!r} to train it again"
        )
    log.info("%s is trained to %d first, for %s", parent, fork, first.name)
    return Job(store.siblings(parent), until=fork)


def carried_out(store: BranchStore, group: Group, start: Start) -> State:
    """The state there, where the group is trained; what is later is deleted."""
    for name in group.names:
        store.discard_after(name, start.step)
    first = group.first
    if start.node:
        before = store.branches()[first.parent].averages
        parts = [forked(start.node, branch, before) for branch in group.branches]
    elif not (parts := start.own):
        seeds = [seed for branch in group.branches for seed in branch.replicate_seeds]
        model = group.program.model
        model = interop.starting_from(first.weights, model) if first.weights else model
        parts = [states.create(model, seeds, first.averages)]
    return states.place(states.join(parts) if len(parts) > 1 else parts[0], group.placed)


def forked(node: State, branch: ResolvedBranch, before: Averages) -> State:
    """The state in which a branch begins, from its parent's node, whose averages are `before`."""
    if branch.reset_optimizer:
        node = states.with_new_moments(node)
    return node if branch.averages == before else states.with_new_averages(node, branch.averages)


def read(store: BranchStore, name: str, step: int, placed: Sharding) -> State | None:
    """The checkpoint; None if it is damaged, in which case it is set aside."""
    try:
        return store.restore(name, step, placed)
    except DamagedCheckpoint as error:
        log.warning("%s; using the one before it", error)
        store.set_aside(name, step)
        return None
