"""What every run does: trains what is missing of some branches, and draws the report again."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Iterator, Sequence

from experiments import report
from experiments.progress import progress
from wsdjax import lineage, tree
from wsdjax.branches import BranchStore
from wsdjax.config import Experiment
from wsdjax.metrics import write_atomically
from wsdjax.train import Diverged, Stopped, Trainer
from wsdjax.tree import Edge


def grow(
    experiment: Experiment, store: BranchStore, edges: dict[str, Edge], config: str | None = None
) -> None:
    """Trains what is missing of `edges` in a workdir and draws its report.

    Args:
      experiment: how it is watched and kept.
      store: the workdir's.
      edges: what is to be trained, old and new.
      config: the new content of `config.json`, if it changes.
    """
    trainer = Trainer(
        store,
        progress(),
        tree.every(experiment, "eval_every"),
        tree.every(experiment, "checkpoint_every"),
        experiment.tensorboard,
    )
    store.check(edges)
    trainer.check(edges)
    with store.lock():
        store.register(edges)
        page = store.workdir / "report.html"
        missing = trainer.missing(list(edges))
        if not missing and page.exists():
            print(f"Nothing is missing in {store.workdir}: all of {', '.join(edges)} are trained.")
            return
        if config is not None:
            write_atomically(store.workdir / "config.json", config)
        page.unlink(missing_ok=True)  # a page that is there is up to date
        _print_jumps(store, missing)
        _write_status(store, "running")
        try:
            with _signals() as asked:
                trainer.asked_to_stop = lambda: bool(asked)
                trainer.grow(list(edges))
        except Stopped as error:
            _write_status(store, f"stopped: {error}")
            print(f"Stopped: {error}. The same command goes on from there.", file=sys.stderr)
            sys.exit(130)
        except Diverged as error:
            _write_status(store, f"diverged: {error}")
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        except BaseException:
            _write_status(store, "incomplete")
            raise
        print(report.write(store.workdir))
        _write_status(store, "done")


def _print_jumps(store: BranchStore, names: Sequence[str]) -> None:
    edges = store.edges()
    for name in names:
        if jump := lineage.jump(edges[name], edges):
            before, after = jump
            print(
                f"{name}: the rate jumps from {before:.3e} to {after:.3e} at "
                f"{edges[name].parent}@{edges[name].start}",
                file=sys.stderr,
            )


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM are noted in the list that this gives, for the trainer to save and
    stop; a second one acts at once."""
    asked: list[int] = []

    def note(number, _):
        asked.append(number)
        print("\nStopping after this update; once more stops at once.", file=sys.stderr)
        for each, handler in before.items():
            signal.signal(each, handler)

    before = {each: signal.signal(each, note) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _write_status(store: BranchStore, status: str) -> None:
    write_atomically(store.workdir / "status.json", json.dumps({"status": status}) + "\n")
