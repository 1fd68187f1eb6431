"""Nodes of a run as they are named on a command line, and the parameters along them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from wsdjax import models
from wsdjax.branches import BranchStore, MissingNode
from wsdjax.errors import ConfigError
from wsdjax.wording import listed, shortened

_KEPT = 2**30
"""Bytes of iterates that stay in memory."""


def parse_node(text: str, store: BranchStore) -> tuple[str, list[int]]:
    """The branch and the steps that a node or a range of nodes names: BRANCH, its last;
    BRANCH@STEP; BRANCH@FIRST:LAST, all there are from one node to another;
    BRANCH@FIRST:LAST:EVERY, all of FIRST, FIRST + EVERY, ... up to LAST.

    Raises:
      ConfigError, MissingNode: for what is no node, or is not there.
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
    parts = range_.split(":")
    if len(parts) > 3 or not all(part.isdecimal() and len(part) < 16 for part in parts):
        raise ConfigError(f"{said}: write BRANCH, BRANCH@STEP or BRANCH@STEP:STEP[:EVERY]")
    first, last = int(parts[0]), int(parts[min(1, len(parts) - 1)])
    if last < first:
        raise ConfigError(f"{said}: the range goes backwards, from {first} to {last}")
    if len(parts) < 3:
        asked = sorted({first, last, *(step for step in nodes if first <= step <= last)})
    elif every := int(parts[2]):
        # What is beyond the last node is not there, however far it goes.
        asked = [*range(first, min(last, nodes[-1]) + 1, every), *([last] * (last > nodes[-1]))]
    else:
        raise ConfigError(f"{said}: EVERY is 0, must be 1 or more")
    if lacking := sorted(set(asked) - set(nodes)):
        nearest = min(nodes, key=lambda node: abs(node - lacking[0]))
        more = f", and lacks {len(lacking) - 1} more of those" if len(lacking) > 1 else ""
        raise ConfigError(
            f"{said}: no such node; {branch} has {listed(map(str, nodes))}; the nearest to "
            f"{lacking[0]} is {nearest}{more}. --config.snapshot_every keeps more in training"
        )
    return branch, asked


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


def iterates(params: Callable[[int], Any], steps: list[int], replicate: int) -> Iterates:
    """One replicate's, of the parameters [R, ...] at a step. The latest are kept, a gigabyte of
    them: principal components ask for every pair."""

    def read(step: int) -> Any:
        return models.unstacked(jax.tree.map(lambda leaf: leaf[replicate], params(step)))

    size = sum(leaf.nbytes for leaf in jax.tree.leaves(read(steps[0])))
    return Iterates(functools.lru_cache(max(1, _KEPT // size))(read), steps)
