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
from pathlib import Path

import numpy as np

from experiments.bench import lm
from experiments.bench.measure import Work, alternately, contest, in_turns, ratios, seconds_of
from experiments.bench.ours import (
    NEVER,
    Loop,
    Step,
    Stopwatch,
    branch_of,
    configured,
    loop_over_step,
    small,
)
from experiments.bench.rows import OF_ITS_TIME, Line, here, on_cpu, row
from wsdjax import plans, tree
from wsdjax.branches import BranchStore
from wsdjax.config import Photos, describe_all
from wsdjax.trainer import Watch, grow

EVERY = 500
"""Updates between checkpoints."""


def ways() -> dict[str, dict[str, bool]]:
    """PyTorch's, by how they are told to `in_torch.updates`."""
    found = {
        "PyTorch eager": {},
        "PyTorch channels-last": {"channels_last": True},
        "PyTorch CUDA graphs": {"graph": True},
        "PyTorch compiled": {"compiled": True},
        "PyTorch compiled, channels-last": {"compiled": True, "channels_last": True},
    }
    return {name: how for name, how in found.items() if "graph" not in how or not on_cpu()}


def _against_torch(config: str) -> Iterator[Line]:
    step = Step(branch_of(configured(config, "--config.seeds=1")))

    def built(how: dict[str, bool]) -> Callable[[], Work]:
        return lambda: lm.in_torch(step, **how)[0]

    return contest(step, {name: built(how) for name, how in ways().items()})


@row("train.update", (1.0, 3.0), (120, 60))
def update(_: argparse.Namespace) -> Iterator[Line]:
    """An update of the CNN, one seed, batch 128."""
    return _against_torch("cnn_photos")


@row("train.quickstart", (1.0, 3.0), (90, 50))
def quickstart(_: argparse.Namespace) -> Iterator[Line]:
    """An update of the quickstart's CNN, one seed, batch 64."""
    return _against_torch("quickstart")


@row("train.loop", (1.05, 1.05), (70, 60))
def loop(_: argparse.Namespace) -> Iterator[Line]:
    """An update in the trainer's loop."""
    for seeds, updates in here((((1, 100), (2, 60)), ((1, 4_000), (5, 2_000), (64, 400)))):
        yield loop_over_step(small(seeds), updates)


@row("train.whole", (1.05, 1.05), (110, 60))
def whole(_: argparse.Namespace) -> Iterator[Line]:
    """Epochs with evaluation, checkpoints and metrics."""
    size, epochs, every = here(((6_400, 5, 5), (50_000, 50, 5)))
    photos = Photos(noise=0.8, size=size, eval_size=size // 10)
    experiment = dataclasses.replace(small(1), data=photos)
    per_epoch = size // experiment.batch_size
    updates, watch = epochs * per_epoch, Watch(per_epoch, every * per_epoch)
    step = Step(branch_of(experiment))
    with Loop(experiment) as loop:
        loop.train(per_epoch, Watch(per_epoch, per_epoch))
        step(1)
        times = alternately(
            {
                "seconds": lambda: seconds_of(lambda: loop.train(updates, watch)),
                "seconds_of_steps": lambda: seconds_of(lambda: step(updates)),
            }
        )
    told = {**times, "epochs": epochs, "updates": updates}
    yield Line("as many bare steps", ratios(*times.values()), OF_ITS_TIME, told)


@row("train.many", (1.5, 10.0), (150, 120))
def many(_: argparse.Namespace) -> Iterator[Line]:
    """8 seeds of WSD and of cosine, from the command to their ends.

    By `grow`, from nothing: data, compilation, evaluation, checkpoints; and 16 runs of PyTorch,
    which have their batches for nothing and compile nothing. Both evaluate as often. Each is done
    for some updates, and what is in its loop counts as often as the config's length has them.
    """
    base = small(8)
    length, updates, finer = here(((1_000, 50, 5), (19_500, 780, 1)))
    every, held_out = base.eval_every // finer, base.data.eval_size // finer
    experiment = dataclasses.replace(
        base,
        eval_every=every,
        data=dataclasses.replace(base.data, eval_size=held_out),
        tree=plans.wsd(updates, updates // 20, round(0.35 * updates))
        | plans.cosine(updates, updates // 20),
    )
    branches = tree.resolve(experiment, describe_all(experiment.data_sets()))
    longer = length / updates
    name, theirs = _fastest(Step(branch_of(small(1))), held_out, every)
    with tempfile.TemporaryDirectory() as directory:
        stores = (BranchStore(Path(directory) / str(n)) for n in itertools.count())

        def ours() -> float:
            stopwatch = Stopwatch()
            watch = Watch.of(experiment, stopwatch)
            all_of_it = seconds_of(lambda: grow(next(stores), branches, watch, experiment))
            return max(0.0, all_of_it - stopwatch.seconds) + longer * stopwatch.seconds

        times = alternately(
            {
                "our_seconds": ours,
                "their_seconds": lambda: longer * seconds_of(lambda: theirs(16 * updates)),
            }
        )
    told = {**times, "measured_updates": updates, "updates": length}
    yield Line(f"16 runs, {name}", ratios(times["their_seconds"], times["our_seconds"]), also=told)


def _fastest(step: Step, held_out: int, every: int) -> tuple[str, Work]:
    """The way of PyTorch's, of those that need no compiler, that trains fastest, with an evaluation
    every so often."""
    built = {n: lm.in_torch(step, **how) for n, how in ways().items() if "compiled" not in how}
    works: dict[str, Work] = {name: work for name, (work, _) in built.items()}
    for work in works.values():
        work(3)
    times = in_turns(works, 0)
    name = min(times, key=lambda name: np.median(times[name]))
    work, network = built[name]
    import torch

    images = torch.zeros((held_out, 3, 32, 32), device=next(network.parameters()).device)

    def run(count: int) -> None:
        for _ in range(count // every):
            work(every)
            with torch.no_grad():
                network(images).sum().item()

    return name, run


@row("checkpoint.async", (1.03, 1.03), (60, 100))
def checkpoints(_: argparse.Namespace) -> Iterator[Line]:
    """Updates with an asynchronous checkpoint every 500.

    The cost of one, measured at a shorter distance, over as many updates as are between two: a run
    of thousands of updates of a language model is longer than a benchmark.
    """
    experiment = small(1) if on_cpu() else lm.experiment()
    every, count = here(((50, 3), (10, 2)))
    with Loop(experiment) as loop:
        loop.train(every, Watch(NEVER, every))
        # The last checkpoint, that of the end, is in neither.
        updates = (count + 1) * every
        times = alternately(
            {
                "saving": lambda: loop.train(updates, Watch(NEVER, every)).seconds_an_update,
                "without": lambda: loop.train(updates).seconds_an_update,
            }
        )
    values = [1 + (r - 1) * every / EVERY for r in ratios(times["saving"], times["without"])]
    told = {"seconds_an_update": times, "measured_every": every}
    yield Line(f"updates without, one each {EVERY}", values, OF_ITS_TIME, told)
