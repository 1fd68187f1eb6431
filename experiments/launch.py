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
from experiments.report.write import write_report
from wsdjax.branches import BranchStore, workdir
from wsdjax.config import Experiment
from wsdjax.errors import ConfigError
from wsdjax.trainer import Diverged, Stopped, Watch, grow
from wsdjax.tree import rates as lineage
from wsdjax.tree.branch import ResolvedBranch


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
    130 after a stop, 1 after a divergence.
    """
    every = {**store.branches(), **branches}
    _check_compared(experiment, every)
    asked: list[int] = []
    drawn = False

    with contextlib.ExitStack() as noted:

        def planned(missing: list[str]) -> None:
            for line in estimate({name: branches[name] for name in missing}, experiment.mesh):
                print(line, file=sys.stderr)
            for branch in (branches[name] for name in missing):
                if jump := lineage.jump(branch, every):
                    rates, at = "{:.3e} to {:.3e}".format(*jump), f"{branch.parent}@{branch.start}"
                    print(f"{branch.name}: the rate jumps from {rates} at {at}", file=sys.stderr)
            noted.enter_context(_signals(asked.append))

        def draw(where: Path) -> None:
            nonlocal drawn
            drawn = True
            noted.close()
            print(write_report(where))

        watch = Watch.of(experiment, Training())
        watch = dataclasses.replace(watch, snapshot_at=snapshot_at or {})
        declares = experiment if declared else None
        try:
            grow(
                store,
                branches,
                watch,
                declares,
                lambda: bool(asked),
                planned,
                draw,
                experiment.mesh,
            )
        except Stopped as error:
            print(f"Stopped: {error}. The same command goes on from there.", file=sys.stderr)
            return 130
        except Diverged as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    if not drawn:
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
    once."""

    def noted(number, _):
        note(number)
        print("\nStopping after this update; once more stops at once.", file=sys.stderr)
        for each, handler in before.items():
            signal.signal(each, handler)

    before = {each: signal.signal(each, noted) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
