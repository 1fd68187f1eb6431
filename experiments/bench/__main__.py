"""How fast: curvature beside other libraries, and training by the floating-point operations.

python -m experiments.bench curvature [--batch=256] [--repeats=3] [--k=1,5] [--out=FILE.json]
    [--figure=STEM] [--peers=NAME,...] [--steps=300] [--workdir=W --node=BRANCH[@STEP]]
python -m experiments.bench training --config=experiments/configs/NAME.py [--updates=10]
    [--config.field=value ...] [--out=FILE.json]

curvature    The CNN's largest Hessian eigenvalues, ours and those of other libraries, on the same
             weights, examples and cores: relative error against products and against seconds.
training     Updates of a config's first branch as the trainer makes them: examples or tokens a
             second, and the share of the device's peak that the model's own operations make up.
"""

from __future__ import annotations

import importlib
import sys

from absl import flags

from experiments import cli

BENCHMARKS = ("curvature", "training")


def main() -> None:
    given = sys.argv[1] if len(sys.argv) > 1 else ""
    if given in ("--help", "--helpfull", "-h"):
        for name in BENCHMARKS:
            flags.adopt_module_key_flags(_module(name))
        cli.run(lambda: None)
    if given not in BENCHMARKS:
        cli.fail(f"name the benchmark first: {' or '.join(BENCHMARKS)}")
    del sys.argv[1]
    chosen = _module(given)
    flags.adopt_module_key_flags(chosen)
    cli.run(chosen.main, read_config=given == "training")


def _module(name: str):
    return importlib.import_module(f"experiments.bench.{name}")


if __name__ == "__main__":
    main()
