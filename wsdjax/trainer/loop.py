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

_CALL = 1.0
"""Seconds that a call of updates may take."""


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
    title, last, pace = " + ".join(names), time.perf_counter(), _Pace()

    def due(n: int) -> bool:
        """Whether something is to be done after update n but its row."""
        if n == end or n in save_at or any(watch.keeps(name, n) for name in names):
            return True
        return n % watch.checkpoint_every == 0 or n % watch.eval_every == 0

    def read(n: int, count: int, metrics: dict[str, jax.Array]) -> None:
        """The rows of the updates n, ..., n + count - 1."""
        nonlocal last
        host = jax.device_get(metrics)
        now = time.perf_counter()
        seconds, last = (now - last) / count, now
        pace.took(seconds)
        for i in range(count):
            row = {name: value.reshape(-1, group.replicates)[i] for name, value in host.items()}
            rates = group.rates(n + i)
            rows.write({"step": n + i, "seconds": round(seconds, 6)}, row, rates)
            bad = ~(np.isfinite(row["loss"]) & np.isfinite(row["update_norm"]))
            if bad.any():
                raise _diverged(group, n + i, bad)
            store.tell("read", names[0], n + i)
        progress.update(n + i, float(row["loss"].mean()), float(rates.mean()))

    if begin > first.start:
        log.info("%s: going on from update %d of %d", title, begin, end)
    each = group.replicates * first.batch_size * first.data.units
    progress.start(title, begin, end, each, first.data.unit)
    unread: tuple[int, int, dict[str, jax.Array]] | None = None
    try:
        if begin == 0 and first.weights:
            rows.write({"step": 0}, program.evaluate(state, group.test))  # to be improved on
        n = begin
        while n < end:
            most = store.agreed(lambda: pace.most, "updates") if group.compiled.loops else 1
            most = min(most, group.reach(n + 1))
            count = next((i for i in range(1, most) if due(n + i)), most)
            state, metrics = group.advance(state, n + 1, count)
            # The rows before these are read while these updates run: to wait for these here would
            # leave the device idle.
            if unread:
                read(*unread)
            unread, n = (n + 1, count, metrics), n + count
            stop = n < end and asked_to_stop()
            save = stop or n in save_at or n % watch.checkpoint_every == 0
            snap = [name for name in names if watch.keeps(name, n)]
            if stop or due(n):
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


class _Pace:
    """How many updates a call may have, so that whoever watches or stops is not kept waiting."""

    def __init__(self) -> None:
        self.most, self._calls = 1, 0

    def took(self, seconds: float) -> None:
        """Told of each call how long an update took in it."""
        self._calls += 1
        if self._calls > 1:  # the first one compiles
            self.most = max(1, int(_CALL / max(seconds, 1e-9)))


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
