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
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from experiments.prepare import PrepareError
from experiments.prepare.sources import Source
from wsdjax.data import tokens
from wsdjax.data.tokenizer import Tokenizer
from wsdjax.files import naming, read_json_lines, write_if_changed

T = TypeVar("T")
JOBS = "jobs.jsonl"
_MOST_SHARDS = 2_048
"""The limit for a split, since training looks at each one's header before it begins."""


class Settings(NamedTuple):
    """What is asked for, beside the inputs and the tokenizer."""

    held_out: float
    """The share of documents for testing."""
    text_field: str
    shard_bytes: int
    separator: str | None
    bad_rows: str
    """"stop" or "skip": what a row that cannot be read leads to."""
    lost: float
    """The greatest share of a job's text that the tokenizer may have no tokens for."""

    def plan(self) -> dict[str, Any]:
        """Those that decide the shards; what is tolerated decides none of inputs without faults."""
        return {f"--{name}": getattr(self, name) for name in self._fields[:4]}


class Job(NamedTuple):
    """One training shard and one test shard."""

    number: int
    sources: tuple[Source, ...]

    def paths(self, out: Path) -> list[Path]:
        return [out / tokens.shard_name(split, self.number) for split in tokens.SPLITS]


class Made(NamedTuple):
    """The product of a job."""

    job: int
    inputs: list[list]
    """Each source's name, size, time and `digest`; "" where that was not written down."""
    shards: list[str]
    """The digests of its shards; [] where that was not written down."""
    text_bytes: int = 0
    lost_bytes: int = 0
    """Bytes of the text that the tokenizer has no tokens for."""
    rows_left_out: int = 0
    where: list[str] = []  # noqa: RUF012
    """The first rows that were left out, and why."""

    def check(self, allowed: Settings) -> None:
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
    together = gathered(sources, lambda source: source.size, enough)
    return [Job(number, tuple(each)) for number, each in enumerate(together)]


def gathered(items: Iterable[T], size: Callable[[T], int], enough: int) -> Iterator[list[T]]:
    """Neighbours together, until their sizes come to enough."""
    together: list[T] = []
    total = 0
    for item in items:
        together.append(item)
        total += size(item)
        if total >= enough:
            yield together
            together, total = [], 0
    if together:
        yield together


def read(out: Path) -> dict[int, Made]:
    """The jobs that are done, by their numbers."""
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
            said = f"{out / JOBS}, line {number}: no record of a job; {remedy}"
            raise PrepareError(said) from None
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


def unchanged(made: dict[int, Made], jobs: Sequence[Job]) -> dict[int, Made]:
    """Results made of the very inputs of these jobs, with their present names and times."""
    known = {tuple(each[:3]): each[3] for done in made.values() for each in done.inputs}
    alike = [
        job
        for job in jobs
        if job.number in made
        and [source.size for source in job.sources] == [i[1] for i in made[job.number].inputs]
    ]
    moved = [source for job in alike for source in job.sources if source not in known]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        known |= zip(moved, pool.map(lambda source: digest(source.name), moved), strict=True)
    found = {}
    for job in alike:
        inputs = [[*source, known[source]] for source in job.sources]
        if [each[3] for each in inputs] == [each[3] for each in made[job.number].inputs]:
            found[job.number] = made[job.number]._replace(inputs=inputs)
    return found


def digest(name: str) -> str:
    """The SHA-256 of a file's content; of a data set of the hub its name."""
    if name.startswith("hf:"):
        return name
    with open(name, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shards(job: Job, out: Path, chosen: Tokenizer) -> list[tokens.Shard]:
    """Reads the headers of a job's shards; a `TokensError` for one that is missing or spoilt."""
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
