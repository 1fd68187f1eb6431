"""Trains whatever of a config's tree is still missing, then draws its report.

python -m experiments.run --config=experiments/configs/NAME.py [--workdir=runs/NAME]
    [--config.field=value ...] [--checkpoint_dir=PATH] [--dry_run]

--dry_run tells parameters, tokens, FLOPs and memory, which every run tells first, and stops there;
the data need not be prepared.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from experiments import cli
from wsdjax.config import Experiment, describe_all, validate

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The config file; see experiments/configs."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run lives; runs/NAME of the config.")
_CHECKPOINT_DIR = flags.DEFINE_string(
    "checkpoint_dir", None, "Where checkpoints go if not into the workdir: a bucket, for example."
)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Tell what the run would cost, and stop.")
flags.mark_flag_as_required("config")


def main() -> None:
    experiment = _CONFIG.value
    validate(experiment)
    if _DRY_RUN.value:
        from experiments.estimate import estimate
        from wsdjax import tree

        # Nothing of the data is read but what a length in epochs goes by.
        sets = experiment.data_sets() if tree.measured_in(experiment, "epoch") else []
        print("\n".join(estimate(tree.resolve(experiment, describe_all(sets)))))
        return
    workdir = Path(_WORKDIR.value or Path("runs") / Path(_config_file()).stem)
    run(experiment, workdir, _CHECKPOINT_DIR.value)


def run(experiment: Experiment, workdir: Path, checkpoint_dir: str | None = None) -> None:
    """Trains what is missing in `workdir` of the experiment's tree, and draws the report."""
    cli.check_writable("--workdir", workdir)
    if checkpoint_dir and "://" not in checkpoint_dir:
        cli.check_writable("--checkpoint_dir", Path(checkpoint_dir).expanduser())

    from wsdjax import tree  # JAX comes in only once fields and workdir are known to be good

    branches = tree.resolve(experiment, describe_all(experiment.data_sets()))

    from experiments.launch import launch
    from wsdjax.branches import BranchStore

    launch(experiment, BranchStore(workdir, checkpoint_dir, experiment.keep), branches)


def _config_file() -> str:
    """The path given as --config, without the argument that may follow a colon."""
    return config_flags.get_config_filename(flags.FLAGS["config"])


if __name__ == "__main__":
    cli.run(main, read_config=True)
