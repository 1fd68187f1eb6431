"""How training is watched: how often, and by whom."""

from __future__ import annotations

from dataclasses import dataclass, field

from wsdjax import tree
from wsdjax.config import Experiment


class Progress:
    """Told of every update whose row has been read; it shows nothing."""

    def start(self, title: str, step: int, end: int, each: int, unit: str) -> None:
        """`each` update takes so many of a unit: images or tokens."""

    def update(self, step: int, loss: float, rate: float) -> None:
        pass

    def stop(self) -> None:
        pass


@dataclass(frozen=True)
class Watch:
    """How often training is evaluated, saved and snapshot, in updates, and where it is told."""

    eval_every: int = 100
    checkpoint_every: int = 500
    snapshot_every: int | None = None
    tensorboard: bool = False
    progress: Progress = field(default_factory=Progress)

    @classmethod
    def of(cls, experiment: Experiment, progress: Progress | None = None) -> Watch:
        """As the experiment says.

        Raises:
          ConfigError: for a length that means nothing in its data.
        """
        snapshots = experiment.snapshot_every is not None
        return cls(
            tree.every(experiment, "eval_every"),
            tree.every(experiment, "checkpoint_every"),
            tree.every(experiment, "snapshot_every") if snapshots else None,
            experiment.tensorboard,
            progress or Progress(),
        )
