"""Probes of a run's nodes: curvature at each, geometry along them.

python -m experiments.probe --workdir=W --node=BRANCH[@STEP[:STEP[:EVERY]]] --probe=NAME[,NAME...]
    [--examples=1000] [--split=train] [--k=1] [--tol=1e-3]

A node is a checkpoint or a snapshot (--config.snapshot_every=50 keeps them while a run trains); a
range takes all there are in it, along the branch's lineage. At each node: sharpness, density,
moments, noise. Along a range: interpolate (from its first node to its last), components,
convexity (against its last), alignment, distances. The loss is the mean over the first
examples of a split. Each result is a small JSON file under branches/BRANCH/probes/, with its
settings, and is not computed again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import cli
from wsdjax import data, models, probes, provenance
from wsdjax.branches import BranchStore
from wsdjax.metrics import write_atomically
from wsdjax.validation import ConfigError

_WORKDIR = flags.DEFINE_string("workdir", "", "The run's directory.")
_NODE = flags.DEFINE_string("node", "", "BRANCH, BRANCH@STEP or BRANCH@STEP:STEP[:EVERY].")
_PROBE = flags.DEFINE_list("probe", [], "Which probes, with commas between them.")
_EXAMPLES = flags.DEFINE_integer("examples", 1_000, "Examples in the loss.", lower_bound=1)
_SPLIT = flags.DEFINE_enum("split", "train", ["train", "test"], "Of the branch's data set.")
_K = flags.DEFINE_integer("k", 1, "Eigenvalues, or components.", lower_bound=1)
_TOL = flags.DEFINE_float("tol", 1e-3, "Of an eigenvalue's residual, relative.")
_ALPHAS = flags.DEFINE_integer("alphas", 21, "Points of an interpolation.", lower_bound=2)

Result = dict[str, Any]


# At a node: (loss_fn, params, batches, start) -> (result, what the next node may start from).


def _sharpness(loss_fn, params, batches, start):
    found = probes.sharpness(loss_fn, params, batches, k=_K.value, tol=_TOL.value, start=start)
    result = {
        "eigenvalues": found.eigenvalues,
        "residuals": found.residuals,
        "converged": found.converged,
        "products": found.products,
    }
    return result, found.eigenvectors


def _density(loss_fn, params, batches, _):
    found = probes.spectral_density(loss_fn, params, batches)
    return found._asdict(), None


def _moments(loss_fn, params, batches, _):
    found = probes.moments(loss_fn, params, batches)
    pairs = {"trace": found.trace, "frobenius_norm": found.frobenius_norm}
    return {name: pair._asdict() for name, pair in pairs.items()}, None


def _noise(loss_fn, params, batches, _):
    return probes.gradient_noise(loss_fn, params, batches, tol=_TOL.value)._asdict(), None


AT_A_NODE: dict[str, Callable] = {
    "sharpness": _sharpness,
    "density": _density,
    "moments": _moments,
    "noise": _noise,
}


# Along a range: (loss_fn, iterates, batches) -> result.


def _interpolate(loss_fn, iterates, batches):
    alphas = np.linspace(0, 1, _ALPHAS.value)
    losses = probes.interpolate(loss_fn, iterates[0], iterates[-1], alphas, batches)
    return {"alphas": alphas, "losses": losses}


def _components(loss_fn, iterates, batches):
    found = probes.principal_components(iterates, k=_K.value)
    first = jax.tree.map(lambda rows: rows[0], found.directions)
    size, along = probes.curvature_along(loss_fn, iterates[-1], first, batches)
    return {
        "explained_variance_ratio": found.explained_variance_ratio,
        "curvature_along_first": {"norm": size, "quotient": along},
    }


def _convexity(loss_fn, iterates, batches):
    return {"tau": probes.weak_quasi_convexity(loss_fn, iterates[:-1], iterates[-1], batches)}


def _alignment(loss_fn, iterates, batches):
    return {"cosines": probes.update_alignment(loss_fn, iterates, batches)}


def _distances(loss_fn, iterates, batches):
    return probes.distances(iterates)._asdict()


ALONG: dict[str, Callable] = {
    "interpolate": _interpolate,
    "components": _components,
    "convexity": _convexity,
    "alignment": _alignment,
    "distances": _distances,
}


def main() -> None:
    for flag in (_WORKDIR, _NODE, _PROBE):
        if not flag.value:
            raise ConfigError(f"give --{flag.name}; --help tells what it is")
    known = {**AT_A_NODE, **ALONG}
    for name in _PROBE.value:
        if name not in known:
            raise ConfigError(f"--probe={name}: the probes are {', '.join(known)}")
    store = BranchStore(_WORKDIR.value)
    branch, steps = parse_node(_NODE.value, store)
    if len(steps) < 2 and (along := [name for name in _PROBE.value if name in ALONG]):
        raise ConfigError(f"--probe={along[0]} goes along nodes: give a range of two or more")
    edge = store.edges()[branch]
    loss_fn = models.build(edge.model).loss
    split = getattr(data.load(edge.data), _SPLIT.value)
    batches = data.in_order(split, examples=_EXAMPLES.value)
    for name in _PROBE.value:
        run = _at_nodes if name in AT_A_NODE else _along
        run(name, store, branch, steps, loss_fn, batches)


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


def _at_nodes(name, store, branch, steps, loss_fn, batches) -> None:
    probe = AT_A_NODE[name]
    starts: dict[int, Any] = {}
    for step in steps:
        path = _path(store, branch, f"{name}-{step}")
        if _is_there(path):
            starts = {}
            continue
        results = []
        for i, params in enumerate(_replicates(store.params(branch, step))):
            result, starts[i] = probe(loss_fn, params, batches, starts.get(i))
            results.append(result)
        _write(path, name, [step], results)


def _along(name, store, branch, steps, loss_fn, batches) -> None:
    path = _path(store, branch, f"{name}-{steps[0]}-{steps[-1]}-{len(steps)}")
    if _is_there(path):
        return
    count = store.edges()[branch].seeds
    iterates = [_Iterates(store, branch, steps, i) for i in range(count)]
    results = [ALONG[name](loss_fn, each, batches) for each in iterates]
    _write(path, name, steps, results)


class _Iterates(Sequence):
    """One replicate's parameters at each step, read when they are asked for."""

    def __init__(self, store, branch, steps, replicate):
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


def _replicates(params):
    for i in range(len(jax.tree.leaves(params)[0])):
        yield jax.tree.map(lambda leaf, i=i: leaf[i], params)


def _settings() -> Result:
    names = (_EXAMPLES, _SPLIT, _K, _TOL, _ALPHAS)
    return {flag.name: flag.value for flag in names}


def _path(store, branch, name) -> Path:
    return store.directory(branch) / "probes" / f"{name}.json"


def _is_there(path: Path) -> bool:
    if not path.exists() or json.loads(path.read_text())["settings"] != _settings():
        return False
    print(f"{path} is there")
    return True


def _write(path: Path, name: str, steps: list[int], results: list[Result]) -> None:
    content = {
        "probe": name,
        "steps": steps,
        "settings": _settings(),
        "results": results,
        "machine": provenance.machine(),
        "versions": provenance.versions(),
    }
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, json.dumps(content, default=_plain, indent=1) + "\n")
    print(f"{path}: {_summary(results)}", flush=True)


def _plain(value: Any) -> Any:
    return np.asarray(value).tolist()


def _summary(results: list[Result]) -> str:
    """The first value of each replicate, to see something while it runs."""
    name = next(iter(results[0]))
    firsts = [np.ravel(np.asarray(result[name], dtype=object))[0] for result in results]
    return f"{name} " + ", ".join(
        f"{value:.6g}" if isinstance(value, float) else str(value) for value in firsts
    )


if __name__ == "__main__":
    cli.run(main)
