"""Trains whatever of a config's tree is still missing, then draws its report.

python -m experiments.run --config=experiments/configs/NAME.py [--workdir=runs/NAME]
    [--config.field=value ...] [--checkpoint_dir=PATH]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from experiments import cli
from wsdjax.config import Experiment, to_json, validate

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The config file; see experiments/configs."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run lives; runs/NAME of the config.")
_CHECKPOINT_DIR = flags.DEFINE_string(
    "checkpoint_dir", None, "Where checkpoints go if not into the workdir: a bucket, for example."
)
flags.mark_flag_as_required("config")


def main() -> None:
    experiment = _CONFIG.value
    validate(experiment)
    workdir = Path(_WORKDIR.value or Path("runs") / Path(_config_file()).stem)
    run(experiment, workdir, _CHECKPOINT_DIR.value)


def run(experiment: Experiment, workdir: Path, checkpoint_dir: str | None = None) -> None:
    """Trains what is missing in `workdir` of the experiment's tree, and draws the report."""
    from wsdjax import tree  # JAX comes in only once the fields are known to be good

    edges = tree.resolve(experiment)

    from experiments import report
    from experiments.progress import progress
    from wsdjax.branches import BranchStore
    from wsdjax.metrics import write_atomically
    from wsdjax.train import Diverged, Trainer

    store = BranchStore(workdir, checkpoint_dir, experiment.keep)
    trainer = Trainer(
        store,
        progress(),
        experiment.eval_every,
        experiment.checkpoint_every,
        experiment.tensorboard,
    )
    trainer.check(edges)
    with store.lock():
        store.register(edges)
        config = json.dumps(to_json(experiment), indent=2) + "\n"
        write_atomically(workdir / "config.json", config)
        page = workdir / "report.html"
        if not trainer.missing(list(edges)) and page.exists():
            print(f"Nothing is missing in {workdir}: all of {', '.join(edges)} are trained.")
            return
        page.unlink(missing_ok=True)  # a page that is there is up to date
        _write_status(store, "running")
        try:
            trainer.grow(list(edges))
        except Diverged as error:
            _write_status(store, f"diverged: {error}")
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        except BaseException:
            _write_status(store, "incomplete")
            raise
        print(report.write(workdir))
        _write_status(store, "done")


def _write_status(store, status: str) -> None:
    from wsdjax.metrics import write_atomically

    branches = {
        name: {"start": edge.start, "end": edge.end, "saved": store.steps(name)}
        for name, edge in store.edges().items()
    }
    content = json.dumps({"status": status, "branches": branches}, indent=2) + "\n"
    write_atomically(store.workdir / "status.json", content)


def _config_file() -> str:
    """The path given as --config, without the argument that may follow a colon."""
    return config_flags.get_config_filename(flags.FLAGS["config"])


if __name__ == "__main__":
    cli.run(main, read_config=True)
