"""Tells, before anyone rents them, what a run would take of devices that are not here: whether it
fits, what the devices send each other, and how long it lasts at best.

python -m experiments.plan --config=experiments/configs/NAME.py --devices=v5e:16x16
    [--config.field=value ...] [--branch=NAME] [--probe=sharpness] [--out=FILE]

--devices are chips of a TPU, v5e:16x16, v6e:16x16, v2:4x4, v3:8x16, v4:4x4x4, v5p:4x4x4; GPUs of
one host, h100, h100:8, h200; or simulated ones, cpu:8. Every program of the config's tree is
compiled as training compiles it, by the device's own compiler where it is installed (pip install
"wsdjax[tpu]" or "wsdjax[gpu]", in environments of their own), else by the CPU's for as many
simulated devices.
Nothing runs, and the data need not be there. What does not fit is tried with other micro-batches
(accumulate) and with more rematerialised (model.remat), those that cost least in speed first. It
fits if the update does, and what makes the first state.

--probe=sharpness compiles the product of the Hessian and a vector too, of one of the batches that
experiments.probe makes, of all its examples at a time if they fit. --branch plans one branch and
its siblings alone. Times are bounds from what the devices can do (experiments/devices.py), and the
compiler's own estimate: no measurement.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from experiments import cli
from wsdjax.config import describe_all, validate
from wsdjax.errors import ConfigError
from wsdjax.wording import listed, near, shortened

PROBES = ("sharpness",)


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(__doc__, config=True)
    flag = parser.add_argument
    flag("--devices", help="such as v5e:16x16, h100:8 or cpu:8")
    flag("--branch", help="plan this branch and its siblings alone")
    flag("--probe", choices=PROBES, help="plan its products too")
    flag("--out", type=Path, help="a JSON file for the result")
    return cli.call(parser, _plan, argv)


def _plan(given: argparse.Namespace) -> int:
    validate(given.experiment)
    if not given.devices:
        raise ConfigError("give the devices, such as --devices=v5e:16x16, h100:8 or cpu:8")
    cli.check_file("--out", given.out)
    # Before JAX is imported: no device of this machine is used, nor looked for, which takes
    # minutes where there is no TPU, and several may ask a TPU's compiler at once.
    os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
    os.environ |= {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_STDERR_LOG_LEVEL": "3"}
    # What it complains of where it finds no TPU; the topology asked for is another matter.
    os.environ |= {"TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost"}

    from experiments.cli.results import here, write_result
    from experiments.plan.planning import plan
    from experiments.plan.topology import topology
    from experiments.plan.words import words
    from wsdjax import tree

    in_epochs = tree.measured_in(given.experiment, "epoch")
    described = describe_all(given.experiment.data_sets() if in_epochs else [])
    branches = tree.resolve(given.experiment, described)
    groups = tree.groups(branches)
    if given.branch:
        groups = [group for group in groups if given.branch in [each.name for each in group]]
        if not groups:
            known = near(given.branch, branches) or f"; the branches are {listed(branches)}"
            raise ConfigError(f"--branch={shortened(given.branch)}: there is none{known}")
    found = plan(groups, given.experiment.mesh, topology(given.devices), bool(given.probe))
    print("\n".join(words(found)))
    if given.out:
        write_result(given.out, found | here())
    return 0


if __name__ == "__main__":
    cli.end(main())
