"""Trains whatever of a config's tree is still missing, then draws its report.

python -m experiments.run --config=experiments/configs/NAME.py [--workdir=runs/NAME]
    [--config.field=value ...] [--checkpoint_dir=PATH] [--dry_run] [--nocache]
    [--coordinator=HOST:PORT --process_count=N --process_id=I]

--dry_run tells parameters, tokens, FLOPs and memory, which every run tells first, and stops there;
the data need not be prepared. Compiled programs are kept for the next start, in ~/.cache/wsdjax or
where $XDG_CACHE_HOME or $JAX_COMPILATION_CACHE_DIR says; --nocache does without. Of several
processes, each with devices of its own, all are given the same command, with the last three flags
where JAX does not find them itself, as it does on a TPU and under SLURM; the first one keeps
--workdir, and all write to --checkpoint_dir, or to the workdir if they share its disk. On a notice
that a machine is taken away (SIGTERM) all save and end with the exit code 75, after which the same
command goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from experiments import cli
from wsdjax.config import describe_all, validate


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(__doc__, config=True, computes=True)
    parser.add_argument("--workdir", help="where the run lives; runs/NAME of the config")
    parser.add_argument("--checkpoint_dir", help="where checkpoints go, such as a bucket")
    parser.switch("dry_run", "tell what the run would cost, and stop")
    return cli.call(parser, run, argv)


def run(given: argparse.Namespace) -> int:
    """Trains what is missing in `workdir` of the `experiment`'s tree."""
    validate(given.experiment)
    if given.dry_run:
        from experiments.estimate import estimate
        from wsdjax import tree

        # Nothing of the data is read but what a length in epochs goes by.
        in_epochs = tree.measured_in(given.experiment, "epoch")
        described = describe_all(given.experiment.data_sets() if in_epochs else [])
        print("\n".join(estimate(tree.resolve(given.experiment, described), given.experiment.mesh)))
        return 0
    workdir = Path(given.workdir or Path("runs") / Path(given.config.partition(":")[0]).stem)
    cli.check_writable("--workdir", workdir)
    cli.check_writable("--checkpoint_dir", given.checkpoint_dir)

    # JAX comes in only once fields and workdir are known to be good.
    from experiments.cli.together import together
    from experiments.launch import launch
    from wsdjax import tree
    from wsdjax.branches.shared import open_store

    with together(given):
        branches = tree.resolve(given.experiment, describe_all(given.experiment.data_sets()))
        store = open_store(workdir, given.checkpoint_dir, given.experiment.keep)
        return launch(given.experiment, store, branches)


if __name__ == "__main__":
    cli.end(main())
