"""The training loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from wsdjax.branches import BranchStore
from wsdjax.trainer.group import Group
from wsdjax.trainer.watch import Watch
from wsdjax.training.state import State

log = logging.getLogger("wsdjax")


class Diverged(RuntimeError):
    """A loss or an update is not finite; `branches` cannot go on."""

    def __init__(self, message: str, branches: Sequence[str]):
        super().__init__(message)
        self.branches = branches


class Stopped(Exception):
    """Training was asked to stop; every branch that was being trained has been saved."""


def train(
    store: BranchStore,
    group: Group,
    state: State,
    end: int,
    watch: Watch,
    asked_to_stop: Callable[[], bool],
) -> None:
    """Trains a group from `state`, which is donated, to update `end`, whose checkpoint is kept;
    raises `Diverged` or, once it is `asked_to_stop` and has saved, `Stopped`."""
    first, names, begin = group.first, group.names, int(state.step)
    program, progress = group.program, watch.progress
    rows = group.rows(store, begin, watch.tensorboard)
    save_at = set().union(*(store.protected(name) for name in names))
    title, last = " + ".join(names), time.perf_counter()

    def read(n: int, metrics: dict[str, jax.Array]) -> None:
        nonlocal last
        now, rates = time.perf_counter(), group.rates(n)
        rows.write({"step": n, "seconds": round(now - last, 4)}, metrics, rates)
        last = now
        loss, update = (np.asarray(metrics[name]) for name in ("loss", "update_norm"))
        bad = ~(np.isfinite(loss) & np.isfinite(update))
        if bad.any():
            raise _diverged(group, n, bad)
        progress.update(n, float(loss.mean()), float(rates.mean()))
        store.tell("read", names[0], n)

    if begin > first.start:
        log.info("%s: going on from update %d of %d", title, begin, end)
    each = group.replicates * first.batch_size * first.data.units
    progress.start(title, begin, end, each, first.data.unit)
    unread = None
    try:
        if begin == 0 and first.weights:
            rows.write({"step": 0}, program.evaluate(state, group.test))  # to be improved on
        for n in range(begin + 1, end + 1):
            state, metrics = program.step(state, group.batch(n), group.hyper(n))
            # The row before this one is read while this update runs: to wait for this
            # one's here would leave the device idle.
            if unread:
                read(*unread)
            unread = (n, metrics)
            stop = n < end and asked_to_stop()
            save = stop or n in save_at or n % watch.checkpoint_every == 0
            snap = [name for name in names if watch.keeps(name, n)]
            if save or snap or n % watch.eval_every == 0 or n == end:
                read(*unread)
                unread = None
            if n % watch.eval_every == 0 or n == first.end:
                rows.write({"step": n}, program.evaluate(state, group.test))
            if snap:
                for name, mine in group.parts(state):
                    if name in snap:
                        store.snapshot(name, mine)
            if save:
                sums = rows.flush()  # before the checkpoint that comes after them
                # One at a time, so that whenever a kill falls the siblings have one in common.
                store.wait(*names)
                for name, mine in group.parts(state):
                    store.save(name, mine, sums.get(name, ""))
            if stop:
                store.wait(*names)
                raise Stopped(f"{title} is saved at update {n} of {end}")
        store.wait(*names)
    finally:
        progress.stop()
        rows.close()


def _diverged(group: Group, n: int, bad: np.ndarray) -> Diverged:
    owners = [f"{b.name} seed {seed}" for b in group.branches for seed in b.replicate_seeds]
    which = [owner for owner, is_bad in zip(owners, bad, strict=True) if is_bad]
    names = group.names
    said = (
        f"not finite at update {n}: {', '.join(which)}. The last good checkpoint is kept; "
        "lower optimizer.peak_value or set optimizer.clip_norm"
    )
    if len(names) > 1:
        said += (
            f"; {', '.join(names)} train together: to go on without it give the others new names"
        )
    return Diverged(said, names)
