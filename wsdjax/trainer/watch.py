"""How training is watched: how often, and by whom."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from wsdjax import tree
from wsdjax.config import Experiment, describe_all


class Progress:
    """Told of the updates whose rows have been read; it shows nothing."""

    def start(self, title: str, step: int, end: int, each: int, unit: str) -> None:
        """`each` update takes so many of a unit: images or tokens."""

    def update(self, step: int, loss: float, rate: float) -> None:
        """Of update `step`, the last of those that were one call."""

    def stop(self) -> None:
        pass


@dataclass(frozen=True)
class Watch:
    """How often training is evaluated, saved and snapshot, in updates, and where it is told."""

    eval_every: int = 100
    checkpoint_every: int = 500
    snapshot_every: int | None = None
    snapshot_at: Mapping[str, Collection[int]] = field(default_factory=dict)
    """Further updates of a branch whose parameters are kept."""
    tensorboard: bool = False
    progress: Progress = field(default_factory=Progress)

    def keeps(self, name: str, step: int) -> bool:
        """Whether the parameters of a branch's node are kept."""
        regular = self.snapshot_every and step % self.snapshot_every == 0
        return bool(regular) or step in self.snapshot_at.get(name, ())

    @classmethod
    def of(cls, experiment: Experiment, progress: Progress | None = None) -> Watch:
        """As the experiment says; raises as `wsdjax.tree.every`."""
        described = describe_all(experiment.data_sets())
        fields = ("eval_every", "checkpoint_every", "snapshot_every")
        often: Any = {
            field: tree.every(experiment, field, described)
            for field in fields
            if getattr(experiment, field) is not None
        }
        return cls(tensorboard=experiment.tensorboard, progress=progress or Progress(), **often)
