"""Whether the step waits for its data: batches of a stream, as the trainer feeds them, against one
that is there."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from typing import Any

from experiments.bench import lm
from experiments.bench.ours import loop_over_step, small
from experiments.bench.rows import Line, here, row
from wsdjax.config import Stdlib


@row("data.images", (1.01, 1.01), (30, 20))
def images(_: argparse.Namespace) -> Iterator[Line]:
    """The loop on images that the device makes."""
    yield loop_over_step(small(1), here((100, 4_000)))


@row("data.text", (1.01, 1.01), (60, 150))
def text(_: argparse.Namespace) -> Iterator[Line]:
    """The loop on text that the host reads."""
    experiment: Any = lm.experiment()
    stdlib = Stdlib(length=experiment.data.length, eval_size=8)
    yield loop_over_step(dataclasses.replace(experiment, data=stdlib), here((12, 16)))
