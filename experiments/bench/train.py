"""The CNN's training: the update, many runs at once, and all that the trainer does around it.

On a GPU products of float32 are in TF32 on both sides, which is JAX's default and is asked of
PyTorch.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax

from experiments.bench.measure import Work, alternately, contest, ratios, seconds_of
from experiments.bench.ours import Step, Stopwatch, branch_of, configured, loop_over_step, looped
from experiments.bench.rows import OF_ITS_TIME, Line, Row, at_least, at_most, on_cpu
from wsdjax import data, plans, tree
from wsdjax.branches import BranchStore
from wsdjax.config import Experiment, Photos, describe_all
from wsdjax.trainer import Progress, Watch, grow

HOW: dict[str, dict[str, bool]] = {
    "PyTorch eager": {},
    "PyTorch channels-last": {"channels_last": True},
    "PyTorch CUDA graphs": {"graph": True},
    "PyTorch compiled": {"compiled": True},
    "PyTorch compiled, channels-last": {"compiled": True, "channels_last": True},
}


def peers(step: Step) -> dict[str, Callable[[], Work]]:
    """The first replicate's update in PyTorch, in each way, from the same weights and batch."""
    ways = {n: how for n, how in HOW.items() if "graph" not in how or not on_cpu()}
    return {name: partial(_work, step, how) for name, how in ways.items()}


def _work(step: Step, how: dict[str, bool]) -> Work:
    return in_torch(step, **how)[0]


def in_torch(step: Step, **how: Any) -> tuple[Work, Any]:
    """The work, and the network that it trains."""
    from experiments.bench import in_torch

    in_torch.prepare(tf32=True)
    network = in_torch.cnn(step.first_params())
    batch = jax.device_get(jax.tree.map(lambda leaf: leaf[0], step.batch))
    given = in_torch.batch_of(batch), step.branch.optimizer, float(step.hyper.rate[0])
    return in_torch.updates(network, *given, **how), network


def of_seeds(experiment: Experiment, seeds: int) -> Experiment:
    return dataclasses.replace(experiment, seeds=seeds)


def _update(config: str) -> Callable[[argparse.Namespace], Iterator[Line]]:
    def measure(_: argparse.Namespace) -> Iterator[Line]:
        step = Step(branch_of(of_seeds(configured(config), 1)))
        return contest(step, peers(step))

    return measure


def _small() -> Any:
    """What a loop is tried on: on a GPU the full-size CNN."""
    return configured("quickstart" if on_cpu() else "cnn_photos")


def _loop(_: argparse.Namespace) -> Iterator[Line]:
    sizes = ((1, 100), (2, 60)) if on_cpu() else ((1, 4_000), (5, 2_000), (64, 400))
    for seeds, updates in sizes:
        yield loop_over_step(of_seeds(_small(), seeds), updates)


def _whole(_: argparse.Namespace) -> Iterator[Line]:
    """Epochs as the trainer runs them, and as many bare steps. Batches are made in both."""
    base = _small()
    size, epochs, every = (6_400, 5, 5) if on_cpu() else (50_000, 50, 5)
    experiment = dataclasses.replace(
        of_seeds(base, 1), data=Photos(noise=0.8, size=size, eval_size=size // 10)
    )
    per_epoch = size // base.batch_size
    updates, watch = epochs * per_epoch, Watch(per_epoch, every * per_epoch)
    step = Step(branch_of(experiment))
    stream = data.Stream(data.load(experiment.data).train, base.batch_size, [0])
    with looped(experiment) as loop:
        loop.train(per_epoch, Watch(per_epoch, per_epoch)), step(1), step.update(stream[0])
        times = alternately(
            {
                "seconds": lambda: seconds_of(lambda: loop.train(updates, watch)),
                "seconds_of_steps": lambda: seconds_of(lambda: _steps(step, stream, updates)),
            }
        )
    yield Line(
        "its steps alone",
        ratios(*times.values()),
        OF_ITS_TIME,
        {**times, "epochs": epochs, "updates": updates},
    )


def _steps(step: Step, stream: data.Stream, updates: int) -> None:
    for t in range(updates):
        loss = step.update(stream[t])
    jax.block_until_ready(loss)


def _many(_: argparse.Namespace) -> Iterator[Line]:
    """8 seeds of WSD and of cosine by `grow`, from nothing: data, compilation, evaluation,
    checkpoints; and 16 runs of PyTorch, which have their batches for nothing and compile nothing.
    Both evaluate as often. Each is done for some updates, and what is in its loop counts as often
    as the config's length has them."""
    base = _small()
    length, updates, finer = (1_000, 50, 5) if on_cpu() else (19_500, 780, 1)
    every, held_out = base.eval_every // finer, base.data.eval_size // finer
    experiment = dataclasses.replace(
        base,
        seeds=8,
        eval_every=every,
        data=dataclasses.replace(base.data, eval_size=held_out),
        tree=plans.wsd(updates, updates // 20, round(0.35 * updates))
        | plans.cosine(updates, updates // 20),
    )
    name, theirs = _fastest(Step(branch_of(of_seeds(base, 1))), held_out, every)
    with tempfile.TemporaryDirectory() as directory:
        workdirs = (Path(directory) / str(n) for n in itertools.count())
        times = alternately(
            {
                "our_seconds": lambda: _grown(experiment, next(workdirs), length / updates),
                "their_seconds": lambda: (
                    seconds_of(partial(theirs, 16 * updates)) * (length / updates)
                ),
            }
        )
    told = {**times, "measured_updates": updates, "updates": length}
    yield Line(f"16 runs, {name}", ratios(times["their_seconds"], times["our_seconds"]), also=told)


def _grown(experiment: Experiment, workdir: Path, longer: float) -> float:
    """Seconds of all branches, if their loops were so many times longer."""

    class Each(Progress):
        """A stopwatch for each branch."""

        def __init__(self) -> None:
            self.loops: list[Stopwatch] = []

        def start(self, *branch: Any) -> None:
            self.loops.append(Stopwatch())
            self.loops[-1].start(*branch)

        def update(self, *row: Any) -> None:
            self.loops[-1].update(*row)

    branches = tree.resolve(experiment, describe_all(experiment.data_sets()))
    each = Each()
    watch = Watch.of(experiment, each)
    whole = seconds_of(lambda: grow(BranchStore(workdir), branches, watch, experiment))
    loop = sum(one.updates * one.seconds_an_update for one in each.loops)
    return max(0.0, whole - loop) + longer * loop


def _fastest(step: Step, held_out: int, every: int) -> tuple[str, Work]:
    """The way of PyTorch's, of those that need no compiler, that trains fastest, with an evaluation
    every so often."""
    found = {}
    for name, how in HOW.items():
        if "compiled" in how or ("graph" in how and on_cpu()):
            continue
        work, network = in_torch(step, **how)
        work(3)
        found[name] = seconds_of(lambda: work(10)), work, network  # noqa: B023
    name = min(found, key=lambda name: found[name][0])
    _, work, network = found[name]
    import torch

    images = torch.zeros((held_out, 3, 32, 32), device=next(network.parameters()).device)

    def run(count: int) -> None:
        for _ in range(count // every):
            work(every)
            with torch.no_grad():
                network(images).sum().item()

    return name, run


ROWS = (
    Row(
        "train.update",
        "an update of the CNN, one seed, batch 128",
        at_least(1.0, 3.0),
        *(120, 60),
        _update("cnn_photos"),
    ),
    Row(
        "train.quickstart",
        "an update of the quickstart's CNN, one seed, batch 64",
        at_least(1.0, 3.0),
        *(90, 50),
        _update("quickstart"),
    ),
    Row(
        "train.many",
        "8 seeds of WSD and of cosine, from the command to their ends",
        at_least(1.5, 10.0),
        *(150, 120),
        _many,
    ),
    Row("train.loop", "an update in the trainer's loop", at_most(1.05, 1.05), *(70, 60), _loop),
    Row(
        "train.whole",
        "epochs with evaluation, checkpoints and metrics",
        at_most(1.05, 1.05),
        *(110, 60),
        _whole,
    ),
)
