"""What is measured in a process of its own, whose memory is then its own too.

python -m experiments.bench.child components ours|theirs DIRECTORY
python -m experiments.bench.child trained UPDATES

The first prints seconds, bytes at the peak beyond those there were, and shares of variance; the
second the bytes at the peak of a process that trains so long. As JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np


class Files(Sequence):
    """The iterates of a directory, each read when it is asked for."""

    def __init__(self, directory: str):
        self._paths = sorted(Path(directory).glob("*.npz"))

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[j] for j in range(len(self))[i]]
        with np.load(self._paths[i]) as arrays:
            return dict(arrays)


def components(who: str, directory: str) -> dict[str, Any]:
    iterates = Files(directory)
    if who == "ours":
        from wsdjax import probes

        def run(iterates):
            return probes.principal_components(iterates, k=2)
    else:
        from sklearn.decomposition import PCA

        def run(iterates):
            rows = [np.concatenate([leaf.ravel() for leaf in i.values()]) for i in iterates]
            return PCA(n_components=2, random_state=0).fit(np.stack(rows))

    run(iterates[:4])  # which compiles whatever it compiles
    before = _memory("VmRSS")
    _forget_peak()
    begun = time.perf_counter()
    found = run(iterates)
    seconds = time.perf_counter() - begun
    peak = _memory("VmHWM") - before
    if who == "ours" and (device := jax.devices()[0].memory_stats()):
        peak += device["peak_bytes_in_use"]
    shares = np.asarray(found.explained_variance_ratio_ if who == "theirs" else found[1])
    return {"seconds": seconds, "bytes": peak, "shares": shares.tolist()}


def trained(updates: str) -> dict[str, Any]:
    from experiments.bench.ours import Loop
    from wsdjax.config import CNN, AdamW, Branch, Constant, Experiment, Photos
    from wsdjax.trainer import Watch

    experiment = Experiment(
        model=CNN((4,)),
        data=Photos(size=1_000, eval_size=20),
        optimizer=AdamW(),
        batch_size=4,
        tree={"trunk": Branch(1, Constant())},
    )
    with tempfile.TemporaryDirectory() as directory:
        Loop(experiment, Path(directory)).train(int(updates), Watch(100, 500))
    return {"bytes": _memory("VmHWM")}


def _memory(which: str) -> int:
    """Bytes of this process, of Linux's own count."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1_024 * next(int(line.split()[1]) for line in lines if line.startswith(which))


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    command, *given = sys.argv[1:]
    run: Any = {"components": components, "trained": trained}[command]
    print(json.dumps(run(*given)))
