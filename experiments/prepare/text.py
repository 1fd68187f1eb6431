"""Text to token shards, which `Text(directory=DIR)` reads (`wsdjax.data.tokens`).

The inputs, in the order of their names, are cut into jobs of whole files, each of which makes one
shard for training and one for testing. Which jobs there are depends on the inputs alone, so that
the shards are the same to the byte for any number of workers, and after any kill: a shard has its
name once it is whole, and the same command makes those that are missing; what a kill loses are the
jobs that were in work. An input that was mended, or came, leaves the shards of the others as they
are (`jobs`); what is prepared to the end is not changed unless its tokens.json is
deleted. A document is held out by a hash of its text, so that none is in both splits.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from experiments.prepare import PrepareError
from experiments.prepare import jobs as records
from experiments.prepare.jobs import JOBS, Job, Made, Plan, Tolerance, split_into_jobs
from experiments.prepare.sources import find
from experiments.prepare.workers import Settings, work
from wsdjax import lock, memory
from wsdjax.data import tokenizer as tokenizers
from wsdjax.data import tokens
from wsdjax.files import read_json, write_json
from wsdjax.wording import shortened

PLAN = "plan.json"
_PLACES = 10
"""Rows that were left out, of which the end tells one by one."""
_FEW = 10_000
"""Held-out tokens below which a loss is a rough one."""
_WORKER_BYTES = 2**27
"""About what a worker takes at the least."""


def prepare_text(
    inputs: Sequence[str],
    tokenizer: str,
    out: Path,
    plan: Plan,
    workers: int = 1,
    allowed: Tolerance = Tolerance(),  # noqa: B008
) -> None:
    """Writes the inputs as token shards into `out`, as far as they are not there yet.

    Raises:
      UserError: for what cannot be read or had, for a directory that holds something else, and
        for a corpus without documents in both splits.
    """
    _check_workers(workers)
    chosen = tokenizers.load(tokenizer, plan.separator)
    found = find(inputs)
    print(found, flush=True)
    if out.exists() and not out.is_dir():
        raise PrepareError(f"--out {out} is a file: name a directory")
    jobs = split_into_jobs(found.sources, plan.shard_bytes)
    with lock.held(out, busy="another process is preparing text in {}: wait for it, or stop it"):
        for left_by_a_kill in out.glob("*.tmp"):  # its workers may be there still, and go
            left_by_a_kill.unlink(missing_ok=True)
        made = _agreed(out, jobs, chosen, plan)
        missing = [job for job in jobs if job.number not in made]
        for_workers = "bytes"
        if isinstance(chosen, tokenizers.Learned):
            for_workers = str(out / "tokenizer.json")  # it need not be fetched again
            chosen.save(for_workers)
        if missing:
            (out / tokens.JSON).unlink(missing_ok=True)

            def finished(done: Made) -> None:
                made[done.job] = done
                records.add(out, done)

            settings = Settings(out, for_workers, plan, allowed)
            work(missing, len(jobs), workers, settings, finished)
        for done in made.values():
            done.check(allowed)
        described = _describe(jobs, made, out, chosen)
        tokens.write_description(described)
    _tell(described, made, f"{out} is {'prepared' if missing else 'already prepared'}")


def verify(out: Path, workers: int = 1) -> None:
    """Reads every token of a prepared directory, and sees that it is what was written.

    Raises:
      TokensError: naming the shard that is damaged.
      PrepareError: for a number of workers that cannot be.
    """
    _check_workers(workers)
    described = tokens.describe(out)
    shards = [(out / s.file, s) for split in described.splits.values() for s in split]
    for path, shard in shards:
        if tokens.read_shard(path, described.fingerprint, described.vocabulary) != shard:
            raise tokens.TokensError(f"{path} is not the shard that tokens.json tells of")
    with ThreadPoolExecutor(min(workers, os.cpu_count() or 1)) as pool:
        list(pool.map(lambda each: tokens.verify(*each), shards))  # which raises what one did
    size = sum(shard.tokens for _, shard in shards)
    print(f"{out}: all {size:,} tokens of {len(shards):,} shards are those that were written")


def _check_workers(workers: int) -> None:
    there = memory.of_machine()
    most = max(1, int(there // _WORKER_BYTES))
    if not 1 <= workers <= most:
        asked = f"{workers:,}" if abs(workers) < 2**63 else "..."
        raise PrepareError(
            f"--workers={asked}: must be between 1 and {most:,}: each takes {_WORKER_BYTES >> 20} "
            f"MiB or more, of {there / 2**30:.0f} GiB that this machine has"
        )


def _agreed(
    out: Path, jobs: Sequence[Job], chosen: tokenizers.Tokenizer, plan: Plan
) -> dict[int, Made]:
    """Sees that what is in the directory is what is asked for; a new one gets it in writing.

    Returns:
      The jobs that are done; whatever else was made is deleted.
    """
    before = _made_before(out, chosen, plan)
    kept = records.unchanged(before, jobs)
    changed = [n for n in before if n not in kept]
    finished = (out / tokens.JSON).exists()
    if finished:
        changed += [job.number for job in jobs if job.number not in before]
    refused = [
        each
        for each in (records.inputs(n, before, jobs) for n in changed)
        if not (each.may_be_unchanged if finished else each.names_are_the_same)
    ]
    if refused:
        mended = all(each.names_are_the_same for each in refused)
        raise PrepareError(
            f"{out} was begun with other inputs: {refused[0].changed_name} came, went or changed. "
            "Give another --out, or delete "
            + (f"{tokens.JSON} in it to make again what changed" if mended else "it")
        )
    made = {
        job.number: whole
        for job in jobs
        if job.number in kept and (whole := records.whole(job, kept[job.number], out, chosen))
    }
    if changed:
        print(f"{len(made):,} of {len(jobs):,} shards are kept, {len(changed):,} have other inputs")
    keep = {path for job in jobs if job.number in made for path in job.paths(out)}
    for path in set(out.glob("*.tokens")) - keep:
        path.unlink()
    records.rewrite(out, made)
    return made


def _made_before(out: Path, chosen: tokenizers.Tokenizer, plan: Plan) -> dict[int, Made]:
    asked = {
        "tokenizer": {"name": chosen.name, "fingerprint": chosen.fingerprint},
        **{f"--{name}": value for name, value in dataclasses.asdict(plan).items()},
    }
    path, remedy = out / PLAN, f"delete {out}, or give another --out"
    if not path.exists():
        if (out / tokens.JSON).exists():
            raise PrepareError(f"{out} holds tokens that were not made here: give another --out")
        (out / JOBS).unlink(missing_ok=True)
        write_json(path, asked)
        return {}
    begun = read_json(path, remedy)
    different = [name for name in asked if begun.get(name) != asked[name]]
    known = begun.get("tokenizer")
    if isinstance(known, dict) and known.get("fingerprint") == chosen.fingerprint:
        different = [name for name in different if name != "tokenizer"]  # under another name
    if not _has_tokens(out) and (different or not (out / tokens.JSON).exists()):
        # Begun, and nothing came of it: the documents were at fault, or what was asked of them.
        (out / JOBS).unlink(missing_ok=True)
        write_json(path, asked)
        return {}
    if different:
        what = different[0]
        there, now = (shortened(repr(each.get(what))) for each in (begun, asked))
        raise PrepareError(
            f"{out} was begun with another {what}, {there} there and {now} now: give another "
            "--out, or delete it"
        )
    if (out / JOBS).exists():
        return records.read(out)
    try:
        return records.of_older(begun.get("inputs", []), plan.shard_bytes)
    except TypeError:
        raise PrepareError(f"{path} is damaged: {remedy}") from None


def _has_tokens(out: Path) -> bool:
    return any(path.stat().st_size > tokens.HEADER_BYTES for path in out.glob("*.tokens"))


def _describe(
    jobs: Sequence[Job], made: dict[int, Made], out: Path, chosen: tokenizers.Tokenizer
) -> tokens.Description:
    splits: dict[str, list[tokens.Shard]] = {split: [] for split in tokens.SPLITS}
    for job in jobs:
        for shards, shard in zip(splits.values(), records.shards(job, out, chosen), strict=True):
            if shard.tokens:
                shards.append(shard)
    if not any(splits.values()):
        names = ", ".join(source.name for source in jobs[0].sources[:3])
        raise PrepareError(f"{names}: no document with any text")
    for split, shards in splits.items():
        if not shards:
            raise PrepareError(
                f"{out}: no document for {split!r}: give more documents or another --held_out, "
                "and another --out"
            )
    return tokens.Description(
        out,
        *(chosen.name, chosen.fingerprint, chosen.vocabulary, chosen.separator),
        splits,
        sum(done.lost_bytes for done in made.values()),
        sum(done.rows_left_out for done in made.values()),
    )


def _tell(described: tokens.Description, made: dict[int, Made], what: str) -> None:
    out, splits = described.directory, described.splits
    sizes = {split: sum(shard.tokens for shard in shards) for split, shards in splits.items()}
    if sizes["test"] < _FEW:
        print(f"{out}: only {sizes['test']:,} held-out tokens: --held_out takes a larger share")
    if described.lost_bytes:
        share = described.lost_bytes / sum(done.text_bytes for done in made.values())
        print(
            f"{out}: the tokenizer has no tokens for {described.lost_bytes:,} bytes of the text "
            f"({share:.2%}); bits a byte are of the others"
        )
    if described.rows_left_out:
        where = [place for _, done in sorted(made.items()) for place in done.where]
        print(f"{out}: {described.rows_left_out:,} rows were left out, since they cannot be read:")
        print("\n".join(f"  {place}" for place in where[:_PLACES]))
        if described.rows_left_out > _PLACES:
            print(f"  and others, of which {out / JOBS} has more")
    told = ", ".join(f"{split} {size:,}" for split, size in sizes.items())
    print(f"{what}: {told} tokens of {described.vocabulary:,} by {described.tokenizer}")
