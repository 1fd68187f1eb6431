from __future__ import annotations

from collections.abc import Sequence

from experiments import cli
from experiments.bench import curvature, training


def main(argv: Sequence[str] | None = None) -> int:
    commands = {"curvature": curvature.main, "training": training.main}
    return cli.choose(commands, "benchmark", __doc__, argv)


if __name__ == "__main__":
    cli.end(main())
