"""Text to token shards, which `Text(directory=DIR)` reads (`wsdjax.data.tokens`).

The inputs, in the order of their names, are cut into jobs of whole files, each of which makes one
shard for training and one for testing. Which jobs there are depends on the inputs alone, so that
the shards are the same to the byte for any number of workers, and after any kill: a shard has its
name once it is whole, and the same command makes those that are missing; what a kill loses are the
jobs that were in work. A document is held out by a hash of its text, so that none is in both
splits.

The Pile with the tokenizer of GPT-NeoX, as Pythia was trained. It is no longer published whole;
this copy, in the same 30 files, leaves out the parts under copyright:

    hf download EleutherAI/gpt-neox-20b tokenizer.json --local-dir neox
    hf download monology/pile-uncopyrighted --repo-type dataset --include 'train/*' --local-dir pile
    python -m experiments.prepare text --input 'pile/train/*.jsonl.zst' \\
        --tokenizer neox/tokenizer.json --out data/pile

SlimPajama-627B, 59,166 files of 895 GB that become 1.3 TB of shards (of a tenth of it,
train/chunk1, come some 60 billion tokens):

    hf download cerebras/SlimPajama-627B --repo-type dataset --include 'train/*' --local-dir slim
    python -m experiments.prepare text --input 'slim/train/**/*.jsonl.zst' \\
        --tokenizer neox/tokenizer.json --out data/slimpajama
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from experiments.documents import Source, find
from experiments.prepare_workers import Job, Plan, PrepareError, work
from wsdjax.data import tokenizer as tokenizers
from wsdjax.data import tokens
from wsdjax.files import write_atomically

PLAN = "plan.json"
_FEW = 10_000
"""Held-out tokens below which a loss is a rough one."""
_MOST_SHARDS = 2_048
"""Of a split, since training looks at each one's header before it begins."""


def prepare_text(
    inputs: Sequence[str], tokenizer: str, out: Path, plan: Plan, workers: int = 1
) -> None:
    """Writes the inputs as token shards into `out`, as far as they are not there yet.

    Raises:
      UserError: for what cannot be read or had, for a directory that holds something else, and
        for a corpus without documents in both splits.
    """
    if not 0 < plan.held_out < 1:
        raise PrepareError(f"--held_out={plan.held_out}: must be between 0 and 1")
    if workers < 1 or plan.shard_bytes < 1:
        raise PrepareError("--workers and --shard_bytes must be at least 1")
    chosen = tokenizers.load(tokenizer, plan.separator)
    sources = find(inputs)
    if out.exists() and not out.is_dir():
        raise PrepareError(f"--out {out} is a file: name a directory")
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        _agree(out, sources, chosen, plan)
        jobs = split_into_jobs(sources, plan.shard_bytes)
        missing = [job for job in jobs if not _is_done(job, out, chosen)]
        if missing:
            (out / tokens.JSON).unlink(missing_ok=True)
            for_workers = "bytes"
            if isinstance(chosen, tokenizers.Learned):
                for_workers = str(out / "tokenizer.json")  # it need not be fetched again
                chosen.save(for_workers)
            work(missing, len(jobs), workers, (out, chosen.fingerprint, for_workers, plan))
        described = _describe(jobs, out, chosen)
        tokens.write_description(described)
    sizes = ", ".join(
        f"{split} {sum(s.tokens for s in shards):,}" for split, shards in described.splits.items()
    )
    test = sum(shard.tokens for shard in described.splits["test"])
    if test < _FEW:
        print(f"{out}: only {test:,} held-out tokens: --held_out takes a larger share")
    print(
        f"{out} is {'prepared' if missing else 'already prepared'}: {sizes} tokens of "
        f"{chosen.vocabulary:,} by {chosen.name}"
    )


def split_into_jobs(sources: Iterable[Source], shard_bytes: int) -> list[Job]:
    """Neighbouring sources together, until they have `shard_bytes`, or more where that would
    make too many jobs."""
    sources = list(sources)
    enough = max(shard_bytes, math.ceil(sum(source.size for source in sources) / _MOST_SHARDS))
    jobs: list[Job] = []
    names: list[str] = []
    size = 0
    for source in sources:
        names.append(source.name)
        size += source.size
        if size >= enough:
            jobs.append(Job(len(jobs), tuple(names)))
            names, size = [], 0
    return [*jobs, Job(len(jobs), tuple(names))] if names else jobs


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PrepareError(f"another process is preparing text in {out}") from None
        for left_by_a_kill in out.glob("*.tmp"):
            left_by_a_kill.unlink()
        yield


def _agree(out: Path, sources: Sequence[Source], chosen: tokenizers.Tokenizer, plan: Plan) -> None:
    """Sees that what is in the directory is what is asked for; a new one gets it in writing."""
    asked = {
        "tokenizer": {"name": chosen.name, "fingerprint": chosen.fingerprint},
        **{f"--{name}": value for name, value in dataclasses.asdict(plan).items()},
        "inputs": [list(source) for source in sources],
    }
    path = out / PLAN
    if not path.exists():
        if (out / tokens.JSON).exists():
            raise PrepareError(f"{out} holds tokens that were not made here: give another --out")
        write_atomically(path, json.dumps(asked, indent=1) + "\n")
    try:
        begun = json.loads(path.read_text())
        fingerprint = begun["tokenizer"]["fingerprint"]
    except (ValueError, TypeError, KeyError):
        raise PrepareError(f"{path} is damaged: delete {out}, or give another --out") from None
    different = [name for name in asked if begun.get(name) != asked[name]]
    if fingerprint == chosen.fingerprint and "tokenizer" in different:
        different.remove("tokenizer")  # the same one under another name
    if different and not _has_tokens(out):
        # Begun, and nothing came of it: the documents were at fault, or what was asked of them.
        for path in out.glob("*.tokens"):
            path.unlink()
        write_atomically(out / PLAN, json.dumps(asked, indent=1) + "\n")
    elif different:
        what = different[0]
        told = "" if what == "inputs" else f", {begun[what]!r} there and {asked[what]!r} now"
        raise PrepareError(
            f"{out} was begun with another {what}{told} (see {path}): give another --out, or "
            "delete it"
        )


def _has_tokens(out: Path) -> bool:
    return any(path.stat().st_size > tokens.HEADER_BYTES for path in out.glob("*.tokens"))


def _is_done(job: Job, out: Path, chosen: tokenizers.Tokenizer) -> bool:
    try:
        for path in job.paths(out):
            tokens.read_shard(path, chosen.fingerprint, chosen.vocabulary)
    except tokens.TokensError:  # missing, or spoilt since
        return False
    return True


def _describe(jobs: Sequence[Job], out: Path, chosen: tokenizers.Tokenizer) -> tokens.Description:
    splits: dict[str, list[tokens.Shard]] = {split: [] for split in tokens.SPLITS}
    for job in jobs:
        for shards, path in zip(splits.values(), job.paths(out), strict=True):
            shard = tokens.read_shard(path, chosen.fingerprint, chosen.vocabulary)
            if shard.tokens:
                shards.append(shard)
    if not any(splits.values()):
        raise PrepareError(f"{', '.join(jobs[0].sources[:3])}: no document with any text")
    for split, shards in splits.items():
        if not shards:
            raise PrepareError(
                f"{out}: no document for {split!r}: give more documents or another --held_out, "
                "and another --out"
            )
    return tokens.Description(
        out, chosen.name, chosen.fingerprint, chosen.vocabulary, chosen.separator, splits
    )
