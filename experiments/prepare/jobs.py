"""A preparation in jobs, each of which makes one shard for training and one for testing."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from experiments.prepare import PrepareError
from experiments.prepare.sources import Source
from wsdjax.data import tokens

_MOST_SHARDS = 2_048
"""Of a split, since training looks at each one's header before it begins."""


@dataclass(frozen=True)
class Plan:
    """What decides the shards, beside the inputs and the tokenizer."""

    held_out: float = 0.005
    """The share of documents for testing."""
    text_field: str = "text"
    shard_bytes: int = 2**24
    separator: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise PrepareError(f"--held_out={self.held_out}: must be between 0 and 1")
        if not 1 <= self.shard_bytes <= 2**40:
            raise PrepareError("--shard_bytes must be between 1 and 2^40")


@dataclass(frozen=True)
class Tolerance:
    """What may be left out, which decides no shard of inputs that have no such fault."""

    bad_rows: str = "stop"
    """"stop" or "skip": what a row that cannot be read leads to."""
    lost: float = 0.01
    """The greatest share of a job's text that the tokenizer may have no tokens for."""

    def __post_init__(self) -> None:
        if not 0 <= self.lost <= 1:
            raise PrepareError(f"--lost={self.lost}: must be between 0 and 1")


@dataclass(frozen=True)
class Job:
    """One training shard and one test shard."""

    number: int
    sources: tuple[Source, ...]

    def paths(self, out: Path) -> list[Path]:
        return [out / tokens.shard_name(split, self.number) for split in tokens.SPLITS]


class Made(NamedTuple):
    """What a job has made."""

    job: int
    inputs: list[list]
    """Of each source the name, the size, the time and the SHA-256 of its content; "" for none."""
    shards: list[str]
    """The digests of its shards; [] where that was not written down."""
    text_bytes: int = 0
    lost_bytes: int = 0
    """Of the text's bytes, those that the tokenizer has no tokens for."""
    rows_left_out: int = 0
    where: list[str] = []  # noqa: RUF012
    """The first rows that were left out, and why."""

    def check(self, allowed: Tolerance) -> None:
        """Raises:
        PrepareError: for more that was left out than is allowed.
        """
        if self.lost_bytes > allowed.lost * self.text_bytes:
            share = self.lost_bytes / self.text_bytes
            raise PrepareError(
                f"{_few(self.inputs)}: the tokenizer has no tokens for {share:.2%} of the text's "
                f"bytes, and --lost={allowed.lost} allows {allowed.lost:.2%}: take a tokenizer "
                "that has them (of bytes, or with byte fallback)"
            )
        if self.rows_left_out and allowed.bad_rows == "stop":
            raise PrepareError(
                f"{self.rows_left_out:,} rows were left out, such as {self.where[0]}: give "
                "--bad_rows=skip again, or another --out"
            )


def _few(inputs: list[list]) -> str:
    more = f" and {len(inputs) - 1:,} more" if len(inputs) > 1 else ""
    return f"{inputs[0][0]}{more}"


def split_into_jobs(sources: Iterable[Source], shard_bytes: int) -> list[Job]:
    """Neighbouring sources together, until they have `shard_bytes`, or more where that would
    make too many jobs."""
    sources = list(sources)
    enough = max(shard_bytes, math.ceil(sum(source.size for source in sources) / _MOST_SHARDS))
    jobs: list[Job] = []
    together: list[Source] = []
    size = 0
    for source in sources:
        together.append(source)
        size += source.size
        if size >= enough:
            jobs.append(Job(len(jobs), tuple(together)))
            together, size = [], 0
    return [*jobs, Job(len(jobs), tuple(together))] if together else jobs
