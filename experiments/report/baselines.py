"""What n-grams make of a run's held-out text, beside its language models: in bits a byte."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import numpy as np

from experiments.report.reading import Run
from wsdjax import data
from wsdjax.data.ngrams import ngram_loss
from wsdjax.data.tokens import NotPrepared
from wsdjax.files import DamagedFile, read_json, write_json
from wsdjax.tree.branch import ResolvedBranch

ORDERS = (2, 3, 5)
MOST = 2**24
"""Tokens that are counted at most, in seconds and a gigabyte."""


def bits_a_byte(loss: Any, bytes_per_token: float) -> Any:
    """A loss in nats a token as bits for each byte."""
    return loss / math.log(2) / bytes_per_token


def ngrams(run: Run) -> dict[str, dict[str, float]]:
    """Held-out bits a byte of n-grams (`wsdjax.data.ngrams`), by what they are counted on and by
    name; empty for a run that is not of one text, or whose text is not there any more.

    They are counted once, on what the longest lineage has read, and on the whole training text if
    that is not too long; kept in `baselines.json`.
    """
    branches = list(run.branches.values())
    longest = max(branches, key=lambda branch: branch.end)
    facts = run.facts(longest.name)
    if "bytes_per_token" not in facts or any(branch.data != longest.data for branch in branches):
        return {}
    counted_on = {"updates": longest.end, "sha256": facts["sha256"]}
    path = run.workdir / "baselines.json"
    kept = {}
    with contextlib.suppress(FileNotFoundError, DamagedFile):  # which is counted anew
        kept = read_json(path, "delete it")
    if kept.get("counted_on") == counted_on:
        return kept["bits_a_byte"]
    try:
        described = longest.data.describe()
        if described.facts != facts:
            return {}
    except NotPrepared:
        return {}
    counts = _count(longest, described.classes, facts["bytes_per_token"])
    kept = {"counted_on": counted_on, "bits_a_byte": counts}
    write_json(path, kept)
    return counts


def _count(
    branch: ResolvedBranch, vocabulary: int, bytes_per_token: float
) -> dict[str, dict[str, float]]:
    dataset = data.load(branch.data)
    held_out = _windows(dataset.test.part(0, dataset.test.size))
    most = max(1, MOST // branch.data.units)
    stream = data.Stream(dataset.train, branch.batch_size, branch.data_seed)
    batches = range(max(1, min(branch.end, most // branch.batch_size)))
    read = np.concatenate([_windows(stream[t]) for t in batches])
    # Windows follow one another: their inputs are the text.
    whole = dataset.train.part(0, min(dataset.train.size, most))["inputs"].ravel()
    found: dict[str, dict[str, float]] = {}
    for text, what in ((read, "that were read"), (whole, "of the training text")):
        of = found.setdefault(f"the {text.size:,} tokens {what}", {})
        for order in ORDERS:
            if vocabulary**order < 2**63:
                loss = ngram_loss(text, held_out, order, vocabulary)
                of["bigram" if order == 2 else f"{order}-gram"] = bits_a_byte(loss, bytes_per_token)
    return found


def _windows(batch: data.Batch) -> np.ndarray:
    """[B, L + 1] tokens."""
    return np.concatenate([batch["inputs"], batch["targets"][:, -1:]], axis=1)
