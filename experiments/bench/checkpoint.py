"""What asynchronous checkpoints take of training, in the trainer's loop."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from experiments.bench import lm
from experiments.bench.measure import alternately, ratios
from experiments.bench.ours import NEVER, configured, looped
from experiments.bench.rows import OF_ITS_TIME, Line, Row, at_most, on_cpu
from wsdjax.trainer import Watch

EVERY = 500
"""Updates between checkpoints."""


def _checkpoints(_: argparse.Namespace) -> Iterator[Line]:
    """The cost of one checkpoint, measured at a shorter distance, over as many updates as are
    between two: a run of thousands of updates of a language model is longer than a benchmark."""
    experiment: Any = configured("quickstart", "--config.seeds=1") if on_cpu() else lm.experiment()
    every, count = (50, 3) if on_cpu() else (10, 2)
    with looped(experiment) as loop:
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


ROWS = (
    Row(
        "checkpoint.async",
        f"updates with an asynchronous checkpoint every {EVERY}",
        at_most(1.03, 1.03),
        *(60, 100),
        _checkpoints,
    ),
)
