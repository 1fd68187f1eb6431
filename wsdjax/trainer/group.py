"""Siblings that train together: one program, one stream of batches, a table of rates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np

from wsdjax import data
from wsdjax.branches import BranchStore
from wsdjax.branches.metrics import JsonLines
from wsdjax.branches.rows import Rows, TensorBoard
from wsdjax.placement import mesh, processes
from wsdjax.training import optim
from wsdjax.training import state as states
from wsdjax.training.compiled import Compiled, Program
from wsdjax.training.optim import Hyper
from wsdjax.training.state import Place, State
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

    def batch(self, n: int) -> data.Batch:
        """The batch that update n sees, of which each process makes or reads its own examples."""
        t = n - 1 - self.first.data_start

        def rows(start: int, stop: int) -> data.Batch:
            read = partial(self.stream.rows, t, start, stop)
            return processes.bounded(read, f"reading the batch of update {n}")

        return self.placed.batch_of(rows, self.replicates, self.stream.batch_size)

    def hyper(self, n: int) -> Hyper:
        """The hyperparameters of update n."""
        row = Hyper(*(column[n - 1 - self.first.start] for column in self.hypers))
        return mesh.put(row, self.placed.replicates)

    def rates(self, n: int) -> np.ndarray:
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
