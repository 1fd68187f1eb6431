"""Documents to token shards, in processes: each job makes one shard for training and one for
testing."""

from __future__ import annotations

import hashlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.documents import documents
from experiments.prepare_progress import Progress
from wsdjax.data import tokenizer as tokenizers
from wsdjax.data import tokens
from wsdjax.validation import UserError

_CHARACTERS_TOGETHER = 2**20


class PrepareError(UserError):
    """What could not be prepared and what to do about it, in one line."""


@dataclass(frozen=True)
class Plan:
    """What decides the shards, beside the inputs and the tokenizer."""

    held_out: float = 0.005
    """The share of documents for testing."""
    text_field: str = "text"
    shard_bytes: int = 2**24
    separator: str | None = None


@dataclass(frozen=True)
class Job:
    """One training shard and one test shard."""

    number: int
    sources: tuple[str, ...]

    def paths(self, out: Path) -> list[Path]:
        return [out / tokens.shard_name(split, self.number) for split in tokens.SPLITS]


def work(jobs: Sequence[Job], of: int, workers: int, settings: tuple) -> None:
    """Does the jobs in processes; the first error stops them all."""
    spawn = multiprocessing.get_context("spawn")
    written, stop = spawn.Value("q", 0), spawn.Value("b", False)
    pool = ProcessPoolExecutor(min(workers, len(jobs)), spawn, _begin, (written, stop, *settings))
    progress = Progress(of - len(jobs), of)
    waiting = {pool.submit(_write, job) for job in jobs}
    try:
        while waiting:
            done, waiting = wait(waiting, timeout=1, return_when=FIRST_COMPLETED)
            for each in done:
                each.result()
            progress.show(of - len(waiting), written.value)
    except BrokenProcessPool:
        raise PrepareError("a worker was killed, for memory perhaps: try fewer --workers") from None
    finally:
        stop.value = True
        pool.shutdown(cancel_futures=True)
        progress.stop()


_given: Any = None
"""What a worker was started with."""


def _begin(*given: Any) -> None:
    global _given
    written, stop, out, fingerprint, tokenizer, plan = given
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says when to stop
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a worker for each core does better
    chosen = tokenizers.load(tokenizer, plan.separator)
    _given = (written, stop, out, fingerprint, chosen, plan)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for it for ever."""
    parent = multiprocessing.parent_process()
    assert parent
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _write(job: Job) -> None:
    written, stop, out, fingerprint, chosen, plan = _given
    train, test = (
        tokens.ShardWriter(path, fingerprint, chosen.vocabulary) for path in job.paths(out)
    )
    for texts in _some(job, plan.text_field):
        count = 0
        for text, encoded in zip(texts, chosen.encode(texts), strict=True):
            content = text.encode()
            writer = test if _is_held_out(content, plan.held_out) else train
            writer.write_document(encoded, chosen.separator, len(content))
            count += len(encoded) + 1
        with written.get_lock():
            written.value += count
        if stop.value:
            return
    test.close()
    train.close()


def _some(job: Job, field: str) -> Iterator[list[str]]:
    """The documents, so many together that a call of the tokenizer is worth it."""
    texts: list[str] = []
    size = 0
    for name in job.sources:
        for text in documents(name, field):
            texts.append(text)
            size += len(text)
            if size >= _CHARACTERS_TOGETHER:
                yield texts
                texts, size = [], 0
    yield texts


def _is_held_out(content: bytes, share: float) -> bool:
    return int.from_bytes(hashlib.sha256(content).digest()[:8]) < share * 2**64
