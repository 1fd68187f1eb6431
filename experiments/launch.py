"""A command that trains: `wsdjax.trainer.grow` with what is printed, signals and a report."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from experiments.cli.progress import Training
from experiments.estimate import estimate
from experiments.report import report
from wsdjax.branches import BranchStore, workdir
from wsdjax.config import Experiment
from wsdjax.errors import ConfigError
from wsdjax.placement import processes
from wsdjax.trainer import Diverged, Stopped, Watch, grow
from wsdjax.tree import rates as lineage
from wsdjax.tree.branch import ResolvedBranch

PREEMPTED = processes.LOST
"""The exit code after a notice that the machine is taken away: give the same command again."""


def launch(
    experiment: Experiment,
    store: BranchStore,
    branches: Mapping[str, ResolvedBranch],
    declared: bool = True,
    snapshot_at: Mapping[str, Collection[int]] | None = None,
) -> int:
    """Trains what is missing of `branches`, old and new, and draws the workdir's report.

    The experiment says how; if it is what `declared` them it becomes the workdir's config.
    Parameters are kept at further updates of the branches in `snapshot_at`. Returns an exit code:
    130 after an interrupt, 75 after a notice that the machine is taken away, 1 after a divergence.
    """
    every = {**store.branches(), **branches}
    _check_compared(experiment, every)
    asked: list[int] = []
    drawn = False

    with contextlib.ExitStack() as noted:

        def planned(missing: list[str]) -> None:
            lines = estimate({name: branches[name] for name in missing}, experiment.mesh)
            for line in lines if store.leads else ():
                print(line, file=sys.stderr)
            for branch in (branches[name] for name in missing):
                if (jump := lineage.jump(branch, every)) and store.leads:
                    rates, at = "{:.3e} to {:.3e}".format(*jump), f"{branch.parent}@{branch.start}"
                    print(f"{branch.name}: the rate jumps from {rates} at {at}", file=sys.stderr)
            noted.enter_context(_signals(asked.append))

        def draw(where: Path) -> None:
            nonlocal drawn
            drawn = True
            noted.close()
            print(report(where))

        watch = Watch.of(experiment, Training())
        watch = dataclasses.replace(watch, snapshot_at=snapshot_at or {})
        declares = experiment if declared else None
        try:
            grow(
                store,
                branches,
                watch,
                declares,
                processes.reached_stop if processes.several() else lambda: bool(asked),
                planned,
                draw,
                mesh=experiment.mesh,
            )
        except Stopped as error:
            if store.leads:
                print(f"Stopped: {error}. The same command goes on from there.", file=sys.stderr)
            return 130 if signal.SIGINT in asked else PREEMPTED
        except Diverged as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    if not drawn and store.leads:
        print(f"Nothing is missing in {store.workdir}: all of {', '.join(branches)} are trained.")
        there = workdir.experiment_of(store.workdir)
        kept = there and there.snapshot_every
        if declared and (more := experiment.snapshot_every) not in (None, kept):
            remedy = "what is trained gets no more of them: train in another --workdir"
            print(f"snapshot_every = {more}: {remedy}", file=sys.stderr)
    return 0


def _check_compared(experiment: Experiment, branches: Mapping[str, ResolvedBranch]) -> None:
    for row, names in experiment.compare.items():
        for name in names:
            if name not in branches:
                known = f"the branches are {', '.join(branches)}"
                raise ConfigError(f"compare.{row}: there is no branch {name!r}; {known}")


@contextlib.contextmanager
def _signals(note: Callable[[int], None]) -> Iterator[None]:
    """SIGINT and SIGTERM are noted, for the trainer to save and stop; a second one acts at
    once. Of several processes JAX notes SIGTERM in one for all, and so an interrupt becomes one."""

    def noted(number, _):
        for each, handler in before.items():
            signal.signal(each, handler)
        note(number)
        if processes.several():
            signal.raise_signal(signal.SIGTERM)
        print("\nStopping after this update; once more stops at once.", file=sys.stderr)

    which = (signal.SIGINT,) if processes.several() else (signal.SIGINT, signal.SIGTERM)
    before = {each: signal.signal(each, noted) for each in which}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
