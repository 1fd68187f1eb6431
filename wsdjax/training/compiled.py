"""Programs and data, compiled and loaded once for all the branches that can share them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from wsdjax import data, models
from wsdjax.config import DataConfig, Mesh
from wsdjax.config.json import key
from wsdjax.placement import mesh
from wsdjax.placement.mesh import Shardings
from wsdjax.training import state as states
from wsdjax.training.state import Place, State
from wsdjax.training.step import Metrics, make_average, make_evaluate, make_step
from wsdjax.training.updates import Feed, Updates, make_updates
from wsdjax.tree.branch import ResolvedBranch


class Program(NamedTuple):
    model: models.Model
    step: Callable
    evaluate: Callable[[State, Sequence[data.Batch]], Metrics]
    """``evaluate(state, batches)``: `eval_loss`, and `eval_ema_loss` of an average's weights."""
    where: State
    """The sharding of each leaf of the state."""


class Compiled:
    """Makes each program, and loads each data set, when it is first asked for.

    Args:
      mesh: how the devices are shared.
      devices: all that there are, by default; others need not be there for what is compiled alone.
      loops: whether several updates are one call. By default but on CPUs, where XLA's loops cost
        more than the host does.
    """

    def __init__(
        self,
        mesh: Mesh | None = None,
        devices: Sequence[jax.Device] | None = None,
        loops: bool | None = None,
    ) -> None:
        self.mesh, self.devices = mesh or Mesh(), devices
        platform = devices[0].platform if devices else jax.default_backend()
        self.loops = platform != "cpu" if loops is None else loops
        self._made: dict[Any, Any] = {}

    def placed(self, group: Sequence[ResolvedBranch]) -> Shardings:
        """Where siblings live; raises as `wsdjax.placement.mesh.shardings`."""
        first, seeds = group[0], sum(branch.seeds for branch in group)
        sizes = seeds, first.batch_size, first.accumulate
        return self._once(
            key(first.model, sizes),
            lambda: mesh.shardings(self.mesh, first.model, *sizes, devices=self.devices),
        )

    def place_of_one(self, group: Sequence[ResolvedBranch]) -> Place:
        """Where the state of one of siblings goes: of several, each may have too few replicates for
        their mesh."""
        return partial(self.placed(group).of, divide_replicates=len(group) == 1)

    def program(self, branch: ResolvedBranch, placed: Shardings) -> Program:
        """The compiled functions of a branch in this placement; no hyperparameter is in them."""

        def make():
            model = models.build(branch.model, training=True, spread=placed.spread)
            evaluate_params = make_evaluate(model, placed)
            average = make_average(branch.averages, placed)

            def evaluate(state, batches):
                values = {"eval": evaluate_params(state.params, batches)}
                for name, params in average(state).items():
                    values[f"eval_{name}"] = evaluate_params(params, batches)
                return {f"{a}_{b}": v for a, found in values.items() for b, v in found.items()}

            step = make_step(model, placed, branch.averages, branch.accumulate)
            state = jax.eval_shape(lambda: states.create(model, [0], branch.averages))
            return Program(model, step, evaluate, placed.of(state))

        what = key(branch.model, branch.averages, branch.accumulate)
        return self._once((what, placed.mesh), make)

    def creation(self, branch: ResolvedBranch, placed: Shardings, count: int) -> jax.stages.Wrapped:
        """``create(seeds) -> state``, the initial state of so many seeds, where it is to live."""
        model = self.program(branch, placed).model

        def create(seeds):
            return states.create(model, seeds, branch.averages)

        def make():
            return states.maker(create, placed, jax.ShapeDtypeStruct((count,), np.uint32))

        return self._once((model, key(branch.averages), placed.mesh, count), make)

    def updates(self, branch: ResolvedBranch, placed: Shardings, feed: Feed) -> Updates:
        """The step of a branch, several times in a call, on the batches of `feed`."""
        program = self.program(branch, placed)

        def make():
            return make_updates(program.step, feed, placed, program.where)

        return self._once((program.step, feed), make)

    def train_split(self, config: DataConfig) -> data.Split:
        return self._data(config).train

    def test_batches(self, config: DataConfig, placed: Shardings) -> list[data.Batch]:
        """The held-out examples, in batches that are spread over the devices that share one;
        what is left over, all of them have."""

        def make():
            test = data.in_order(self._data(config).test, parts=placed.spread.parts)
            return [placed.shared(batch) for batch in test]

        return self._once((key(config), placed.mesh), make)

    def _data(self, config: DataConfig) -> data.Dataset:
        return self._once(key(config), lambda: data.load(config))

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]
