"""Draws a workdir again from its files alone: figures/, report.html and the final table.

python -m experiments.report --workdir=runs/NAME
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from experiments import cli
from experiments.report.write import write_report
from wsdjax.errors import ConfigError


def main() -> None:
    workdir = Path(flags.FLAGS.workdir)
    if not any(workdir.glob("branches/*/branch.json")):
        raise ConfigError(f"--workdir={workdir}: no run is there (it has no branch)")
    print(write_report(workdir))


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "A run's directory.")
    flags.mark_flag_as_required("workdir")
    cli.run(main)
