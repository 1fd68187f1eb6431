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
from typing import Any, NamedTuple

import jax

from wsdjax import memory, tree
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
    fields: dict[str, int]
    """Of the config, by their paths, which decide its size."""
    bytes: float
    on_host: bool = False
    """Whether the host holds it, and not each device."""


def check(branches: Mapping[str, ResolvedBranch]) -> None:
    """That each group of siblings among these branches fits this machine and its devices.

    Raises:
      ConfigError: for one that does not, naming the fields that decide, what they come to and
        what there is.
    """
    for group in tree.groups(branches):
        found: list[Part] = []
        # In this order: what is cheap to know rules out sizes that no trace could take.
        for parts in (_of_host(group), _of_data(group), _of_state(group), _of_step(group)):
            found += parts
            _compare(group, found)


def _compare(group: Sequence[ResolvedBranch], parts: list[Part]) -> None:
    device = jax.local_devices()[0]
    host = [part for part in parts if part.on_host]
    inside = [part for part in parts if not part.on_host]
    if device.platform == "cpu":
        # What each of its devices holds is the machine's own memory.
        times = jax.local_device_count()
        shared = [part._replace(bytes=part.bytes * times) for part in inside]
        _refuse(group, [*host, *shared], memory.of_machine(), "this machine has")
        return
    _refuse(group, host, memory.of_machine(), "this machine has")
    limit = (device.memory_stats() or {}).get("bytes_limit", math.inf)
    _refuse(group, inside, limit, f"each {device.device_kind} has")


def _refuse(group: Sequence[ResolvedBranch], parts: list[Part], limit: float, whose: str) -> None:
    total = sum(part.bytes for part in parts)
    if total <= limit:
        return
    parts = sorted(parts, key=lambda part: -part.bytes)
    largest = sorted(parts[0].fields.items(), key=lambda item: -item[1])[:3]
    fields = ", ".join(f"{path} = {value}" for path, value in largest)
    told = ", ".join(f"{p.what} {_size(p.bytes)}" for p in parts[:3] if p.bytes > total / 100)
    raise ConfigError(
        f"{fields}: training {listed([branch.name for branch in group], 3)} takes at least "
        f"{_size(total)} of memory ({told}), and {whose} {_size(limit)}: choose smaller ones"
    )


def _size(count: float) -> str:
    power = next((power for power in (50, 40, 30, 20) if count >= 2**power), 10)
    return f"{count / 2**power:,.3g} {_UNITS[power]}"


_UNITS = {10: "KiB", 20: "MiB", 30: "GiB", 40: "TiB", 50: "PiB"}


def _of_host(group: Sequence[ResolvedBranch]) -> Iterator[Part]:
    """Tables and rows of every update."""
    first, replicates = group[0], _replicates(group)
    steps, along = first.end - first.start, first.end
    path = f"tree.{first.name}.steps"
    fields = {path: steps, **_seeds(first)}
    yield Part("the rates of all updates", fields, 4.0 * 6 * steps * replicates, True)
    row = _ROW + _COLUMNS * _VALUE * first.seeds
    yield Part("the rows of all updates", fields, float(along * row), True)


def _of_data(group: Sequence[ResolvedBranch]) -> Iterator[Part]:
    """The order of an epoch's examples, where it is an array, and what is evaluated."""
    first, replicates = group[0], _replicates(group)
    example = sum(math.prod(shape) * 4.0 for shape, _ in first.data.shapes.values())
    numbers = _numbers("data", first.data)
    if "data.size" in numbers:
        order = {"data.size": numbers["data.size"], **_seeds(first)}
        # Shuffled as jax.random.permutation does: by sorting with random keys.
        yield Part("the order of the examples", order, 8.0 * numbers["data.size"] * replicates)
    with contextlib.suppress(NotPrepared):  # which is for whoever loads the data to tell
        count = first.data.describe().evaluated
        sizes = {path: n for path, n in numbers.items() if path.startswith(("data.ev", "data.le"))}
        yield Part("the held-out examples", sizes, example * count)
    along, left = mesh.shape(replicates)
    batch = {"batch_size": first.batch_size, **_seeds(first)}
    batch |= {path: n for path, n in numbers.items() if path == "data.length"}
    yield Part("a batch", batch, example * first.batch_size * replicates / (along * left))


def _of_state(group: Sequence[ResolvedBranch]) -> Iterator[Part]:
    first, replicates = group[0], _replicates(group)
    fields = {**_numbers("model", first.model), **_seeds(first)}
    if first.averages.window:
        fields["averages.window"] = first.averages.window
    state = cost.of_state(first.model, first.averages)[1]
    along, _ = mesh.shape(replicates)
    yield Part("parameters, gradients and moments", fields, float(state) * replicates / along)


def _of_step(group: Sequence[ResolvedBranch]) -> Iterator[Part]:
    first, replicates = group[0], _replicates(group)
    fields = {
        "batch_size": first.batch_size,
        **_numbers("model", first.model),
        **{p: n for p, n in _numbers("data", first.data).items() if p == "data.length"},
        **_seeds(first),
    }
    along, left = mesh.shape(replicates)
    made = cost.of_branch(first).activation_bytes
    yield Part("activations", fields, _KEPT_BY_XLA * made * replicates / (along * left))


def _replicates(group: Sequence[ResolvedBranch]) -> int:
    return sum(branch.seeds for branch in group)


def _seeds(branch: ResolvedBranch) -> dict[str, int]:
    return {"seeds": branch.seeds} if branch.seeds > 1 else {}


def _numbers(path: str, value: Any) -> dict[str, int]:
    """The whole numbers in a dataclass, those of a tuple as the greatest of them, but for that
    which only divides what is held."""
    found = {}
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        item = max(item, default=0) if isinstance(item, tuple) else item
        if isinstance(item, int) and not isinstance(item, bool) and field.name != "loss_chunk":
            found[f"{path}.{field.name}"] = item
    return found
