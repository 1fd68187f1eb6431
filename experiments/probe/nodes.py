"""Nodes of a run as they are named on a command line, and the parameters along them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax

from wsdjax import tree
from wsdjax.branches import BranchStore, MissingNode, workdir
from wsdjax.config import describe_all
from wsdjax.config.lengths import updates
from wsdjax.errors import ConfigError
from wsdjax.placement.mesh import Shardings
from wsdjax.trainer import replay
from wsdjax.wording import listed, shortened

_KEPT = 2**30
"""Bytes of iterates that stay in memory."""


def parse_node(text: str, store: BranchStore) -> tuple[str, list[int]]:
    """The branch and the steps that a node or a range of nodes names: BRANCH, its last;
    BRANCH@STEP; BRANCH@FIRST:LAST, the two and all that are kept between them;
    BRANCH@FIRST:LAST:EVERY, all of FIRST, FIRST + EVERY, ... up to LAST. A step may be a length, as
    in a config: "80%" of the run's.

    Raises:
      ConfigError, MissingNode: for what is no node, or has not been trained.
    """
    branch, at, range_ = text.partition("@")
    said = f"--node={shortened(text)}"
    if branch not in (there := store.names()):
        known = shortened(", ".join(there) or "none")
        raise MissingNode(f"{said}: no branch {shortened(branch)!r}; there are {known}")
    nodes = store.nodes(branch)
    if not nodes:
        raise ConfigError(f"{said}: {branch} has no node yet")
    if not at:
        return branch, [nodes[-1]]
    steps = [_step(part, said, store, branch) for part in range_.split(":")]
    if len(steps) > 3:
        raise ConfigError(f"{said}: write BRANCH, BRANCH@STEP or BRANCH@STEP:STEP[:EVERY]")
    first, last = steps[0], steps[min(1, len(steps) - 1)]
    if last < first:
        raise ConfigError(f"{said}: the range goes backwards, from {first} to {last}")
    if last > nodes[-1]:
        raise ConfigError(f"{said}: no such node; {branch} has been trained to {nodes[-1]}")
    if len(steps) < 3:
        return branch, sorted({first, last, *(step for step in nodes if first <= step <= last)})
    if not steps[2]:
        raise ConfigError(f"{said}: EVERY is 0, must be 1 or more")
    return branch, [*range(first, last + 1, steps[2])]


def _step(text: str, said: str, store: BranchStore, branch: str) -> int:
    if text.isdecimal() and len(text) < 16:
        return int(text)
    resolved, experiment = store.branches()[branch], workdir.experiment_of(store.workdir)
    sets = [resolved.data, *(experiment.data_sets() if experiment else [])]
    described = describe_all(sets if "epoch" in text else [])
    length = tree.run_length(experiment, described) if experiment else None
    one = tree.units(resolved.data, resolved.batch_size, length, described)
    try:
        return updates(text, one)
    except ValueError as error:
        form = "write BRANCH, BRANCH@STEP or BRANCH@STEP:STEP[:EVERY]"
        raise ConfigError(f"{said}: {form}; {error}") from None


def make_again(store: BranchStore, branch: str, steps: Sequence[int]) -> None:
    """Keeps the parameters of those nodes that are not kept, by training to them once more.

    Raises:
      WorkdirBusy: if another process writes there.
      MissingNode: as `wsdjax.trainer.replay`.
    """
    if not (lacking := sorted({*steps} - {*store.nodes(branch)})):
        return
    which = listed(map(str, lacking))
    print(
        f"{branch}@{which}: not kept, and made again by training to it once more", file=sys.stderr
    )
    with store.lock():
        for step, state in replay(store, branch, lacking):
            store.snapshot(store.owner(branch, step), state)


class Iterates(Sequence):
    """Parameters at each step, read when they are asked for."""

    def __init__(self, read: Callable[[int], Any], steps: list[int]):
        self._read, self._steps = read, steps

    def __len__(self):
        return len(self._steps)

    def __getitem__(self, i):
        if isinstance(i, slice):
            return Iterates(self._read, self._steps[i])
        return self._read(self._steps[i])


def of_one(params: Any, replicate: int, placed: Shardings) -> Any:
    """One replicate of what is [R, ...], each leaf where `placed` has it."""
    found = jax.tree.map(lambda leaf: leaf[replicate], params)
    # Not by a function of its own, which would be compiled for every node.
    return found if placed.mesh.size == 1 else jax.device_put(found, placed.of_one(found))


def iterates(
    params: Callable[[int], Any], steps: list[int], replicate: int, placed: Shardings
) -> Iterates:
    """One replicate's, of the parameters [R, ...] at a step. The latest are kept, a gigabyte of
    them on each device: principal components ask for every pair."""

    def read(step: int) -> Any:
        return of_one(params(step), replicate, placed)

    size = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(read(steps[0])))
    return Iterates(functools.lru_cache(max(1, _KEPT // size))(read), steps)
