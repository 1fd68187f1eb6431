"""Documents to token shards, in processes: each job makes one shard for training and one for
testing.

A worker has a pipe to the parent, and nothing else in common with the others, so that any of
them, and the parent too, may be killed at any time.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from experiments.cli.progress import Display
from experiments.prepare import PrepareError
from experiments.prepare.documents import LeftOut, documents
from experiments.prepare.jobs import Job, Made, Settings, digest, gathered
from experiments.prepare.sources import Source
from wsdjax.data import tokenizer as tokenizers
from wsdjax.data import tokens
from wsdjax.errors import UserError

_CHARACTERS_TOGETHER = 2**20
"""So many that a call of the tokenizer is worth it."""
Tell = Callable[[int], None]
Make = Callable[[Job, Tell], Made]
"""Does a job, and tells of so many tokens whenever they are written."""


def work(
    jobs: Sequence[Job], of: int, workers: int, make: Make, finished: Callable[[Made], None]
) -> None:
    """Does the jobs, of so many with those that are done, in processes, and tells what is
    `finished`; the first error stops them all."""
    spawn = multiprocessing.get_context("spawn")
    progress, began = Display("text", of - len(jobs), of, "shards"), time.monotonic()
    waiting, left, written = iter(jobs), len(jobs), 0
    pipes: dict[Any, Any] = {}
    try:
        # Ctrl-C is the parent's to hear: what it starts now inherits that it is held back. The
        # tracker, which starting a process starts too, would end that.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for _ in range(min(workers, len(jobs))):
                here, there = spawn.Pipe()
                worker = spawn.Process(target=_serve, args=(there, make), daemon=True)
                worker.start()
                there.close()
                pipes[here] = worker
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for pipe in pipes:
            pipe.send(next(waiting))
        while left:
            for pipe in multiprocessing.connection.wait(list(pipes), timeout=1):
                assert isinstance(pipe, multiprocessing.connection.Connection)
                told = pipe.recv()
                if isinstance(told, BaseException):
                    raise told
                if isinstance(told, int):
                    written += told
                    continue
                finished(told)
                left -= 1
                if job := next(waiting, None):
                    pipe.send(job)
            speed = written / (time.monotonic() - began)
            progress.show(f"{written:,} tokens, {speed:,.0f}/s", of - left)
    except (EOFError, ConnectionError):
        raise PrepareError("a worker was killed, for memory perhaps: try fewer --workers") from None
    finally:
        for worker in pipes.values():
            worker.kill()
        for worker in pipes.values():
            worker.join()
        progress.close()


def _serve(pipe: multiprocessing.connection.Connection, make: Make) -> None:
    """Does one job after the other."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a worker for each core does better
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent is gone
        while True:
            job = pipe.recv()
            try:
                told: Any = make(job, pipe.send)
            except MemoryError:
                told = PrepareError("a worker has no memory left: try fewer --workers")
            except (UserError, OSError) as error:
                told = error
            except Exception:
                told = RuntimeError(traceback.format_exc())
            pipe.send(told)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for it for ever."""
    parent = multiprocessing.parent_process()
    assert parent
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


_loaded = functools.cache(tokenizers.load)


def make_shards(job: Job, tell: Tell, out: Path, tokenizer: str, settings: Settings) -> Made:
    """Tokenizes a job's documents into its two shards."""
    chosen, bad = _loaded(tokenizer, settings.separator), LeftOut()
    inputs = [[*source, digest(source.name)] for source in job.sources]
    left_out = bad if settings.bad_rows == "skip" else None
    texts = (
        (source.name, text)
        for source in job.sources
        for text in documents(source.name, settings.text_field, left_out)
    )
    with contextlib.ExitStack() as stack:
        train, test = (
            stack.enter_context(tokens.ShardWriter(path, chosen.fingerprint, chosen.vocabulary))
            for path in job.paths(out)
        )
        text_bytes = lost_bytes = 0
        for some in gathered(texts, lambda each: len(each[1]), _CHARACTERS_TOGETHER):
            encodings, count = chosen.encode_and_count([text for _, text in some]), 0
            for (name, text), (encoded, lost) in zip(some, encodings, strict=True):
                content = text.encode()
                drawn = int.from_bytes(hashlib.sha256(content).digest()[:8])
                writer = test if drawn < settings.held_out * 2**64 else train
                try:
                    writer.write_document(encoded, chosen.separator, len(content) - lost)
                except tokens.TokensError as error:
                    raise PrepareError(f"{name}: {error}") from None
                text_bytes, lost_bytes = text_bytes + len(content), lost_bytes + lost
                count += len(encoded) + 1
            tell(count)
        for source in job.sources:
            if not source.name.startswith("hf:") and Source.of(source.name) != source:
                said = f"{source.name} was changed meanwhile: give the same command again"
                raise PrepareError(said)
        made = Made(job.number, inputs, [], text_bytes, lost_bytes, bad.count, bad.places)
        made.check(settings)
    return made._replace(shards=[train.digest, test.digest])
