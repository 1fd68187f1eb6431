"""Whether the step waits for its data: batches of a stream against one that is there."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.bench import lm
from experiments.bench.measure import overhead
from experiments.bench.ours import Step, branch_of, configured
from experiments.bench.rows import Line, Row, at_most, on_cpu
from wsdjax import data
from wsdjax.config import Experiment, Text
from wsdjax.data import tokens


def _waiting(experiment: Experiment, split: data.Split) -> Iterator[Line]:
    """The next batch is read, and sent to the device, while the step before it runs."""
    branch = branch_of(experiment)
    stream = data.Stream(split, branch.batch_size, list(branch.stream_seeds))
    step = Step(branch, stream[0])
    at = itertools.count()

    def streamed(count: int) -> None:
        for _ in range(count):
            loss = step.update(step.put(stream[next(at)]))
        jax.block_until_ready(loss)

    return overhead(streamed, step, "the step on one batch")


def _images(_: argparse.Namespace) -> Iterator[Line]:
    experiment = configured("quickstart" if on_cpu() else "cnn_photos", "--config.seeds=1")
    return _waiting(experiment, data.load(experiment.data).train)


def _text(_: argparse.Namespace) -> Iterator[Line]:
    with tempfile.TemporaryDirectory() as directory:
        experiment: Any = lm.experiment()
        vocabulary = experiment.model.vocabulary
        write_text(Path(directory), vocabulary, 20_000_000 if not on_cpu() else 2_000_000)
        text = Text(directory, experiment.data.length)
        experiment = dataclasses.replace(experiment, data=text)
        yield from _waiting(experiment, data.load(text).train)


def write_text(directory: Path, vocabulary: int, count: int) -> None:
    """Shards of random tokens, in documents of a thousand."""
    random, fingerprint = np.random.default_rng(0), "ab" * 32
    shards: dict[str, list[tokens.Shard]] = {}
    for split, size in (("train", count), ("test", max(1_000, count // 100))):
        path = directory / tokens.shard_name(split, 0)
        with tokens.ShardWriter(path, fingerprint, vocabulary) as writer:
            for _ in range(size // 1_000):
                writer.write_document(random.integers(1, vocabulary, 999), 0, 999)
        shards[split] = [tokens.read_shard(path, fingerprint, vocabulary)]
    tokens.write_description(
        tokens.Description(directory, "random", fingerprint, vocabulary, 0, shards)
    )


ROWS = (
    Row(
        "data.images",
        "a step on images that the device makes",
        at_most(1.01, 1.01),
        *(30, 20),
        _images,
    ),
    Row("data.text", "a step on text shards", at_most(1.01, 1.01), *(60, 90), _text),
)
