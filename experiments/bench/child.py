"""What is measured in a process of its own, whose memory is then its own too."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.bench.ours import Loop
from wsdjax import probes
from wsdjax.config import CNN, AdamW, Branch, Constant, Experiment, Photos
from wsdjax.trainer import Watch


def in_process(function: Callable[..., Any], *given: Any) -> Any:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *given).result()


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


def components(directory: str, who: str) -> dict[str, Any]:
    """Seconds, bytes at the peak beyond those there were, and shares of variance of the principal
    components by "ours" or "theirs"."""
    shares_of = _ours if who == "ours" else _theirs
    iterates = Files(directory)
    shares_of(iterates[:4])  # which compiles whatever it compiles
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    begun = time.perf_counter()
    shares = shares_of(iterates)
    seconds = time.perf_counter() - begun
    peak = _memory("VmHWM") - before
    if who == "ours" and (device := jax.devices()[0].memory_stats()):
        peak += device["peak_bytes_in_use"]
    return {"seconds": seconds, "bytes": peak, "shares": np.asarray(shares).tolist()}


def _ours(iterates: Sequence) -> Any:
    return probes.principal_components(iterates, k=2)[1]


def _theirs(iterates: Sequence) -> Any:
    from sklearn.decomposition import PCA

    rows = [np.concatenate([leaf.ravel() for leaf in i.values()]) for i in iterates]
    return PCA(n_components=2, random_state=0).fit(np.stack(rows)).explained_variance_ratio_


def trained(updates: int) -> int:
    """Bytes at the peak of a process that trains so long."""
    experiment = Experiment(
        model=CNN((4,)),
        data=Photos(size=1_000, eval_size=20),
        optimizer=AdamW(),
        batch_size=4,
        tree={"trunk": Branch(1, Constant())},
    )
    with Loop(experiment) as loop:
        loop.train(updates, Watch(100, 500))
    return _memory("VmHWM")


def _memory(which: str) -> int:
    """Bytes of this process, of Linux's own count: that of `resource` has its parent's too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1_024 * next(int(line.split()[1]) for line in lines if line.startswith(which))
