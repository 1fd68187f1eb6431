"""How a group begins: first a plan, made by reading what is there, then the state.

Only reading a checkpoint tells whether it is good, so that a plan holds what was read.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, NamedTuple

import jax
import numpy as np

from wsdjax import interop
from wsdjax.branches import BranchStore, DamagedCheckpoint, MissingNode
from wsdjax.config import Averages
from wsdjax.trainer.group import Group, place_of_one
from wsdjax.training import state as states
from wsdjax.training.state import Place, State
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
    if isinstance(found, Job):
        return found
    for name in group.names:  # what is later is made again
        store.discard_after(name, found.step)
    return carried_out(store, group, found)


def plan(store: BranchStore, group: Group, job: Job) -> Start | Job:
    """The newest good checkpoint that all of the group have, else the node they fork from, else
    the initialisation; or what must be trained first for that node to be there."""
    first = group.first
    place = place_of_one(group.branches)
    while common := set.intersection(
        *({s for s in store.steps(n) if job.newest is None or s <= job.newest} for n in job.names)
    ):
        own = []
        for name in job.names:
            if (state := read(store, name, max(common), place)) is None:
                break
            own.append(state)
        else:
            return Start(max(common), own)
    parent, fork = first.parent, first.start
    if not parent:
        return Start(0, [])
    if fork in (there := store.steps(parent)) and (node := read(store, parent, fork, place)):
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
    """The state there, where the group is trained."""
    first, model = group.first, group.program.model
    if len(start.own) == 1:
        return start.own[0]
    if start.own:
        return states.made(states.join, group.placed, start.own)
    if start.node:
        before = store.branches()[first.parent].averages

        def from_node(node: State) -> State:
            return states.join([forked(node, branch, before) for branch in group.branches])

        return states.made(from_node, group.placed, start.node)
    seeds = [seed for branch in group.branches for seed in branch.replicate_seeds]

    def from_nothing(seeds: Any, weights: Any) -> State:
        init = (lambda _: weights) if first.weights else model.init
        return states.create(dataclasses.replace(model, init=init), seeds, first.averages)

    weights = interop.load_huggingface(first.weights)[1] if first.weights else {}
    weights = jax.device_put(weights, group.placed.of_parts(weights))
    return states.made(from_nothing, group.placed, np.asarray(seeds, np.uint32), weights)


def forked(node: State, branch: ResolvedBranch, before: Averages) -> State:
    """The state in which a branch begins, from its parent's node, whose averages are `before`."""
    if branch.reset_optimizer:
        node = states.with_new_moments(node)
    return node if branch.averages == before else states.with_new_averages(node, branch.averages)


def read(store: BranchStore, name: str, step: int, place: Place) -> State | None:
    """The checkpoint; None if it is damaged, in which case it is set aside."""
    try:
        return store.restore(name, step, place)
    except DamagedCheckpoint as error:
        log.warning("%s; using the one before it", error)
        store.set_aside(name, step)
        return None
