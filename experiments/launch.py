"""A command that trains: `wsdjax.trainer.grow` with what is printed, signals and a report."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
    """Trains what is missing of `branches` in a workdir and draws its report.

    Args:
      experiment: how it is watched and kept.
      store: the workdir's.
      branches: what is to be trained, old and new.
      declared: whether the experiment declares these branches, and is to be the workdir's config.
      snapshot_at: further updates of a branch whose parameters are kept.

    Returns:
      An exit code: 130 after a stop, 1 after a divergence.
    """
    _check_compared(experiment, {**store.branches(), **branches})
    asked: list[int] = []
    drawn = False

    with contextlib.ExitStack() as noted:

        def planned(missing: list[str]) -> None:
            for line in estimate({name: branches[name] for name in missing}):
                print(line, file=sys.stderr)
            _print_jumps(store, missing)
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
            grow(store, branches, watch, declares, lambda: bool(asked), planned, draw)
        except Stopped as error:
            print(f"Stopped: {error}. The same command goes on from there.", file=sys.stderr)
            return 130
        except Diverged as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    if not drawn:
        print(f"Nothing is missing in {store.workdir}: all of {', '.join(branches)} are trained.")
        kept = (workdir.read_config(store.workdir) or {}).get("snapshot_every")
        if declared and experiment.snapshot_every not in (None, kept):
            print(
                f"snapshot_every = {experiment.snapshot_every}: what is trained keeps no more "
                "snapshots; train in another --workdir to have them",
                file=sys.stderr,
            )
    return 0


def _check_compared(experiment: Experiment, branches: Mapping[str, ResolvedBranch]) -> None:
    for row, names in experiment.compare.items():
        for name in names:
            if name not in branches:
                raise ConfigError(
                    f"compare.{row}: there is no branch {name!r}; the branches are "
                    f"{', '.join(branches)}"
                )


def _print_jumps(store: BranchStore, names: Sequence[str]) -> None:
    branches = store.branches()
    for name in names:
        if jump := lineage.jump(branches[name], branches):
            before, after = jump
            print(
                f"{name}: the rate jumps from {before:.3e} to {after:.3e} at "
                f"{branches[name].parent}@{branches[name].start}",
                file=sys.stderr,
            )


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
