"""How fast: curvature beside other libraries, and training by the floating-point operations.

python -m experiments.bench curvature [--batch=256] [--repeats=3] [--k=1,5] [--out=FILE.json]
    [--figure=STEM] [--peers=NAME,...] [--steps=300] [--workdir=W --node=BRANCH[@STEP]]
python -m experiments.bench training --config=experiments/configs/NAME.py [--updates=10]
    [--config.field=value ...] [--out=FILE.json]
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments import cli
from experiments.bench import curvature, training


def main(argv: Sequence[str] | None = None) -> int:
    commands = {"curvature": curvature.main, "training": training.main}
    return cli.choose(commands, "benchmark", __doc__, argv)


if __name__ == "__main__":
    cli.end(main())
