"""Experiments as typed dataclasses, checked before anything compiles.

A config file's ``get_config()`` returns an `Experiment`. Its ``tree`` declares the branches
of training; ``python -m experiments.run`` trains whatever of it is still missing. The classes
are mutable so that ``--config.field=value`` can override them, and import no JAX so that a
mistake is reported at once.
"""

import contextlib
import math
from collections.abc import Iterable
from dataclasses import field

from wsdjax.config.json import key
from wsdjax.config.kinds import DataConfig, Described, Kind, ModelConfig, Schedule, kind
from wsdjax.config.lengths import Length
from wsdjax.config.validation import SIZE, check, check_path, count, number
from wsdjax.errors import ConfigError
from wsdjax.wording import shown


@kind
class AdamW(Kind):
    """AdamW with decoupled weight decay, multiplied by the rate (Loshchilov and Hutter)."""

    peak_value: float = number(3e-3, gt=0)
    b1: float = number(0.9, ge=0, lt=1)
    b2: float = number(0.999, ge=0, lt=1)
    eps: float = number(1e-8, gt=0)
    weight_decay: float = number(0.1, ge=0)
    clip_norm: float = number(math.inf, gt=0, le=math.inf)
    """Global norm to which gradients are clipped; inf for no clipping."""


@kind
class Overrides(Kind):
    """A branch's changes to its parent's optimizer; None keeps the parent's value."""

    peak_value: float | None = number(None, gt=0)
    b1: float | None = number(None, ge=0, lt=1)
    b2: float | None = number(None, ge=0, lt=1)
    eps: float | None = number(None, gt=0)
    weight_decay: float | None = number(None, ge=0)
    clip_norm: float | None = number(None, gt=0, le=math.inf)


@kind
class Averages(Kind):
    """Averages of the weights along training, kept in the state and evaluated beside them: what
    a constant rate reaches without a decay."""

    ema: float = number(0.0, ge=0, lt=1)
    """Decay of an exponential moving average with bias correction; 0 for none."""
    window: int = count(0, least=0)
    """Iterates in a latest-window average (Kaddour's LAWA); 0 for none."""
    window_every: int = count(1)
    """Updates from one of these iterates to the next."""


@kind
class Mesh(Kind):
    """Devices along each axis of the mesh; None for what `wsdjax.placement.mesh.shape` chooses:
    for a language model all along `fsdp`, else along `replica` and then `data`."""

    replica: int | None = count(None)
    """Devices that share the replicates: seeds and siblings."""
    data: int | None = count(None)
    """Devices that share the examples of a batch."""
    fsdp: int | None = count(None)
    """Devices that share the examples, and the parameters with all that is like them as well."""


@kind
class Branch(Kind):
    """A branch of the tree: `steps` updates from a node of the parent."""

    steps: Length = field(metadata={"ge": 1})
    """A length: updates (350), "50 epochs", "3e9 tokens", or "35%" of the experiment's."""
    schedule: Schedule
    parent: str = ""
    """``"trunk"`` forks at the end of `trunk`, ``"trunk@800"`` after its update 800; empty for
    a root, which starts from the initialisation."""
    optimizer: Overrides = field(default_factory=Overrides)
    reset_optimizer: bool = False
    """Whether the moments of Adam start from zero, as against going on from the parent's."""
    data: DataConfig | None = None
    """Another data set, from its first batch on; None for the parent's."""
    data_seed: int | None = number(None, ge=0, lt=SIZE)
    """The seed of a fresh stream, which starts with its first batch at the fork; None goes on
    with the batches that the parent would have seen. Replicate i has the seed data_seed + i."""
    averages: Averages | None = None
    """None keeps the parent's; others than the parent's start anew at the fork."""


@kind
class Experiment(Kind):
    """Everything a run is. `seeds` replicates, with the seeds `seed`, `seed` + 1, ..., are
    trained together; a replicate's seed decides its initialisation and its batches."""

    model: ModelConfig
    data: DataConfig
    optimizer: AdamW
    tree: dict[str, Branch]
    batch_size: int = count(128)
    accumulate: int = count(1)
    """Micro-batches that a batch is cut into: an update's memory is that of one of them."""
    weights: str = ""
    """A Hugging Face directory whose weights every root starts from; empty for the
    initialisation."""
    seed: int = number(0, ge=0, lt=SIZE)
    seeds: int = number(1, ge=1, lt=2**16)
    length: Length | None = number(None, ge=1)
    """The length that percentages in the tree refer to."""
    averages: Averages = field(default_factory=Averages)
    # How it is watched and kept: no part of what a branch means.
    eval_every: Length = number(100, ge=1)
    checkpoint_every: Length = number(500, ge=1)
    snapshot_every: Length | None = number(None, ge=1)
    """Parameters alone are kept as often, for probes; None for never."""
    keep: int = count(2, least=2)
    """How many of the newest checkpoints stay beside every fork point and every end."""
    tensorboard: bool = False
    mesh: Mesh = field(default_factory=Mesh)
    """How devices are shared, which may be another way whenever training goes on."""
    compare: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Rows of a table in the report: each a name and the branches of its columns."""

    def data_sets(self) -> list[DataConfig | None]:
        """Its own, and those of branches."""
        return [self.data, *(branch.data for branch in self.tree.values())]

    def check(self, path: str) -> None:
        if not self.tree:
            raise ConfigError("tree: is empty; declare at least one Branch")
        check_path("weights", self.weights)
        if self.batch_size % self.accumulate:
            raise ConfigError(
                f"accumulate = {self.accumulate}: must divide batch_size = {self.batch_size}"
            )
        for name in self.tree:
            check_name(name)
        for row in self.compare:
            if not (row.isprintable() and row.strip() and len(row) <= LONGEST_NAME):
                raise ConfigError(
                    f"compare: {shown(row)} is no name of a row: use 1 to {LONGEST_NAME} "
                    "characters, on one line"
                )


def validate(experiment: Experiment) -> None:
    """Checks every field's type and range, and makes it what its annotation says; raises as
    `wsdjax.config.validation.check`."""
    if not isinstance(experiment, Experiment):
        raise ConfigError(
            f"get_config() must return an Experiment, not {type(experiment).__name__}"
        )
    check("", experiment, Experiment)


def validate_branch(name: str, branch: Branch) -> None:
    """Checks a branch that is not in a config, as `validate` checks those that are."""
    check_name(name)
    check(f"tree.{name}", branch, Branch)


LONGEST_NAME = 100


def is_name(name: object) -> bool:
    """Whether a branch can have this name, which is that of a directory too."""
    if not isinstance(name, str) or not name.replace("-", "_").isidentifier():
        return False
    return not name.startswith("-") and len(name.encode()) <= LONGEST_NAME


def check_name(name: str) -> None:
    if not is_name(name):
        raise ConfigError(
            f"tree: {shown(name)} is no branch name: use letters, digits, _ and -, at most "
            f"{LONGEST_NAME} bytes of them"
        )


def describe_all(data_sets: Iterable[DataConfig | None]) -> dict[str, Described]:
    """Describes data sets, by their `key`: one call that reads them all, for
    `wsdjax.tree.resolve`. One that is not prepared is left out, for whoever loads it to tell."""
    from wsdjax.data.tokens import NotPrepared

    found = {}
    for data in filter(None, data_sets):
        with contextlib.suppress(NotPrepared):
            found[key(data)] = data.describe()
    return found
