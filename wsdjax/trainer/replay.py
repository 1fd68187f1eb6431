"""Nodes that were not kept, made again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from wsdjax.branches import BranchStore, MissingNode, workdir
from wsdjax.trainer import preflight, start
from wsdjax.trainer.group import Group
from wsdjax.trainer.start import Job
from wsdjax.training.compiled import Compiled
from wsdjax.training.state import State


def replay(store: BranchStore, name: str, steps: Sequence[int]) -> Iterator[tuple[int, State]]:
    """The states of a branch after some updates, each from the nearest checkpoint before it.

    They are what they were, to the bit, with the software and on the devices that they were trained
    with, of which others are warned of: an update is a function of the state and its number, and
    siblings are replayed in one program, as they were trained. Nothing is written but that a
    damaged checkpoint is set aside.

    Args:
      store: the workdir's, locked if something else may train there.
      name: the branch's.
      steps: completed updates, of the branch or of those that it was forked from.

    Yields:
      (step, state) in ascending order; the next one takes the memory of the one before.

    Raises:
      ConfigError: if the data are not those that the branch was trained on.
      MissingNode: for a step beyond the branch's end, or before a fork whose node is gone.
    """
    asked, branches = sorted(set(steps)), store.branches()
    compiled = Compiled(workdir.mesh_of(store.workdir, branches[name]))
    end = branches[name].end
    if asked and not 0 <= asked[0] <= asked[-1] <= end:
        raise MissingNode(f"{name} has the updates 0 to {end:,}, not {asked[-1]:,}")
    for branch, after, stop in store.lineage(name):
        mine = [s for s in asked if (after or -1) < s <= stop]
        if not mine:
            continue
        preflight.check_same_data(store, branches[branch], branches[branch])
        preflight.warn_of_other_software(store, branch)
        group = Group.of(store, store.siblings(branch), compiled)
        state: State | None = None
        for step in mine:
            saved = [s for s in store.steps(branch) if s <= step]
            if state is None or max(saved, default=0) > int(state.step):
                begun = start.nearest(store, group, step)
                if isinstance(begun, Job):
                    raise MissingNode(
                        f"{branch}@{step:,} cannot be made again: the node that it was forked from "
                        "is not there"
                    )
                state = begun
            n = int(state.step) + 1
            while n <= step:
                count = min(group.reach(n), step + 1 - n)
                state, _ = group.advance(state, n, count)
                n += count
            yield step, next(part for owner, part in group.parts(state) if owner == branch)
