"""What is compiled and loaded once, for all the branches that can share it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from wsdjax import data, models
from wsdjax.config.json import key
from wsdjax.placement.mesh import Shardings
from wsdjax.training.state import State
from wsdjax.training.step import Metrics, make_average, make_evaluate, make_step
from wsdjax.tree.branch import ResolvedBranch


class Program(NamedTuple):
    model: models.Model
    step: Callable
    evaluate: Callable[[State, Sequence[data.Batch]], Metrics]
    """``evaluate(state, batches)``: `eval_loss`, and `eval_ema_loss` of an average's weights."""


class Compiled:
    def __init__(self) -> None:
        self._made: dict[Any, Any] = {}

    def program(self, branch: ResolvedBranch, placed: Shardings) -> Program:
        """The compiled functions of a branch in this placement; no hyperparameter is in them."""

        def make():
            model = models.build(branch.model, training=True)
            evaluate_params, average = make_evaluate(model), make_average(branch.averages)

            def evaluate(state, batches):
                values = {"eval": evaluate_params(state.params, batches)}
                for name, params in average(state).items():
                    values[f"eval_{name}"] = evaluate_params(params, batches)
                return {f"{a}_{b}": v for a, found in values.items() for b, v in found.items()}

            step = make_step(model, placed, branch.averages, branch.accumulate)
            return Program(model, step, evaluate)

        return self._once((key(branch.model, branch.averages, branch.accumulate), placed), make)

    def train_split(self, config: Any) -> data.Split:
        return self._data(config)[0].train

    def test_batches(self, config: Any, placed: Shardings) -> list[data.Batch]:
        return jax.device_put(self._data(config)[1], placed.everywhere)

    def _data(self, config: Any) -> tuple[data.Dataset, list[data.Batch]]:
        def make():
            dataset = data.load(config)
            return dataset, data.in_order(dataset.test)

        return self._once(key(config), make)

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]
