"""The speed of a config: bare updates of its first branch, on one batch of random numbers.

python -m experiments.bench training --config=experiments/configs/NAME.py [--updates=10]
    [--config.field=value ...] [--out=FILE.json]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from experiments import cli
from experiments.bench.lm import speed
from experiments.bench.measure import seconds_of
from experiments.bench.ours import Step, branch_of
from experiments.cli.results import here, write_result
from experiments.estimate import batch_of, model_of
from wsdjax.config import Mesh, validate
from wsdjax.placement import mesh
from wsdjax.training import cost


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(__doc__, config=True)
    parser.add_argument("--updates", default=10, type=cli.number(int, 1), help="timed updates")
    parser.add_argument("--out", type=Path, help="a JSON file for the result")
    return cli.call(parser, _training, argv)


def _training(given: argparse.Namespace) -> None:
    validate(given.experiment)
    cli.check_file("--out", given.out)
    branch = branch_of(given.experiment)
    step = Step(branch)
    first, *seconds = [seconds_of(lambda: step(1)) for _ in range(given.updates + 1)]
    median = float(np.median(seconds))
    shape = mesh.shape(Mesh(), branch.model, branch.seeds, jax.device_count())
    result = {
        "subject": f"{model_of(branch)}, updates of {batch_of(branch)}",
        "first_seconds": first,
        "seconds": seconds,
        **speed(branch, median),
        "peak_bytes": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use"),
        "estimated_bytes": cost.of_branch(branch).bytes_of_device(branch.seeds, shape),
    }
    unit, share, used = branch.data.unit, result["share_of_peak"], result["peak_bytes"]
    of_peak = "peak unknown" if share is None else f"{share:.1%} of the device's peak"
    memory = "not told" if used is None else f"{used / 2**30:.3g} GiB"
    print(f"{result['subject']}: first update {first:.1f} s with compilation, then {median:.3g} s")
    print(f"{result[f'{unit}_per_second']:,.0f} {unit} a second, {of_peak}")
    print(f"memory of a device: {memory}, estimated {result['estimated_bytes'] / 2**30:.3g} GiB")
    if given.out:
        write_result(given.out, result | here())
