"""From two trees' nodes to the numbers behind each figure.

Losses and curvature are of one sample of the training split, the same for all nodes and runs;
curves of the held-out loss are those that training wrote.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from experiments.papers.belloni import measured
from experiments.papers.belloni.trees import SHARES, Nodes, cooldown
from experiments.papers.belloni.verdicts import Architecture
from wsdjax import data, models, probes
from wsdjax.branches import BranchStore
from wsdjax.errors import ConfigError
from wsdjax.trainer import replay
from wsdjax.training import optim
from wsdjax.training.state import replicate

PARTS = 8
"""Disjoint parts of the sample, of whose losses the sampling error is made."""
KEPT = 2**30
"""Bytes of parameters that stay in memory: principal components ask for every pair."""
TOLERANCE = 1e-3
"""Of a residual, relative to the eigenvalue."""


class Subject:
    """An architecture's runs, and its loss over a sample.

    Args:
      of: the architecture.
      store: its workdir's.
      nodes: those that were kept for the figures.
      examples: in the sample.
      tell: told how far a measurement is.
    """

    def __init__(
        self,
        of: Architecture,
        store: BranchStore,
        nodes: Nodes,
        examples: int,
        tell: Callable[[str], object] = lambda _: None,
    ):
        self.of, self.store, self.nodes, self.tell = of, store, nodes, tell
        self.branch = cooldown(of.matching)
        self.resolved = store.branches()[self.branch]
        on_cpu = jax.default_backend() == "cpu"  # where memory is not what is scarce
        model = (models.build if on_cpu else models.for_probes)(self.resolved.model)
        self.loss_fn = models.by_layer(model).loss
        split = data.load(self.resolved.data).train
        if split.size < PARTS:
            raise ConfigError(f"{of.name}: {split.size} examples are too few: {PARTS} or more")
        self.batches = data.sample(split, min(examples, split.size))
        whole = jax.tree.map(lambda *leaves: np.concatenate(leaves), *self.batches)
        self.parts = [[jax.tree.map(lambda x, i=i: x[i::PARTS], whole)] for i in range(PARTS)]
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(store.params(self.branch, nodes.end)))
        read = functools.partial(store.params, self.branch)
        self._params = functools.lru_cache(max(1, KEPT // size))(read)
        self.directions = functools.cache(self._directions)

    def runs(self) -> Iterator[tuple[int, Callable[[int], Any]]]:
        """Each seed with its parameters as a function of the step."""
        for seed in range(self.resolved.seeds):
            self.tell(f"seed {seed}")
            yield seed, functools.partial(self._at, seed)

    def _at(self, seed: int, step: int) -> Any:
        return models.unstacked(jax.tree.map(lambda leaf: leaf[seed], self._params(step)))

    def _directions(self, seed: int) -> probes.PhaseDirections:
        """v_s of the last fifth of the stable phase, v_d of the first fifth of the cooldown."""

        def chosen(steps: Sequence[int]) -> list[Any]:
            return [self._at(seed, step) for step in steps]

        return probes.phase_directions(chosen(self.nodes.stable), chosen(self.nodes.decay))


def losses(of: Subject) -> measured.Losses:
    steps, (wsd, cosine) = _curves(of, "evaluations", "eval_loss")
    return measured.Losses(steps, wsd, cosine, of.nodes.fork)


def lines(of: Subject) -> measured.Lines:
    alphas = np.linspace(-0.25, 1.25, 25)  # 0 and 1 among them
    begin, fork, end = of.nodes.stable[0], of.nodes.fork, of.nodes.end
    found = [
        [
            [probes.interpolate(of.loss_fn, at(a), at(b), alphas, part) for part in of.parts]
            for a, b in ((begin, fork), (fork, end))
        ]
        for _, at in of.runs()
    ]
    stable, decay = np.moveaxis(np.array(found), 1, 0)
    return measured.Lines(alphas, stable, decay)


def sharpness(of: Subject) -> measured.Sharpness:
    values, residuals, along = [], [], []
    for seed, at in of.runs():
        before: Any = None
        for step in of.nodes.curvature:
            of.tell(f"seed {seed}, sharpness at {step:,}")
            found = probes.sharpness(of.loss_fn, at(step), of.batches, tol=TOLERANCE, start=before)
            before = found.eigenvectors
            values.append(found.eigenvalues[0])
            residuals.append(found.residuals[0])
        directions = of.directions(seed)
        for direction in (directions.stable, directions.decay):
            fork = at(of.nodes.fork)
            along.append(probes.curvature_along(of.loss_fn, fork, direction, of.batches)[0])
    shape, of_runs = (-1, len(of.nodes.curvature)), np.reshape(along, (-1, 2))
    return measured.Sharpness(
        np.array(of.nodes.curvature),
        np.reshape(values, shape),
        np.reshape(residuals, shape),
        of_runs[:, 0],
        of_runs[:, 1],
        of.nodes.fork,
    )


def directions(of: Subject) -> measured.Directions:
    taus, cosines = [], []
    for _, at in of.runs():
        *path, solution = (at(step) for step in of.nodes.regular)
        taus.append(probes.weak_quasi_convexity(of.loss_fn, path, solution, of.batches))
        # Both ends of one update were kept: their difference is the update.
        pairs = [(at(step), at(step + 1)) for step in of.nodes.updates]
        moved = [probes.update_alignment(of.loss_fn, pair, of.batches)[0] for pair in pairs]
        cosines.append(moved)
    return measured.Directions(
        np.array(of.nodes.regular[:-1]),
        np.array(taus),
        np.array(of.nodes.updates),
        np.array(cosines),
        of.nodes.fork,
    )


def lengths(of: Subject) -> measured.Lengths:
    def last(name: str) -> np.ndarray:
        return of.store.metrics(name).evaluations["eval_loss"][-1]

    shares = np.array(SHARES) / 100
    ends = np.stack([last(cooldown(share)) for share in shares], axis=1)
    return measured.Lengths(shares, ends, last("cosine"))


def norms(of: Subject) -> measured.Norms:
    steps, (wsd, cosine) = _curves(of, "updates", "param_norm")
    steps = steps - 1  # a row has the norm before its update
    shown = np.flatnonzero(steps >= of.nodes.regular[0])
    shown = shown[:: max(1, len(shown) // 400)]
    return measured.Norms(steps[shown], wsd[:, shown], cosine[:, shown], of.nodes.fork)


def components(of: Subject) -> measured.Components:
    shares = np.array([of.directions(seed).explained for seed, _ in of.runs()])
    return measured.Components(shares[:, 0], shares[:, 1])


def preconditioned(of: Subject) -> measured.Preconditioned:
    """At checkpoints, or at states that are made again from them: only they have Adam's moments."""
    optimizer, found = of.resolved.optimizer, []
    with of.store.lock():  # a checkpoint that is damaged is set aside
        for step, state in replay(of.store, of.branch, of.nodes.curvature):
            for seed in range(of.resolved.seeds):
                of.tell(f"update {step:,}, seed {seed}")
                one = replicate(state, seed)
                nu, count = optim.second_moment(one.opt_state)
                nu, params = models.unstacked(nu), models.unstacked(one.params)
                scale = probes.adam_preconditioner(nu, count, optimizer.b2, optimizer.eps)
                hessian = probes.Hessian(of.loss_fn, params, of.batches)
                operator = probes.Preconditioned(hessian, scale)
                found.append(probes.eigenpairs(operator, params, tol=TOLERANCE).eigenvalues[0])
    updates = of.store.metrics(of.branch).updates
    rates = updates["rate"][np.searchsorted(updates["step"], of.nodes.curvature)]
    b1 = optimizer.b1
    return measured.Preconditioned(
        np.array(of.nodes.curvature),
        np.reshape(found, (len(of.nodes.curvature), -1)).T,
        np.where(rates > 0, (2 + 2 * b1) / ((1 - b1) * np.where(rates > 0, rates, 1)), np.nan),
        of.nodes.fork,
    )


def _curves(of: Subject, kind: str, name: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """The steps that WSD and cosine have in common, and [R, T] of each."""
    tables = [getattr(of.store.metrics(branch), kind) for branch in (of.branch, "cosine")]
    steps = np.intersect1d(*(table["step"] for table in tables))
    return steps, [table[name][np.isin(table["step"], steps)].T for table in tables]


MEASURES: dict[str, Callable[[Subject], Any]] = {
    "1": losses,
    "2": lines,
    "3": sharpness,
    "4": directions,
    "5": lengths,
    "6": norms,
    "7": components,
    "threshold": preconditioned,
}
"""What measures each figure of `measured.FIGURES`."""
