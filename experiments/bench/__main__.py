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

from collections.abc import Sequence

from experiments import cli


def main(argv: Sequence[str] | None = None) -> int:
    return cli.choose({"curvature": _curvature, "training": _training}, "benchmark", __doc__, argv)


def _curvature(argv: Sequence[str]) -> int:
    from experiments.bench import curvature

    return curvature.main(argv)


def _training(argv: Sequence[str]) -> int:
    from experiments.bench import training

    return training.main(argv)


if __name__ == "__main__":
    cli.end(main())
