"""Siblings that train together: one program, one stream of batches, a table of rates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import jax
import numpy as np

from wsdjax import data
from wsdjax.branches import BranchStore
from wsdjax.branches.metrics import JsonLines
from wsdjax.branches.rows import Rows, TensorBoard
from wsdjax.placement import mesh, processes
from wsdjax.trainer import feeding
from wsdjax.training import cost, optim
from wsdjax.training import state as states
from wsdjax.training.compiled import Compiled, Program
from wsdjax.training.optim import Hyper
from wsdjax.training.state import Place, State
from wsdjax.training.step import Metrics
from wsdjax.tree.branch import ResolvedBranch
from wsdjax.tree.rates import rates


@dataclass(frozen=True)
class Group:
    branches: tuple[ResolvedBranch, ...]
    placed: mesh.Shardings
    place_of_one: Place
    """Where the state of one of the branches goes."""
    program: Program
    stream: data.Stream
    test: list[data.Batch]
    hypers: Hyper
    """Leaves float32 [T, R], as `hyper_table` gives them."""
    compiled: Compiled

    @classmethod
    def of(cls, store: BranchStore, names: Sequence[str], compiled: Compiled) -> Group:
        there = store.branches()
        branches = tuple(there[name] for name in names)
        first = branches[0]
        seeds = [seed for branch in branches for seed in branch.stream_seeds]
        placed = compiled.placed(branches)
        train = compiled.train_split(first.data)
        return cls(
            branches,
            placed,
            compiled.place_of_one(branches),
            compiled.program(first, placed),
            data.Stream(train, first.batch_size, seeds, first.data.augment),
            compiled.test_batches(first.data, placed),
            hyper_table(branches, there),
            compiled,
        )

    @property
    def first(self) -> ResolvedBranch:
        """Stands for all in what they have in common."""
        return self.branches[0]

    @property
    def names(self) -> list[str]:
        return [branch.name for branch in self.branches]

    @property
    def replicates(self) -> int:
        return sum(branch.seeds for branch in self.branches)

    def reach(self, n: int) -> int:
        """How many updates from update n on may be one call."""
        return self._feeding.reach(n - 1 - self.first.data_start) if self.compiled.loops else 1

    def advance(self, state: State, n: int, count: int) -> tuple[State, Metrics]:
        """The updates n, ..., n + count - 1 of a state, which is donated, and their metrics, leaves
        [count, R] or more, of a single step [R]; no more than `reach(n)`."""
        t, row = n - 1 - self.first.data_start, n - 1 - self.first.start
        if not self.compiled.loops:
            hyper = Hyper(*(column[row] for column in self.hypers))
            if jax.process_count() > 1:  # of one process the call itself does it, in less time
                hyper = mesh.put(hyper, self.placed.replicates)
            return self.program.step(state, self._batch(t), hyper)
        fed = self._feeding
        # Of the last rows, which may be too few, those beyond the table are not used.
        rows = np.minimum(np.arange(row, row + fed.most), len(self.hypers.rate) - 1)
        hypers = mesh.put(Hyper(*(c[rows] for c in self.hypers)), self.placed.table)
        updates = self.compiled.updates(self.first, self.placed, fed.feed)
        return updates(state, fed.given(t, count), hypers, np.int32(count))

    @cached_property
    def _feeding(self) -> feeding.Feeding:
        shapes = cost.batch_shapes(self.first.data, self.stream.batch_size)
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in shapes.values())
        each = size * self.replicates // self.placed.mesh.size
        return feeding.of(self.stream, self.placed, self._batch, each)

    def _batch(self, t: int) -> data.Batch:
        """Batch t of the stream, of which each process makes or reads its own examples."""

        def rows(start: int, stop: int) -> data.Batch:
            read = partial(self.stream.rows, t, start, stop)
            return processes.bounded(read, f"reading batch {t}")

        return self.placed.batch_of(rows, self.replicates, self.stream.batch_size)

    def rates(self, n: int) -> np.ndarray:
        """[R]: of update n."""
        return self.hypers.rate[n - 1 - self.first.start]

    def rows(self, store: BranchStore, step: int, tensorboard: bool) -> Rows:
        """Where the rows go of updates after `step`."""
        if not store.leads:
            return Rows((), ())
        files, boards = [], []
        for branch in self.branches:
            directory = store.directory(branch.name)
            recorded = store.recorded_rows(branch.name, step) if step > branch.start else ""
            files.append(JsonLines(directory / "metrics.jsonl", branch.start, step, recorded))
            if tensorboard:
                boards.append(TensorBoard(directory / "tensorboard", step))
        return Rows(self.branches, files, boards)

    def parts(self, state: State) -> Iterator[tuple[str, State]]:
        """Each branch's name and its own replicates."""
        begin = 0
        for branch in self.branches:
            end = begin + branch.seeds
            whole = len(self.branches) == 1
            yield branch.name, state if whole else states.section(state, begin, end)
            begin = end


def hyper_table(group: Sequence[ResolvedBranch], branches: Mapping[str, ResolvedBranch]) -> Hyper:
    """Leaves float32 [T, R]: the hyperparameters of every update of every replicate of siblings."""
    columns: list[Hyper] = []
    for branch in group:
        table = optim.hyper(branch.optimizer)._replace(rate=rates(branch, branches))
        columns += [Hyper(*np.broadcast_arrays(*table))] * branch.seeds
    return jax.tree.map(lambda *values: np.stack(values, axis=1), *columns)
