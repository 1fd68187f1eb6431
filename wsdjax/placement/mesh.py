"""Devices: one mesh, with axes for replicates, for the examples of a batch, and for parameters."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from wsdjax import config
from wsdjax.errors import ConfigError
from wsdjax.models.spread import Spread
from wsdjax.placement import rules

log = logging.getLogger("wsdjax")


class Shape(NamedTuple):
    """How many devices share the replicates; the examples of a batch; and the examples and the
    parameters both."""

    replica: int
    data: int
    fsdp: int

    @property
    def parts(self) -> int:
        """How many share the examples of a batch."""
        return self.data * self.fsdp


EXAMPLES = ("data", "fsdp")


@dataclass(frozen=True)
class Shardings:
    """Where things live. State is created, restored and stepped with `of` and no others,
    since a jitted function compiles anew for another placement of its arguments."""

    mesh: Mesh

    def _along(self, *axes: Any) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(*axes))

    @property
    def replicates(self) -> NamedSharding:
        """Leaves of which each replicate has one, [R]."""
        return self._along("replica")

    @property
    def batch(self) -> NamedSharding:
        """Leaves [R, B, ...], spread over replicates and over examples."""
        return self._along("replica", EXAMPLES)

    @property
    def table(self) -> NamedSharding:
        """Leaves [K, R], a row for each of several updates."""
        return self._along(None, "replica")

    @property
    def everywhere(self) -> NamedSharding:
        """What every device has whole, such as metrics."""
        return self._along()

    def examples(self, count: int) -> NamedSharding:
        """Leaves [B, ...] that all replicates see, such as a batch to evaluate: spread over
        examples, or everywhere if their `count` cannot be divided."""
        return self._along(EXAMPLES if count % self.spread.parts == 0 else None)

    def shared(self, batch: Any) -> Any:
        """A batch that all replicates see, where it is to live."""
        return put(batch, self.examples(len(jax.tree.leaves(batch)[0])))

    def of(self, state: Any, divide_replicates: bool = True) -> Any:
        """A sharding for each leaf of a state, or of what is like one: arrays or their shapes.
        Too few replicates are not divided."""
        first = "replica" if divide_replicates else None

        def sharding(path: jax.tree_util.KeyPath, leaf: Any) -> NamedSharding:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            spec = rules.spec(name, leaf.shape, self.mesh.shape, first)
            return NamedSharding(self.mesh, spec)

        return jax.tree.map_with_path(sharding, state)

    def batch_of(self, rows: Callable[[int, int], Any], replicates: int, size: int) -> Any:
        """A batch, leaves [R, B, ...], of which each process gives the examples of its own devices:
        ``rows(start, stop)`` are leaves [R, stop - start, ...]."""
        if jax.process_count() == 1:
            return jax.device_put(rows(0, size), self.batch)
        shape = replicates, size
        indices: Any = self.batch.addressable_devices_indices_map(shape).values()
        mine = [
            np.unique(np.concatenate([np.arange(n)[index[axis]] for index in indices]))
            for axis, n in enumerate(shape)
        ]
        runs = np.split(mine[1], 1 + np.flatnonzero(np.diff(mine[1]) > 1))
        parts = [rows(int(run[0]), int(run[-1]) + 1) for run in runs]

        def joined(*leaves: Any) -> jax.Array:
            local = np.concatenate([np.asarray(leaf) for leaf in leaves], axis=1)[mine[0]]
            whole = (*shape, *local.shape[2:])
            return jax.make_array_from_process_local_data(self.batch, local, whole)

        return jax.tree.map(joined, *parts)

    def of_one(self, params: Any) -> Any:
        """A sharding for each parameter of a model without replicates."""
        return self.of(params, divide_replicates=False)

    @cached_property
    def spread(self) -> Spread:
        """What a model needs to know of it."""

        def spec(path: str, shape: tuple[int, ...]) -> PartitionSpec:
            return rules.spec(path, shape, self.mesh.shape)

        return Spread(self.mesh, EXAMPLES, spec)


def shape(asked: config.Mesh, model: config.ModelConfig, replicates: int, devices: int) -> Shape:
    """How the devices are shared; a `ConfigError` if they cannot be as `asked`.

    What is not asked is chosen: for a language model all devices along `fsdp`; else as many along
    `replica` as divide the replicates, and the others along `data`.
    """
    language = model.reads == "tokens"
    given = {axis: size for axis, size in dataclasses.asdict(asked).items() if size}
    told = ", ".join(f"mesh.{axis} = {size}" for axis, size in given.items())
    left, odd = divmod(devices, math.prod(given.values()))
    if odd:
        raise ConfigError(f"{told}: must divide the {devices} devices that there are")
    if "replica" not in given:
        given["replica"] = 1 if language else math.gcd(replicates, left)
        left //= given["replica"]
    elif replicates % given["replica"]:
        raise ConfigError(
            f"mesh.replica = {given['replica']}: must divide the {replicates} replicates (seeds, "
            "of all branches that train together)"
        )
    for axis in ("fsdp", "data") if language else ("data", "fsdp"):
        if axis not in given:
            given[axis], left = left, 1
    if left > 1:
        raise ConfigError(
            f"{told}: {left} times as many devices are there, {devices}; leave one axis out, "
            "which takes them all"
        )
    return Shape(**given)


def shardings(
    asked: config.Mesh,
    model: config.ModelConfig,
    replicates: int = 1,
    batch_size: int = 0,
    accumulate: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Shardings:
    """The devices, all that there are by default, shared as `shape` says; a `ConfigError` too if a
    batch, or each of its `accumulate` micro-batches, cannot be divided among those that share
    it."""
    count = jax.device_count() if devices is None else len(devices)
    along = shape(asked, model, replicates, count)
    if batch_size % (along.parts * accumulate):
        parts = f" in {accumulate} micro-batches" if accumulate > 1 else ""
        raise ConfigError(
            f"batch_size = {batch_size}: must be a multiple of {along.parts * accumulate}, "
            f"since {replicates} replicates on {count} devices leave {along.parts} for each "
            f"batch{parts}"
        )
    # Explicit axes, the default, are refused by embedding look-ups.
    kinds = (AxisType.Auto,) * len(Shape._fields)
    mesh = jax.make_mesh(tuple(along), Shape._fields, axis_types=kinds, devices=devices)
    return Shardings(mesh)


def for_one(asked: config.Mesh) -> config.Mesh:
    """The mesh of a probe, which sees one replicate at a time: what was along `replica` goes where
    it goes by default."""
    return dataclasses.replace(asked, replica=1, data=None if asked.replica else asked.data)


def as_far_as(asked: config.Mesh, model: config.ModelConfig, replicates: int) -> config.Mesh:
    """The mesh of a run, which may have been trained on other devices; where those that are here
    cannot be shared so, the default, with a warning."""
    try:
        shape(asked, model, replicates, jax.device_count())
    except ConfigError as error:
        log.warning("the run's mesh is not for the devices here, which are shared anew: %s", error)
        return config.Mesh()
    return asked


def put(tree: Any, sharding: NamedSharding) -> Any:
    """Host arrays, the same in every process, where they are to live."""
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def placed(leaf: Any) -> jax.Array:
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(placed, tree)
