"""One branch of a resolved tree: all that decides its numbers."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from typing import Any

from wsdjax.config import AdamW, Averages, DataConfig, ModelConfig, Schedule
from wsdjax.config.json import from_json, to_json
from wsdjax.config.validation import check
from wsdjax.errors import ConfigError


@dataclass(frozen=True)
class ResolvedBranch:
    """One branch with everything it inherits made explicit; `branch.json` holds it."""

    name: str
    parent: str
    """Empty for a root."""
    start: int
    """Completed updates at the fork: the node it starts from is (parent, start)."""
    end: int
    schedule: Schedule
    optimizer: AdamW
    model: ModelConfig
    data: DataConfig
    batch_size: int
    accumulate: int
    """Micro-batches of one update."""
    seed: int
    """The seed of the first replicate's initialisation; the next ones have seed + 1, ..."""
    seeds: int
    data_seed: int
    """The seed of the first replicate's stream of batches."""
    data_start: int
    """Where that stream began: update n sees its batch n - 1 - data_start."""
    reset_optimizer: bool
    averages: Averages
    weights: str
    """The Hugging Face directory that a root starts from; empty for the initialisation."""

    def to_json(self) -> dict[str, Any]:
        return {f.name: to_json(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> ResolvedBranch:
        """Reads what `to_json` gives; a `ConfigError` tells of anything else."""
        kinds = typing.get_type_hints(cls)
        if wrong := ", ".join(sorted(kinds.keys() ^ fields.keys())):
            raise ConfigError(f"the record of a branch lacks, or should not hold, {wrong}")
        values = {name: from_json(fields[name], kind) for name, kind in kinds.items()}
        return cls(**{name: check(name, values[name], kind) for name, kind in kinds.items()})

    @property
    def replicate_seeds(self) -> tuple[int, ...]:
        return tuple(range(self.seed, self.seed + self.seeds))

    @property
    def stream_seeds(self) -> tuple[int, ...]:
        return tuple(range(self.data_seed, self.data_seed + self.seeds))
