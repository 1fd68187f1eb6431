"""What the rows measure of ours: the bare compiled step, and the trainer's loop around it."""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.measure import alternately, ratios, seconds_of
from experiments.bench.rows import OF_ITS_TIME, Line, here
from experiments.cli import overrides
from wsdjax import tree
from wsdjax.branches import BranchStore
from wsdjax.config import CNN, Constant, Experiment, describe_all
from wsdjax.trainer import Progress, Trainer, Watch
from wsdjax.trainer.group import hyper_table
from wsdjax.training import cost
from wsdjax.training.compiled import Compiled
from wsdjax.training.optim import Hyper
from wsdjax.tree.branch import ResolvedBranch

ROOT = Path(__file__).parents[2]
NEVER = 10**9
"""Updates between what a bare loop does not do."""
NARROW = (16, 32, 32, 32)
"""The widths of the quickstart's CNN."""


def widths() -> tuple[int, ...]:
    """The CNN's: of full size on a GPU."""
    return here((NARROW, CNN().widths))


def configured(name: str, *flags: str) -> Experiment:
    """The experiment of ``experiments/configs/NAME.py``, with flags such as "--config.seeds=1"."""
    path = ROOT / "experiments" / "configs" / f"{name}.py"
    return overrides.experiment(str(path), list(flags))[0]


def small(seeds: int) -> Any:
    """The experiment that a loop is tried on: on a GPU the full-size CNN's."""
    return configured(here(("quickstart", "cnn_photos")), f"--config.seeds={seeds}")


def branch_of(experiment: Experiment) -> ResolvedBranch:
    """Its first branch."""
    described = describe_all(experiment.data_sets())
    return next(iter(tree.resolve(experiment, described).values()))


def random_batch(branch: ResolvedBranch) -> dict[str, np.ndarray]:
    """Random numbers of the data set's shapes, [R, B, ...], so that it need not be there; integers
    are below the number of classes."""
    random = np.random.default_rng(0)

    def leaf(of):
        shape = (branch.seeds, *of.shape)
        if jnp.issubdtype(of.dtype, jnp.integer):
            return random.integers(0, branch.model.classes, shape, np.int32)
        return random.normal(size=shape).astype(of.dtype)

    return jax.tree.map(leaf, cost.batch_shapes(branch.data, branch.batch_size))


class Step:
    """A branch's compiled update from its initialisation, on one random batch that lies on the
    device; as a work it does n of them."""

    def __init__(self, branch: ResolvedBranch):
        compiled = Compiled()
        placed = compiled.placed([branch])
        self.branch, program = branch, compiled.program(branch, placed)
        self.model, self._step = program.model, program.step
        seeds = np.asarray(branch.replicate_seeds, np.uint32)
        self.state = compiled.creation(branch, placed, len(seeds))(seeds)
        table = hyper_table([branch], {branch.name: branch})
        self.hyper = jax.device_put(Hyper(*(c[-1] for c in table)), placed.replicates)
        self.batch = jax.device_put(random_batch(branch), placed.batch)

    def __call__(self, count: int) -> list[np.ndarray]:
        """The losses before each update, [R]."""
        losses = []
        for _ in range(count):
            self.state, metrics = self._step(self.state, self.batch, self.hyper)
            losses.append(metrics["loss"])
        jax.block_until_ready((self.state, losses))
        return [np.asarray(loss) for loss in losses]


class Stopwatch(Progress):
    """When which row was read, of one loop after another."""

    def __init__(self) -> None:
        self._loops: list[list[tuple[int, float]]] = []

    def start(self, title: str, step: int, end: int, each: int, unit: str) -> None:
        self._loops.append([(step, time.perf_counter())])

    def update(self, step: int, loss: float, rate: float) -> None:
        self._loops[-1].append((step, time.perf_counter()))

    @property
    def seconds_an_update(self) -> float:
        """In the last loop."""
        return _pace(self._loops[-1])

    @property
    def seconds(self) -> float:
        """Of all updates of all loops."""
        return sum((loop[-1][0] - loop[0][0]) * _pace(loop) for loop in self._loops)


def _pace(read: list[tuple[int, float]]) -> float:
    """Seconds an update once the loop is under way: after the first quarter of what was read."""
    begin = max(1, len(read) // 4) if len(read) > 2 else 0
    (first, then), (last, now) = read[begin], read[-1]
    return (now - then) / (last - first)


class Loop:
    """The trainer over a branch, again and again under new names: one program, and one workdir,
    which goes with it."""

    def __init__(self, experiment: Experiment):
        self._branch = branch_of(experiment)
        self._directory = tempfile.TemporaryDirectory()
        self._store = BranchStore(Path(self._directory.name))
        self._trainer = Trainer(self._store)
        self._numbers = itertools.count()

    def __enter__(self) -> Loop:
        return self

    def __exit__(self, *_: object) -> None:
        self._directory.cleanup()

    def train(self, updates: int, watch: Watch | None = None) -> Stopwatch:
        """Trains a new branch of so many updates; by default without evaluation or checkpoints
        before its end."""
        name, stopwatch = f"run{next(self._numbers)}", Stopwatch()
        branch = dataclasses.replace(self._branch, name=name, end=updates, schedule=Constant())
        watch = watch or Watch(eval_every=NEVER, checkpoint_every=NEVER)
        self._trainer.watch = dataclasses.replace(watch, progress=stopwatch)
        with self._store.lock():
            self._store.register({name: branch})
            self._trainer.train([name])
        return stopwatch


def loop_over_step(experiment: Experiment, updates: int) -> Line:
    """An update in the trainer's loop, without evaluations and checkpoints, against the bare step
    on a batch that is there: so many of each in every turn."""
    step = Step(branch_of(experiment))
    with Loop(experiment) as loop:
        loop.train(5)
        step(2)
        times = alternately(
            {
                "seconds": lambda: loop.train(updates).seconds_an_update,
                "seconds_of_step": lambda: seconds_of(lambda: step(updates)) / updates,
            }
        )
    seeds = f"{experiment.seeds} seed{'s' * (experiment.seeds > 1)}"
    told = {**times, "updates": updates}
    return Line(f"the bare step, {seeds}", ratios(*times.values()), OF_ITS_TIME, told)
