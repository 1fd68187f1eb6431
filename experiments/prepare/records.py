"""What each pair of shards was made of, so that unchanged inputs keep theirs.

    OUT/plan.json    the tokenizer and the settings that OUT was begun with
    OUT/jobs.jsonl   for each job that is done: its inputs (name, size, time, SHA-256), its shards'
                     digests, and what was left out

An input is unchanged if its size and content are: neither a `touch` nor another folder makes a
difference. The content is read for that only where name and time are not what they were.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path

from experiments.prepare.jobs import Job, Made, PrepareError, split_into_jobs
from experiments.prepare.sources import Source
from wsdjax.data import tokens
from wsdjax.data.tokenizer import Tokenizer
from wsdjax.files import naming, read_json_lines, write_if_changed

JOBS = "jobs.jsonl"


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
    content = "".join(map(_line, made.values()))
    write_if_changed(out / JOBS, content)


def _line(made: Made) -> str:
    return json.dumps(made._asdict()) + "\n"


def unchanged(made: dict[int, Made], jobs: Sequence[Job]) -> dict[int, Made]:
    """What was made of the very inputs of these jobs, with their names and times of now."""
    pairs = [
        (old, source)
        for job in jobs
        if job.number in made and len(made[job.number].inputs) == len(job.sources)
        for old, source in zip(made[job.number].inputs, job.sources, strict=True)
    ]
    moved = [s.name for old, s in pairs if old[:3] != list(s) and old[1] == s.size and old[3]]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = dict(zip(moved, pool.map(digest, moved), strict=True))
    kept = {}
    for job in jobs:
        if job.number not in made or len(made[job.number].inputs) != len(job.sources):
            continue
        inputs = made[job.number].inputs
        if all(
            old[:3] == list(source) or (old[3] and digests.get(source.name) == old[3])
            for old, source in zip(inputs, job.sources, strict=True)
        ):
            now = [[*source, old[3]] for source, old in zip(job.sources, inputs, strict=True)]
            kept[job.number] = made[job.number]._replace(inputs=now)
    return kept


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


def have_same_names(n: int, made: dict[int, Made], jobs: Sequence[Job]) -> bool:
    """Whether job n has the inputs that it had, though they may have changed."""
    before, now = _inputs(n, made, jobs)
    return [each[0] for each in before] == [each[0] for each in now]


def may_be_unchanged(n: int, made: dict[int, Made], jobs: Sequence[Job]) -> bool:
    """Whether job n's inputs differ by their times alone, and nobody knows what was in them."""
    before, now = _inputs(n, made, jobs)
    return [each[:2] for each in before] == [each[:2] for each in now] and all(
        old[:3] == new or not old[3] for old, new in zip(before, now, strict=True)
    )


def changed_name(n: int, made: dict[int, Made], jobs: Sequence[Job]) -> str:
    """Of the first input of job n that is not what it was."""
    before, now = _inputs(n, made, jobs)
    pairs = zip_longest([each[:3] for each in before], now)
    return next((new or old)[0] for old, new in pairs if old != new)


def _inputs(n: int, made: dict[int, Made], jobs: Sequence[Job]) -> tuple[list[list], list[list]]:
    before = made[n].inputs if n in made else []
    return before, [list(source) for source in jobs[n].sources] if n < len(jobs) else []


def of_older(inputs: list[list], shard_bytes: int) -> dict[int, Made]:
    """The records of a directory that has none, since it was begun when plan.json had the inputs
    and nothing told which jobs were done: whichever have shards."""
    jobs = split_into_jobs((Source(*each) for each in inputs), shard_bytes)
    return {
        job.number: Made(job.number, [[*source, ""] for source in job.sources], []) for job in jobs
    }
