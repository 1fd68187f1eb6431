"""Whether a machine can hold what is to be trained, told before anything is made or written.

Every estimate is of what must be held at least, so that nothing is refused that could run: arrays
whose size the config alone decides, and of activations what XLA cannot save
(`wsdjax.training.cost`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax

from wsdjax import memory, tree
from wsdjax.config import Mesh
from wsdjax.data.tokens import NotPrepared
from wsdjax.errors import ConfigError
from wsdjax.placement import mesh
from wsdjax.training import cost
from wsdjax.tree.branch import ResolvedBranch
from wsdjax.wording import listed

_KEPT_BY_XLA = 0.8
"""The least share of a trace's activations that a compiled step was seen to hold."""
_ROW, _VALUE = 600, 24
"""Bytes of a row of metrics that a report has read: its dict and lists, and each number."""
_COLUMNS = 4
"""Numbers of each replicate in a row: loss, accuracy or norms."""


class Part(NamedTuple):
    """Something that is held."""

    what: str
    decided_by: tuple[str, ...]
    """The beginnings of the names of the config's fields that decide its size."""
    bytes: float
    on_host: bool = False
    """Whether the host holds it, and not each device."""


def check(branches: Mapping[str, ResolvedBranch], asked: Mesh | None = None) -> None:
    """That each group of siblings among these branches fits this machine and its devices, which
    are shared as `asked`.

    Raises:
      ConfigError: for one that does not, naming the fields that decide, what they come to and
        what there is.
    """
    for group in tree.groups(branches):
        sizes = _sizes(group[0])
        found: list[Part] = []
        for part in _parts(group, sizes, asked or Mesh()):
            found.append(part)
            _compare(group, sizes, found)


def _parts(group: Sequence[ResolvedBranch], sizes: dict[str, int], asked: Mesh) -> Iterator[Part]:
    """In this order: what is cheap to know rules out sizes that no trace could take."""
    first, replicates = group[0], sum(branch.seeds for branch in group)
    along = mesh.shape(asked, first.model, replicates, jax.device_count())
    example = sum(math.prod(shape) * 4.0 for shape, _ in first.data.shapes.values())
    updates = ("tree.", "seeds")
    rates = 4.0 * 6 * (first.end - first.start) * replicates
    yield Part("the rates of all updates", updates, rates, True)
    row = _ROW + _COLUMNS * _VALUE * first.seeds
    yield Part("the rows of all updates", updates, float(first.end * row), True)
    if size := sizes.get("data.size"):
        # Shuffled as jax.random.permutation does: by sorting with random keys.
        yield Part("the order of the examples", ("data.size", "seeds"), 8.0 * size * replicates)
    with contextlib.suppress(NotPrepared):  # which is for whoever loads the data to tell
        held_out = example * first.data.describe().evaluated
        yield Part("the held-out examples", ("data.eval", "data.length"), held_out)
    of_batch, of_state = ("batch_size", "data.length"), ("model.", "averages.")
    batch = example * first.batch_size * replicates / math.prod(along)
    yield Part("a batch", (*of_batch, "seeds"), batch)
    state = float(cost.of_state(first.model, first.averages)[1]) * replicates
    state /= along.replica * along.fsdp
    yield Part("parameters, gradients and moments", (*of_state, "seeds"), state)
    made = _KEPT_BY_XLA * cost.of_branch(first).activation_bytes * replicates / math.prod(along)
    yield Part("activations", (*of_batch, "model.", "seeds"), made)


def _compare(group: Sequence[ResolvedBranch], sizes: dict[str, int], parts: list[Part]) -> None:
    device = jax.local_devices()[0]
    host = [part for part in parts if part.on_host]
    inside = [part for part in parts if not part.on_host]
    limit = (device.memory_stats() or {}).get("bytes_limit", math.inf)
    if device.platform == "cpu":
        # What each of its devices holds is the machine's own memory.
        times = jax.local_device_count()
        host += [part._replace(bytes=part.bytes * times) for part in inside]
        inside = []
    for held, most, whose in (
        (host, memory.of_machine(), "this machine has"),
        (inside, limit, f"each {device.device_kind} has"),
    ):
        total = sum(part.bytes for part in held)
        if total <= most:
            continue
        held.sort(key=lambda part: -part.bytes)
        deciding = [path for path in sizes if path.startswith(held[0].decided_by)]
        largest = sorted(deciding, key=lambda path: -sizes[path])[:3]
        fields = ", ".join(f"{path} = {sizes[path]}" for path in largest)
        told = ", ".join(f"{p.what} {_size(p.bytes)}" for p in held[:3] if p.bytes > total / 100)
        raise ConfigError(
            f"{fields}: training {listed([branch.name for branch in group], 3)} takes at least "
            f"{_size(total)} of memory ({told}), and {whose} {_size(most)}: choose smaller ones"
        )


def _size(count: float) -> str:
    unit = next((i for i in (5, 4, 3, 2) if count >= 2 ** (10 * i)), 1)
    return f"{count / 2 ** (10 * unit):,.3g} {' KMGTP'[unit]}iB"


def _sizes(branch: ResolvedBranch) -> dict[str, int]:
    """The config's whole numbers by their paths, those of a tuple as the greatest of them, but for
    one which only divides what is held."""
    sizes = {f"tree.{branch.name}.steps": branch.end - branch.start}
    sizes |= {"batch_size": branch.batch_size, "seeds": branch.seeds}
    for name in ("model", "data", "averages"):
        piece = getattr(branch, name)
        for field in dataclasses.fields(piece):
            item = getattr(piece, field.name)
            item = max(item, default=0) if isinstance(item, tuple) else item
            if isinstance(item, int) and not isinstance(item, bool) and field.name != "loss_chunk":
                sizes[f"{name}.{field.name}"] = item
    return {path: size for path, size in sizes.items() if size > 1}
