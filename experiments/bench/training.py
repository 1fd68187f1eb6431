"""Training's speed: updates of a config's first branch in the trainer's own compiled step.

The batches are random numbers of the data set's shapes, so that it need not be there, and they go
to the device as the trainer's do. Utilisation is the model's own (Chowdhery et al., appendix B):
the operations of its matrix products, without what rematerialisation repeats, over what the device
could do meanwhile. Its maker says how much that is; beside it stands what a large matrix product
reaches here, the only measure where the maker's number is not known.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import cli, devices
from experiments.bench.measure import seconds_of
from experiments.bench.ours import Step, branch_of, random_batch
from experiments.cli.results import here, write_result
from experiments.estimate import batch_of, model_of
from wsdjax.branches import provenance
from wsdjax.config import Mesh, validate
from wsdjax.placement import mesh
from wsdjax.training import cost
from wsdjax.tree.branch import ResolvedBranch


class Speed(NamedTuple):
    """The speed of one update of all replicates."""

    first_seconds: float
    """With compilation."""
    seconds: list[float]
    peak_bytes: int | None
    """The most memory of a device in use; None where the device does not tell."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(__doc__, config=True)
    updates = cli.number(int, 1)
    parser.add_argument("--updates", default=10, type=updates, help="timed updates")
    parser.add_argument("--out", type=Path, help="a JSON file for the result")
    return cli.call(parser, _training, argv)


def _training(given: argparse.Namespace) -> None:
    validate(given.experiment)
    branch = branch_of(given.experiment)
    of_one = cost.of_branch(branch)
    subject = f"{model_of(branch)}, updates of {batch_of(branch)}"
    print(f"{subject}, on {provenance.machine()}", flush=True)
    dtype = jnp.dtype(getattr(branch.model, "compute", "float32"))
    before = product_rate(dtype)
    speed = measure(branch, given.updates)
    rate = branch.seeds / float(np.median(speed.seconds))
    each = rate * of_one.flops / jax.device_count()
    result = {
        "subject": subject,
        **speed._asdict(),
        "per_second": rate * branch.batch_size * branch.data.units,
        "unit": branch.data.unit,
        "flops_per_second_and_device": each,
        "matrix_product_flops_per_second": max(before, product_rate(dtype)),
        "share_of_peak": of_peak(each, dtype),
        "estimated_bytes": of_one.bytes_of_device(
            branch.seeds, mesh.shape(Mesh(), branch.model, branch.seeds, jax.device_count())
        ),
    }
    print("\n".join(told(result)))
    if given.out:
        write_result(given.out, result | here())


def measure(branch: ResolvedBranch, updates: int) -> Speed:
    """Times updates of a branch from its initialisation; the first, which compiles, apart."""
    step = Step(branch)
    seconds: list[float] = []
    for n in range(updates + 1):
        batch = random_batch(branch, n)
        seconds.append(seconds_of(lambda: _done(step, batch)))  # noqa: B023
    usage = jax.devices()[0].memory_stats() or {}
    return Speed(seconds[0], seconds[1:], usage.get("peak_bytes_in_use"))


def _done(step: Step, batch: Any) -> None:
    loss = step.update(step.put(batch))
    jax.block_until_ready((step.state, loss))


def product_rate(dtype: Any, seconds: float = 2.0) -> float:
    """Operations a second of a square matrix product on the first device, the best of those that
    fit the time."""
    size = 1_024 if jax.default_backend() == "cpu" else 8_192
    matrix, product = jnp.ones((size, size), dtype), jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()
    times: list[float] = []
    while sum(times) < seconds:
        begun = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        times.append(time.perf_counter() - begun)
    return 2 * size**3 / min(times)


def told(result: dict[str, Any]) -> list[str]:
    """The result in lines of text."""
    seconds, product = result["seconds"], result["matrix_product_flops_per_second"]
    each, share = result["flops_per_second_and_device"], result["share_of_peak"]
    of_peak = "" if share is None else f", {share:.1%} of the device's peak"
    used, estimated = result["peak_bytes"], result["estimated_bytes"] / 2**30
    return [
        f"first update {result['first_seconds']:.1f} s with compilation, then "
        f"{np.median(seconds):.3g} s, the median of {len(seconds)} from {min(seconds):.3g} to "
        f"{max(seconds):.3g}",
        f"{result['per_second']:,.0f} {result['unit']} a second",
        f"{each / 1e12:.3g} TFLOP/s a device: {each / product:.1%} of what a large matrix product "
        f"reaches here, {product / 1e12:.3g} TFLOP/s{of_peak}",
        f"memory of a device: {'not told' if used is None else f'{used / 2**30:.3g} GiB'}, "
        f"estimated {estimated:.3g} GiB",
    ]


def of_peak(flops_per_second: float, dtype: Any) -> float | None:
    """None for a device that is not in the table, or for other than bfloat16."""
    kind = jax.devices()[0].device_kind
    device = devices.known(kind)
    return flops_per_second / device.peak if device and dtype == jnp.bfloat16 else None
