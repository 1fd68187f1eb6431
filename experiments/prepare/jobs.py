"""A preparation in jobs, each of which makes one shard for training and one for testing; and what
each pair was made of, so that unchanged inputs keep theirs.

    OUT/plan.json    the tokenizer and the settings that OUT was begun with
    OUT/jobs.jsonl   for each job that is done: its inputs (name, size, time, SHA-256), its shards'
                     digests, and what was left out

An input is unchanged if its size and content are: neither a `touch` nor another folder makes a
difference. The content is read for that only where name and time are not what they were.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from experiments.prepare import PrepareError
from experiments.prepare.sources import Source
from wsdjax.data import tokens
from wsdjax.data.tokenizer import Tokenizer
from wsdjax.files import naming, read_json_lines, write_if_changed

JOBS = "jobs.jsonl"
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


class Job(NamedTuple):
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
        """A `PrepareError` for more that was left out than is allowed."""
        if self.lost_bytes > allowed.lost * self.text_bytes:
            share = self.lost_bytes / self.text_bytes
            others = len(self.inputs) - 1
            more = f" and {others:,} more" if others else ""
            raise PrepareError(
                f"{self.inputs[0][0]}{more}: the tokenizer has no tokens for {share:.2%} of the "
                f"text's bytes, and --lost={allowed.lost} allows {allowed.lost:.2%}: take a "
                "tokenizer that has them (of bytes, or with byte fallback)"
            )
        if self.rows_left_out and allowed.bad_rows == "stop":
            raise PrepareError(
                f"{self.rows_left_out:,} rows were left out, such as {self.where[0]}: give "
                "--bad_rows=skip again, or another --out"
            )


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


# What is made, and of what.


def read(out: Path) -> dict[int, Made]:
    """The jobs that are done, by their numbers.

    Raises:
      DamagedFile, PrepareError: for a line that is no record.
    """
    made = {}
    remedy = f"delete {out}, or give another --out"
    for number, row in enumerate(read_json_lines(out / JOBS, remedy), 1):
        try:
            done = Made(**row)
            for _, size, changed, _ in done.inputs:
                int(size) + int(changed)
            int(done.text_bytes) + int(done.lost_bytes) + int(done.rows_left_out)
            made[int(done.job)] = done
        except (TypeError, ValueError):
            raise PrepareError(
                f"{out / JOBS}, line {number}: no record of a job; {remedy}"
            ) from None
    return made


def add(out: Path, made: Made) -> None:
    """Writes down that a job is done, once its shards have their names."""
    with naming(out / JOBS), (out / JOBS).open("a") as file:
        file.write(_line(made))
        file.flush()
        os.fsync(file.fileno())


def rewrite(out: Path, made: dict[int, Made]) -> None:
    write_if_changed(out / JOBS, "".join(map(_line, made.values())))


def _line(made: Made) -> str:
    return json.dumps(made._asdict()) + "\n"


class Inputs(NamedTuple):
    """Those that a job had when it was done, and those that it has now."""

    before: list[list]
    now: list[Source]

    @property
    def names_are_the_same(self) -> bool:
        return [each[0] for each in self.before] == [each.name for each in self.now]

    @property
    def may_be_unchanged(self) -> bool:
        """Whether they differ by their times alone, and nobody knows what was in them."""
        return len(self.before) == len(self.now) and all(
            old[:2] == list(new[:2]) and (old[2] == new.changed or not old[3])
            for old, new in zip(self.before, self.now, strict=True)
        )

    @property
    def changed_name(self) -> str:
        """Of the first that is not what it was."""
        pairs = zip_longest([each[:3] for each in self.before], map(list, self.now))
        return next(str((new or old)[0]) for old, new in pairs if old != new)


def inputs(n: int, made: dict[int, Made], jobs: Sequence[Job]) -> Inputs:
    before = made[n].inputs if n in made else []
    return Inputs(before, list(jobs[n].sources) if n < len(jobs) else [])


def unchanged(made: dict[int, Made], jobs: Sequence[Job]) -> dict[int, Made]:
    """What was made of the very inputs of these jobs, with their names and times of now."""
    pairs = {
        job.number: list(zip(made[job.number].inputs, job.sources, strict=True))
        for job in jobs
        if job.number in made and len(made[job.number].inputs) == len(job.sources)
    }
    both = [pair for each in pairs.values() for pair in each]
    moved = [s.name for old, s in both if old[:3] != list(s) and old[1] == s.size and old[3]]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = dict(zip(moved, pool.map(digest, moved), strict=True))
    return {
        n: made[n]._replace(inputs=[[*source, old[3]] for old, source in each])
        for n, each in pairs.items()
        if all(old[:3] == list(s) or (old[3] and digests.get(s.name) == old[3]) for old, s in each)
    }


def digest(name: str) -> str:
    """The SHA-256 of a file's content; "" for a data set of the hub."""
    if name.startswith("hf:"):
        return ""
    with open(name, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shards(job: Job, out: Path, chosen: Tokenizer) -> list[tokens.Shard]:
    """What the headers of a job's shards tell.

    Raises:
      TokensError: for one that is missing, or spoilt since.
    """
    return [
        tokens.read_shard(path, chosen.fingerprint, chosen.vocabulary) for path in job.paths(out)
    ]


def whole(job: Job, made: Made, out: Path, chosen: Tokenizer) -> Made | None:
    """The record with its shards' digests, if they are still what was made."""
    try:
        found = [shard.digest for shard in shards(job, out, chosen)]
    except tokens.TokensError:
        return None
    return made._replace(shards=found) if made.shards in ([], found) else None


def of_older(inputs: list[list], shard_bytes: int) -> dict[int, Made]:
    """The records of a directory that has none, since it was begun when plan.json had the inputs
    and nothing told which jobs were done: whichever have shards."""
    jobs = split_into_jobs((Source(*each) for each in inputs), shard_bytes)
    return {
        job.number: Made(job.number, [[*source, ""] for source in job.sources], []) for job in jobs
    }
