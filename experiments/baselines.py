"""What n-grams make of a run's held-out text, beside its language models: in bits a byte."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from experiments.reading import Run
from wsdjax import data
from wsdjax.config import Stdlib, Text
from wsdjax.data.ngrams import ngram_loss
from wsdjax.data.tokens import NotPrepared
from wsdjax.files import write_atomically

ORDERS = (2, 3, 5)
MOST = 2**24
"""Tokens that are counted at most, in seconds and a gigabyte."""


def bytes_per_token(config: Any) -> float | None:
    """Of the held-out text; None for data that are none, or are not there any more."""
    if not isinstance(config, Text | Stdlib):
        return None
    try:
        return config.bytes_per_token
    except NotPrepared:
        return None


def bits_a_byte(loss: Any, bytes_per_token: float) -> Any:
    """A loss in nats a token as bits for each byte."""
    return loss / math.log(2) / bytes_per_token


def ngrams(run: Run) -> dict[str, float]:
    """Held-out bits a byte of n-grams (`wsdjax.data.ngrams`), by what each is called; empty for a
    run that is not of one text. They are counted once, on as many tokens as the longest lineage
    read, and on the whole training text if that is not too long; kept in `baselines.json`.
    """
    edges = list(run.edges.values())
    config = edges[0].data
    if bytes_per_token(config) is None or any(edge.data != config for edge in edges):
        return {}
    windows = max(edge.end * edge.batch_size for edge in edges)
    path = run.workdir / "baselines.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    if kept.get("windows") != windows:
        kept = {"windows": windows, "bits_a_byte": _count(config, windows)}
        write_atomically(path, json.dumps(kept, indent=1) + "\n")
    return kept["bits_a_byte"]


def _count(config: Any, read: int) -> dict[str, float]:
    dataset = data.load(config)
    held_out = dataset.test.part(0, dataset.test.size)
    test = np.concatenate([held_out["inputs"], held_out["targets"][:, -1:]], axis=1)
    most = min(dataset.train.size, MOST // config.length)
    found: dict[str, float] = {}
    for windows in dict.fromkeys((min(read, most), most)):
        # Windows follow one another: their inputs are the text.
        train = dataset.train.part(0, windows)["inputs"].ravel()
        of = f"counted on {len(train) / 1e6:.3g}M tokens"
        for order in ORDERS:
            if config.classes**order >= 2**63:
                continue
            name = "bigram" if order == 2 else f"{order}-gram"
            loss = ngram_loss(train, test, order, config.classes)
            found[f"{name}, {of}"] = bits_a_byte(loss, config.bytes_per_token)
    return found
