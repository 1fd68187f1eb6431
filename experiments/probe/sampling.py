"""The examples that a probe sees, and how sure their loss is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from wsdjax import data, probes
from wsdjax.errors import ConfigError
from wsdjax.wording import shortened

MOST = 1_000
"""Examples, where no number is asked for."""
PARTS = 5
"""Disjoint samples, of whose losses the error is made."""


class Sample(NamedTuple):
    batches: list[data.Batch]
    facts: dict[str, Any]
    """How many `examples` `of` how many in which `split`, and the `seed` of the draw."""


def draw(split: data.Split, name: str, examples: int | None, seed: int, parts: int = 1) -> Sample:
    """A sample of a branch's split, spread over it, for as many devices that share a batch.

    Raises:
      ConfigError: for more examples than there are.
    """
    if examples is not None and examples > split.size:
        raise ConfigError(
            f"--examples={shortened(str(examples))}: the split {name} has {split.size:,}"
        )
    count = min(MOST, split.size) if examples is None else examples
    facts = {"examples": count, "of": split.size, "split": name, "seed": seed}
    return Sample(data.sample(split, count, seed, parts=parts), facts)


def loss(
    loss_fn: Callable, params: Any, sample: Sample, at_a_time: int | None = None
) -> dict[str, Any]:
    """The mean loss over a sample and its standard error, from the losses of five disjoint
    samples that make it up: every fifth example, each spread over the split as the whole is."""
    counts, losses = [], []
    for i in range(PARTS):
        part, at = [], 0  # of the whole sample every fifth, however it is cut into batches
        for batch in sample.batches:
            first = (i - at) % PARTS
            cut = jax.tree.map(lambda leaf, first=first: leaf[first::PARTS], batch)
            if _examples(cut):
                part.append(cut)
            at += _examples(batch)
        if part:
            counts.append(sum(map(_examples, part)))
            losses.append(probes.loss(loss_fn, params, part, at_a_time))
    error = None  # of one example there is none
    if len(losses) > 1:
        # Of a split that was drawn whole there is no doubt.
        left_out = 1 - sum(counts) / sample.facts["of"]
        error = float(np.std(losses, ddof=1) * np.sqrt(left_out / len(losses)))
    return {
        "loss": float(np.average(losses, weights=counts)),
        "loss_error": error,
        "losses_of_disjoint_samples": losses,
    }


def _examples(batch: Any) -> int:
    return len(jax.tree.leaves(batch)[0])
