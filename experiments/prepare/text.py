"""Text to token shards, which `Text(directory=DIR)` reads (`wsdjax.data.tokens`).

The inputs, in the order of their names, are cut into jobs of whole files, each of which makes one
shard for training and one for testing. Which jobs there are depends on the inputs alone, so that
the shards are the same to the byte for any number of workers, and after any kill: a shard has its
name once it is whole, and the same command makes those that are missing; what a kill loses are the
jobs that were in work. An input that was mended, or came, leaves the shards of the others as they
are (`jobs`); what is prepared to the end is not changed unless its tokens.json is deleted. A
document is held out by a hash of its text, so that none is in both splits.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from experiments.prepare import PrepareError
from experiments.prepare import jobs as records
from experiments.prepare.jobs import JOBS, Job, Made, Settings, split_into_jobs
from experiments.prepare.sources import find
from experiments.prepare.workers import make_shards, work
from wsdjax import lock
from wsdjax.data import tokenizer as tokenizers
from wsdjax.data import tokens
from wsdjax.files import read_json, write_json
from wsdjax.wording import shortened

PLAN = "plan.json"
_PLACES = 10
"""Rows that were left out, of which the end tells one by one."""
_FEW = 10_000
"""Held-out tokens below which a loss is a rough one."""


def prepare_text(
    inputs: Sequence[str], tokenizer: str, out: Path, settings: Settings, workers: int = 1
) -> None:
    """Writes the inputs as token shards into `out`, as far as they are not there yet."""
    chosen = tokenizers.load(tokenizer, settings.separator)
    found = find(inputs)
    print(found, flush=True)
    jobs = split_into_jobs(found.sources, settings.shard_bytes)
    with lock.held(out, busy="another process is preparing text in {}: wait for it, or stop it"):
        for left_by_a_kill in out.glob("*.tmp"):  # its workers may be there still, and go
            left_by_a_kill.unlink(missing_ok=True)
        made = _agreed(out, jobs, chosen, settings)
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

            make = partial(make_shards, out=out, tokenizer=for_workers, settings=settings)
            work(missing, len(jobs), workers, make, finished)
        for done in made.values():
            done.check(settings)
        described = _describe(jobs, made, out, chosen)
        tokens.write_description(described)
    _tell(described, made, f"{out} is {'prepared' if missing else 'already prepared'}")


def verify(out: Path, workers: int = 1) -> None:
    """Reads every token of a prepared directory, and sees that it is what was written."""
    described = tokens.describe(out)
    shards = [(out / s.file, s) for split in described.splits.values() for s in split]
    for path, shard in shards:
        if tokens.read_shard(path, described.fingerprint, described.vocabulary) != shard:
            raise tokens.TokensError(f"{path} is not the shard that tokens.json tells of")
    with ThreadPoolExecutor(min(workers, os.cpu_count() or 1)) as pool:
        list(pool.map(lambda each: tokens.verify(*each), shards))  # which raises what one did
    size = sum(shard.tokens for _, shard in shards)
    print(f"{out}: all {size:,} tokens of {len(shards):,} shards are those that were written")


def _agreed(
    out: Path, jobs: Sequence[Job], chosen: tokenizers.Tokenizer, settings: Settings
) -> dict[int, Made]:
    """The jobs that are done, if what is in the directory is what is asked for; a new one gets it
    in writing. Whatever else was made is deleted."""
    before = _made_before(out, chosen, settings)
    kept = records.unchanged(before, jobs)
    finished = (out / tokens.JSON).exists()
    had = {n: [each[:3] for each in done.inputs] for n, done in before.items()}
    asked = {job.number: [list(source) for source in job.sources] for job in jobs}

    def are_alike(n: int, columns: int) -> bool:
        was, now = ([each[:columns] for each in of.get(n, [])] for of in (had, asked))
        return was == now

    def may_be_made_again(n: int) -> bool:
        """What was mended before the end; after it what nobody knows to be other than it was."""
        known = finished and n in before and any(each[3] for each in before[n].inputs)
        return not known and are_alike(n, 2 if finished else 1)

    changed = [n for n in {*had, *(asked if finished else ())} if n not in kept]
    if refused := [n for n in changed if not may_be_made_again(n)]:
        was, now = ({tuple(each) for n in refused for each in of.get(n, [])} for of in (had, asked))
        mended = all(are_alike(n, 1) for n in refused)
        raise PrepareError(
            f"{out} was begun with other inputs: {min(was ^ now or now)[0]} came, went or changed. "
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


def _made_before(out: Path, chosen: tokenizers.Tokenizer, settings: Settings) -> dict[int, Made]:
    of_tokenizer = {"name": chosen.name, "fingerprint": chosen.fingerprint}
    asked = {"tokenizer": of_tokenizer, **settings.plan()}
    path, remedy = out / PLAN, f"delete {out}, or give another --out"
    begun = read_json(path, remedy) if path.exists() else {}
    if not begun and (out / tokens.JSON).exists():
        raise PrepareError(f"{out} holds tokens that were not made here: give another --out")
    if not begun or not any(p.stat().st_size > tokens.HEADER_BYTES for p in out.glob("*.tokens")):
        # Nothing came of it: the documents were at fault, or what was asked of them.
        (out / JOBS).unlink(missing_ok=True)
        write_json(path, asked)
        return {}
    known = begun.get("tokenizer")
    if isinstance(known, dict) and known.get("fingerprint") == chosen.fingerprint:
        asked["tokenizer"] = known  # under another name, perhaps
    for what, now in asked.items():
        if (there := begun.get(what)) != now:
            raise PrepareError(
                f"{out} was begun with another {what}, {shortened(repr(there))} there and "
                f"{shortened(repr(now))} now: give another --out, or delete it"
            )
    if (out / JOBS).exists():
        return records.read(out)
    try:
        return records.of_older(begun.get("inputs", []), settings.shard_bytes)
    except TypeError:
        raise PrepareError(f"{path} is damaged: {remedy}") from None


def _describe(
    jobs: Sequence[Job], made: dict[int, Made], out: Path, chosen: tokenizers.Tokenizer
) -> tokens.Description:
    made_by_split = zip(*(records.shards(job, out, chosen) for job in jobs), strict=True)
    splits = {
        split: [shard for shard in shards if shard.tokens]
        for split, shards in zip(tokens.SPLITS, made_by_split, strict=True)
    }
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
