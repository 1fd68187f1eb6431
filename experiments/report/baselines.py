"""N-grams on a run's held-out text, beside its language models: in bits a byte."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.report.reading import Run
from wsdjax import data
from wsdjax.data.ngrams import ngram_loss
from wsdjax.errors import ConfigError
from wsdjax.files import DamagedFile, read_json, write_json
from wsdjax.tree.branch import ResolvedBranch

_FILE = "baselines.json"
ORDERS = (2, 3, 5)
MOST = 2**24
"""Tokens that are counted at most, in seconds and a gigabyte."""


def bits_a_byte(loss: Any, bytes_per_token: float) -> Any:
    """A loss in nats a token as bits for each byte."""
    return loss / math.log(2) / bytes_per_token


def are_of(run: Run) -> bool:
    """Whether all of a run is of one text, on which n-grams can be counted."""
    longest = _longest(run)
    same = all(branch.data == longest.data for branch in run.branches.values())
    return same and "bytes_per_token" in run.facts(longest.name)


def kept(run: Run) -> dict[str, dict[str, float]]:
    """Held-out bits a byte of n-grams (`wsdjax.data.ngrams`), by what they are counted on and by
    name; empty where they have not been counted for the run as it is."""
    with contextlib.suppress(FileNotFoundError, DamagedFile):  # which is to be counted anew
        found = read_json(run.workdir / _FILE, "delete it")
        if found.get("counted_on") == _counted_on(run):
            return found["bits_a_byte"]
    return {}


def count(run: Run) -> None:
    """Counts n-grams on what the longest lineage has read, and on the training text or as much
    of it as is counted at most, and keeps what comes of it in the workdir."""
    longest = _longest(run)
    if not are_of(run):
        raise ConfigError("--baselines: n-grams are counted on text, and on one for all branches")
    facts, described = run.facts(longest.name), longest.data.describe()
    if described.facts != facts:
        raise ConfigError("--baselines: the text is not what the run was trained on")
    counts = _count(run, longest, described.classes, facts["bytes_per_token"])
    write_json(run.workdir / _FILE, {"counted_on": _counted_on(run), "bits_a_byte": counts})


def _longest(run: Run) -> ResolvedBranch:
    return max(run.branches.values(), key=lambda branch: branch.end)


def _counted_on(run: Run) -> dict[str, Any]:
    longest = _longest(run)
    return {"updates": longest.end, "sha256": run.facts(longest.name).get("sha256")}


def _count(
    run: Run, branch: ResolvedBranch, vocabulary: int, bytes_per_token: float
) -> dict[str, dict[str, float]]:
    dataset = data.load(branch.data)
    held_out = _windows(dataset.test.take(np.arange(dataset.test.size)))
    most = max(1, MOST // branch.data.units)
    batches = itertools.islice(_read_by(run, branch, dataset), max(1, most // branch.batch_size))
    read = np.concatenate([_windows(batch) for batch in batches])
    # Windows follow one another: their inputs are the text.
    whole = dataset.train.take(np.arange(min(dataset.train.size, most)))["inputs"].ravel()
    found: dict[str, dict[str, float]] = {}
    for text, what in ((read, "that were read"), (whole, "of the training text")):
        of = found.setdefault(f"the {text.size:,} tokens {what}", {})
        for order in ORDERS:
            if vocabulary**order < 2**63:
                loss = ngram_loss(text, held_out, order, vocabulary)
                of["bigram" if order == 2 else f"{order}-gram"] = bits_a_byte(loss, bytes_per_token)
    return found


def _read_by(run: Run, branch: ResolvedBranch, dataset: data.Dataset) -> Iterator[data.Batch]:
    """The batches of the first replicate along a branch's lineage, one for each update."""
    for segment in run.lineage(branch.name):
        of = run.branches[segment.branch]
        stream = data.Stream(dataset.train, of.batch_size, of.data_seed)
        for n in range(segment.start + 1, segment.stop + 1):
            yield stream[n - 1 - of.data_start]


def _windows(batch: data.Batch) -> np.ndarray:
    """[B, L + 1] tokens."""
    return np.concatenate([batch["inputs"], batch["targets"][:, -1:]], axis=1)
