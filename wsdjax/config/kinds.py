"""The registry of what configs are made of, and what is asked of a schedule, a data set, a model.

A new one is a file with its class, under `kind` and with the methods below, and the line in
`wsdjax.config` that imports it. Validation, JSON, command lines and labels know it from then on.
A method that needs JAX imports it inside, so that a mistake in a config is told at once.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, TypeVar

from wsdjax.config.lengths import Length

if TYPE_CHECKING:
    from wsdjax.data import Dataset
    from wsdjax.data.tokens import Description

Rate = Callable[[Any], Any]
"""eta(t), t the absolute number of an update: an ``optax.Schedule``."""
Shapes = dict[str, tuple[tuple[int, ...], str]]
"""Shapes and dtypes of the arrays of one example, by name."""


@dataclasses.dataclass
class Kind:
    """A piece of a config: a dataclass that `kind` has registered."""

    unrecorded: ClassVar[Mapping[str, Any]] = {}
    """Values of fields that a record may lack, where they are not the defaults: what was done
    before there was a choice."""

    @property
    def called(self) -> str:
        """The name that reports give it."""
        return type(self).__name__

    def check(self, path: str) -> None:
        """That the fields fit each other, each of which has been checked by itself; else a
        `ConfigError` names the field, which stands below `path`, its value and what is allowed."""

    @classmethod
    def kinds(cls) -> dict[str, type[Self]]:
        """Those registered that are of this class, by name."""
        return {name: each for name, each in TYPES.items() if issubclass(each, cls)}


TYPES: dict[str, type[Kind]] = {}
"""The pieces that configs are made of, by name."""
K = TypeVar("K", bound=Kind)


@typing.dataclass_transform(field_specifiers=(dataclasses.field,))
def kind(cls: type[K]) -> type[K]:
    """Makes a dataclass of the class and registers it by its name, which no other may have; no
    field may be called "type", which is where JSON has the name."""
    name, made = cls.__name__, dataclasses.dataclass(cls)
    hints = typing.get_type_hints(made)
    for f in dataclasses.fields(made):
        f.type = hints[f.name]  # itself, and not its text, whatever the class's file imports
        if f.name == "type":
            raise TypeError(f'{name}: no field can be called "type"')
    if name in TYPES:
        raise TypeError(f"{name}: the name is that of {TYPES[name]}")
    TYPES[name] = made
    return made


@dataclasses.dataclass(frozen=True)
class Span:
    """The branch that a schedule is of, as far as its rates may go by it."""

    branch: str
    parent: str
    """Empty for a root."""
    start: int
    """Completed updates at the fork."""
    end: int
    peak: float
    inherited: Rate | None
    """The parent's schedule; None for a root."""
    before: float
    """The parent's rate of update number `start`; 0 for a root."""

    def rate_left(self) -> float:
        """The rate to go on from: the parent's at the fork, which must not be 0."""
        if self.before == 0:
            raise ValueError(
                f"the rate of {self.parent!r} is 0 at {self.start}: none is left to go on from; "
                "use Constant or Rewarm, or fork from where it is above 0"
            )
        return self.before


class Schedule(Kind):
    """A branch's schedule. `called` is its part in the name of a lineage's: "constant" before
    "cooldown" is WSD; it is empty for one that goes on as its parent's."""

    warmup_steps: Length = 0
    from_parents_rate = False
    """Whether it starts from the parent's rate, and so has no peak of its own."""
    endless = False
    """Whether it goes on for ever, so that a branch can be extended."""
    decays = False
    """Whether its end is a result, also where other branches go on from there."""

    @property
    def shape_called(self) -> str:
        """The words that a legend adds for its shape."""
        return ""

    def rate(self, span: Span) -> Rate:
        """eta(t) along a branch, whose lengths are in updates by now; a `ValueError` if the
        schedule does not fit it."""
        raise NotImplementedError

    def rate_after(self, span: Span) -> float:
        """The limit of the rate just after the fork; at t = start + 1 a steep one has gone on."""
        return float(self.rate(span)(span.start + 4 * math.ulp(float(span.start))))


class Described(NamedTuple):
    """Facts about a data set that its config does not tell."""

    classes: int
    """Values of a target."""
    examples: int
    """Training examples in one epoch."""
    evaluated: int
    """Held-out examples that are evaluated."""
    facts: Mapping[str, Any] = MappingProxyType({})
    """Further facts that a branch's record keeps, to know the data by."""
    text: Description | None = None
    """The description of a text's token shards."""


class DataConfig(Kind):
    """A data set."""

    unit: str
    """The kind of `units` that an example has: "images" or "tokens"."""
    augment: bool = False
    revision = 1
    """Counts the changes of what an index gives."""
    inert = True
    """Whether `describe` goes by the config alone."""

    @property
    def units(self) -> int:
        return 1

    @property
    def shapes(self) -> Shapes:
        """Shapes and dtypes of the arrays of an example."""
        raise NotImplementedError

    def describe(self) -> Described:
        """The facts about the data; those that are not `inert` are read, or made.

        Raises:
          NotPrepared: if there are none, naming the command that prepares them.
          OSError, UserError: for data that are damaged, naming the file.
        """
        raise NotImplementedError

    def not_there(self) -> str:
        """Why the data could not be loaded, if that is plain without opening them; else ""."""
        return ""

    def load(self) -> Dataset:
        """The data; raises as `describe` does."""
        raise NotImplementedError

    def note(self) -> str:
        """A remark about them for reports."""
        return ""


class ModelConfig(Kind):
    """A model."""

    reads = "tokens"
    """The `unit` of the data that it reads."""
    convolves = False
    """Whether it is made of convolutions, for which a compiler may have to be told something."""

    @property
    def classes(self) -> int:
        """Values of a target that it tells apart."""
        raise NotImplementedError

    def module(self, training: bool, device: Any = None) -> tuple[Callable, Callable]:
        """(a function of ``nnx.Rngs`` that makes the module; the module's metrics on a batch), as
        `wsdjax.models.build` wants them, for a `device`, None for the default one."""
        raise NotImplementedError
