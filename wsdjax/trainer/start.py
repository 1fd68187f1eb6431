"""How a group begins: from a checkpoint, from its parent's node, or from nothing."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, NamedTuple

import jax
import numpy as np

from wsdjax import interop
from wsdjax.branches import BranchStore, DamagedCheckpoint, MissingNode
from wsdjax.config import Averages
from wsdjax.placement import mesh
from wsdjax.trainer.group import Group
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
    """The newest checkpoint to go on from, later ones are made again; None for any."""


def begin(store: BranchStore, group: Group, newest: int | None = None) -> State | Job:
    """The state in which a group begins, and nothing later is there any more; or what must be
    trained first, as `nearest` tells."""
    begun = nearest(store, group, newest)
    if isinstance(begun, State):  # only now: what cannot begin loses nothing
        for name in group.names:
            store.discard_after(name, int(begun.step))
    return begun


def nearest(store: BranchStore, group: Group, newest: int | None = None) -> State | Job:
    """The state of the newest good checkpoint that all of the group have, up to `newest` if that is
    given; else one forked from their parent's node, else the initialisation. Or what must be
    trained first for that node to be there; a `MissingNode` tells of one that is gone, and its
    branch past it.
    """
    first, names, place = group.first, group.names, group.place_of_one

    def saved(name: str) -> set[int]:
        return {step for step in store.steps(name) if newest is None or step <= newest}

    # Only reading a checkpoint tells whether it is good.
    while common := set.intersection(*map(saved, names)):
        step = max(common)
        own = [state for name in names if (state := read(store, name, step, place))]
        if len(own) == len(names):
            return own[0] if len(own) == 1 else states.made(states.join, group.placed, own)
    if not (parent := first.parent):
        return _from_nothing(group)
    fork, there = first.start, store.steps(parent)
    if fork in there and (node := read(store, parent, fork, place)):
        before = store.branches()[parent].averages

        def from_node(node: State) -> State:
            return states.join([forked(node, branch, before) for branch in group.branches])

        return states.made(from_node, group.placed, node)
    siblings = store.siblings(parent)
    if (parent, fork) in store.aside:
        # What was made after that node is made again too: to its end.
        return Job(siblings, newest=fork)
    if max(there, default=0) > fork:
        raise MissingNode(
            f"{first.name!r} cannot start: no checkpoint {parent}@{fork}; the steps saved are "
            f"{listed(map(str, there))}. Fork it from a step that is there, or delete the later "
            f"ones of {parent!r} to train it again"
        )
    log.info("%s is trained to %d first, for %s", parent, fork, first.name)
    return Job(siblings, until=fork)


def _from_nothing(group: Group) -> State:
    first, model = group.first, group.program.model
    every = [seed for branch in group.branches for seed in branch.replicate_seeds]
    seeds = np.asarray(every, np.uint32)
    if not first.weights:
        return group.compiled.creation(first, group.placed, len(seeds))(seeds)

    def make(seeds: Any, weights: Any) -> State:
        given = dataclasses.replace(model, init=lambda _: weights)
        return states.create(given, seeds, first.averages)

    weights = interop.load_huggingface(first.weights)[1]
    weights = jax.tree.map(mesh.put, weights, group.placed.of_one(weights))
    return states.made(make, group.placed, seeds, weights)


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
