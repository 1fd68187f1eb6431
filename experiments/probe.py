"""Probes of a run's nodes: curvature at each, geometry along them.

python -m experiments.probe --workdir=W --node=BRANCH[@STEP[:STEP[:EVERY]]] --probe=NAME[,NAME...]
    [--examples=1000] [--split=train] [--k=1] [--tol=1e-3] [--points=21]

A node is a checkpoint or a snapshot (--config.snapshot_every=50 keeps them while a run trains); a
range takes all there are in it, along the branch's lineage. The loss is the mean over the first
examples of a split.

At each node:
    sharpness        the k largest eigenvalues of the Hessian, certified
    preconditioned   those of P^-1/2 H P^-1/2 for Adam's P; where there is a checkpoint
    density          the whole spectrum, by stochastic Lanczos quadrature
    moments          trace and Frobenius norm of the Hessian, trace by layer
    noise            trace and top eigenvalue of the gradient's covariance, noise scale
Along a range:
    interpolate      the loss from its first node to its last
    plane            the loss over its first two principal components, and the way through
    components       how much of its variance the first k explain
    phases           v_s and v_d, and the curvature along them; a range over the branch's fork
    convexity        weak quasi-convexity against its last node
    alignment        cosine of each move with the negative gradient
    distances        norms, distance travelled and moved

Each result is a small JSON file under branches/BRANCH/probes/, with its settings; it is not
computed again, and a plane goes on from the cell at which it was stopped. At the end the report
is drawn again.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import cli, measures
from experiments.measures import ALONG, AT_A_NODE, Result, Unmeasurable
from wsdjax import data, models, provenance, state
from wsdjax.branches import BranchStore, MissingNode
from wsdjax.config import AdamW
from wsdjax.metrics import write_atomically
from wsdjax.validation import ConfigError

_WORKDIR = flags.DEFINE_string("workdir", "", "The run's directory.")
_NODE = flags.DEFINE_string("node", "", "BRANCH, BRANCH@STEP or BRANCH@STEP:STEP[:EVERY].")
_PROBE = flags.DEFINE_list("probe", [], "Which probes, with commas between them.")
_EXAMPLES = flags.DEFINE_integer("examples", 1_000, "Examples in the loss.", lower_bound=1)
_SPLIT = flags.DEFINE_enum("split", "train", ["train", "test"], "Of the branch's data set.")
_K = flags.DEFINE_integer("k", 1, "Eigenvalues, or components.", lower_bound=1)
_TOL = flags.DEFINE_float("tol", 1e-3, "Of an eigenvalue's residual, relative.")
_POINTS = flags.DEFINE_integer(
    "points", 21, "Of an interpolation, or a side of a plane.", lower_bound=2
)


def main() -> None:
    for flag in (_WORKDIR, _NODE, _PROBE):
        if not flag.value:
            raise ConfigError(f"give --{flag.name}; --help tells what it is")
    known = [*AT_A_NODE, *ALONG]
    for name in _PROBE.value:
        if name not in known:
            raise ConfigError(f"--probe={name}: the probes are {', '.join(known)}")
    store = BranchStore(_WORKDIR.value)
    branch, steps = parse_node(_NODE.value, store)
    if len(steps) < 2 and (along := [name for name in _PROBE.value if name in ALONG]):
        raise ConfigError(f"--probe={along[0]} goes along nodes: give a range of two or more")
    edge = store.edges()[branch]
    split = getattr(data.load(edge.data), _SPLIT.value)
    of = _Loss(
        store, branch, models.build(edge.model).loss, data.in_order(split, examples=_EXAMPLES.value)
    )
    for name in _PROBE.value:
        measure = of.at_nodes if name in AT_A_NODE else of.along
        try:
            measure(name, steps)
        except Unmeasurable as error:
            raise ConfigError(f"--probe={name} at --node={_NODE.value}: {error}") from None
    from experiments import report

    report.write(store.workdir)


def parse_node(text: str, store: BranchStore) -> tuple[str, list[int]]:
    """The branch and the steps that a node or a range of nodes names.

    Raises:
      ConfigError, MissingNode: for what is no node, or is not there.
    """
    branch, _, range_ = text.partition("@")
    store.record(branch)
    nodes = store.nodes(branch)
    if not range_:
        if not nodes:
            raise ConfigError(f"--node={text}: {branch} has no node yet")
        return branch, [nodes[-1]]
    parts = range_.split(":")
    if len(parts) > 3 or not all(part.isdecimal() for part in parts):
        raise ConfigError(f"--node={text}: write BRANCH, BRANCH@STEP or BRANCH@STEP:STEP[:EVERY]")
    first, last = int(parts[0]), int(parts[min(1, len(parts) - 1)])
    every = max(1, int(parts[2])) if len(parts) == 3 else 1
    steps = [s for s in nodes if first <= s <= last and (s - first) % every == 0]
    if not steps:
        raise ConfigError(
            f"--node={text}: no such node; {branch} has {', '.join(map(str, nodes)) or 'none'}. "
            "--config.snapshot_every keeps more while a run trains"
        )
    return branch, steps


class _Loss:
    """The loss of a branch's model over the chosen examples, and what is measured of it."""

    def __init__(self, store: BranchStore, branch: str, loss_fn: Callable, batches: list[Any]):
        self._store, self._branch = store, branch
        self._loss_fn, self._batches = loss_fn, batches
        self._edge = store.edges()[branch]
        self._directory = store.directory(branch) / "probes"
        self._directory.mkdir(exist_ok=True)

    def at_nodes(self, name: str, steps: list[int]) -> None:
        measure, uses = AT_A_NODE[name]
        starts: dict[int, Any] = {}
        for step in steps:
            path, settings = self._directory / f"{name}-{step}.json", _settings(uses)
            if _is_there(path, settings):
                starts = {}
                continue
            results = []
            for i, each in enumerate(self._replicates(step, name == "preconditioned")):
                node = measures.Node(
                    self._loss_fn,
                    each.params,
                    self._batches,
                    settings,
                    _teller(f"{name} of {self._branch}@{step}, seed {i}"),
                    starts.get(i),
                    each.opt_state or None,
                    self._optimizer(step),
                )
                result, starts[i] = measure(node)
                results.append(result)
            _write(path, name, [step], settings, results)

    def along(self, name: str, steps: list[int]) -> None:
        measure, uses = ALONG[name]
        stem, settings = f"{name}-{steps[0]}-{steps[-1]}-{len(steps)}", _settings(uses)
        path = self._directory / f"{stem}.json"
        if _is_there(path, settings):
            return
        results = []
        for i in range(self._edge.seeds):
            file = self._directory / f"{stem}-seed{i}.cells"
            each = measures.Path(
                self._loss_fn,
                _Iterates(self._store, self._branch, steps, i),
                steps,
                self._edge.start,
                self._batches,
                settings,
                _teller(f"{name} of {_NODE.value}, seed {i}"),
                file,
            )
            results.append(measure(each))
        _write(path, name, steps, settings, results)
        for file in self._directory.glob(f"{stem}-seed*.cells"):
            file.unlink()

    def _replicates(self, step: int, with_moments: bool) -> Iterator[state.State]:
        """Each seed's state; of parameters alone if no moments are asked for, or there are none."""
        whole = state.State(step, self._store.params(self._branch, step))
        if with_moments:
            with contextlib.suppress(MissingNode):
                whole = self._store.restore(self._branch, step)
        for i in range(self._edge.seeds):
            yield state.replicate(whole, i)

    def _optimizer(self, step: int) -> AdamW:
        """Of the branch that made the node."""
        lineage = self._store.lineage(self._branch)
        owner = next(segment.branch for segment in lineage if step <= segment.stop)
        return self._store.edges()[owner].optimizer


class _Iterates(Sequence):
    """One replicate's parameters at each step, read when they are asked for."""

    def __init__(self, store: BranchStore, branch: str, steps: list[int], replicate: int):
        self._of = (store, branch, replicate)
        self._steps = steps

    def __len__(self):
        return len(self._steps)

    def __getitem__(self, i):
        store, branch, replicate = self._of
        if isinstance(i, slice):
            return _Iterates(store, branch, self._steps[i], replicate)
        params = store.params(branch, self._steps[i])
        return jax.tree.map(lambda leaf: leaf[replicate], params)


def _settings(uses: Sequence[str]) -> Result:
    """What a result depends on: the loss's flags and those that the measure goes by."""
    return {name: flags.FLAGS[name].value for name in ("examples", "split", *uses)}


def _is_there(path: Path, settings: Result) -> bool:
    if not path.exists() or json.loads(path.read_text())["settings"] != settings:
        return False
    print(f"{path} is there")
    return True


def _write(path: Path, name: str, steps: list[int], settings: Result, results: list) -> None:
    content = {
        "probe": name,
        "steps": steps,
        "settings": settings,
        "results": results,
        "machine": provenance.machine(),
        "versions": provenance.versions(),
    }
    write_atomically(path, json.dumps(content, default=_plain, indent=1) + "\n")
    _teller("")("")
    print(f"{path}: {_summary(results)}", flush=True)


def _plain(value: Any) -> Any:
    return np.asarray(value).tolist()


def _teller(title: str) -> measures.Tell:
    """Writes over one line of a terminal; elsewhere the results tell."""

    def tell(text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K{title}: {text}" if title else "\r\033[K", end="", file=sys.stderr)

    return tell


def _summary(results: list[Result]) -> str:
    """The first value of each replicate, to see something while it runs."""
    name = next(iter(results[0]))
    firsts = [np.ravel(np.asarray(result[name], dtype=object))[0] for result in results]
    return f"{name} " + ", ".join(
        f"{value:.6g}" if isinstance(value, float) else str(value) for value in firsts
    )


if __name__ == "__main__":
    cli.run(main)
