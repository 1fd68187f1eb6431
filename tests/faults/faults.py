"""Faults, their names, and how they are drawn."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from typing import NamedTuple

from tests.faults import damage
from tests.faults.scenes import Stage
from tests.faults.shim import Aim, Operation

KINDS = ("kill", "write", "damage")
FOREVER = 2**62
BURST = 40
"""Operations in a row that fail before there is room again."""

_SHARES = {
    "kill": {"run": 9, "fork": 3, "probe": 3, "report": 1, "prepare": 4},
    "write": {"run": 8, "fork": 3, "probe": 3, "report": 2, "prepare": 4},
    "damage": {"run": 8, "fork": 3, "probe": 4, "report": 2, "prepare": 2, "text": 1},
}
_PARTS = (
    *("/branches/trunk/checkpoints", "/branches/sqrt/checkpoints", "/branches/square/checkpoints"),
    *("/snapshots", "/metrics.jsonl", "/branch.json", "/.metrics.jsonl", "/.branch.json"),
    *("/config.json", "/.config.json", "/status.json", "/.status.json", "/.lock", "/figures"),
    *("/results.json", "/.results.json", "/report.html", "/.report.html", "/probes"),
    *(".tokens", "/tokens.json", "/.tokens.json", "/plan.json", "/.plan.json", "/tokenizer.json"),
    *("/jobs.jsonl",),
)
"""Of paths, so that a file with few operations has its share of faults."""
_MAY_FAIL = {
    "ENOSPC": ("open", "write", "mkdir", "rename", "sync"),
    "EMFILE": ("open",),
    "EIO": ("open", "write", "rename", "unlink", "sync"),
    "EACCES": ("open", "mkdir", "rename", "unlink"),
}


class Fault(NamedTuple):
    kind: str
    scene: str
    what: tuple[str, ...]

    @property
    def id(self) -> str:
        return ":".join((self.kind, self.scene, *self.what))

    @classmethod
    def of(cls, id: str) -> Fault:
        kind, scene, *what = id.split(":")
        return cls(kind, scene, tuple(what))

    def aims(self) -> list[Aim]:
        """For a kill or a failing write: of the command, and of its first repetition."""
        match, kind, *rest = self.what
        if self.kind == "kill":
            how, when, *numbers = rest
            first, *more = map(int, numbers)
            kinds = Aim().kinds if kind == "any" else (kind,)
            aims = [Aim(match, kinds, first, first, how, when)]
            return aims + [Aim("", Aim().kinds, n, n, "kill") for n in more]
        error, mode, number = rest
        first = int(number)
        last = {"once": first, "burst": first + BURST - 1, "forever": FOREVER}[mode]
        kinds = _MAY_FAIL[error] if kind == "any" else (kind,)
        return [Aim(match, kinds, first, last, "fail", error=getattr(errno, error))]


def draw(stage: Stage, count: int, seed: int, kinds: tuple[str, ...]) -> list[Fault]:
    """As many different faults, those of one kind together."""
    shares = {"kill": 0.4, "write": 0.3, "damage": 0.3}
    whole = sum(shares[kind] for kind in kinds)
    found: list[Fault] = []
    for kind in kinds:
        dice = random.Random(f"{seed} {kind}")
        mine: dict[Fault, None] = {}
        scenes, weights = zip(*_SHARES[kind].items(), strict=True)
        wanted = round(count * shares[kind] / whole)
        while len(mine) < wanted:
            (scene,) = dice.choices(scenes, weights)
            if fault := _DRAWN[kind](stage, scene, dice):
                mine[fault] = None
        found += mine
    return found


def _operations(
    stage: Stage, scene: str, kinds: tuple[str, ...], dice: random.Random
) -> tuple[str, str, int] | None:
    """Part of a path, a kind or "any", and a number among those operations."""
    every = [o for o in stage.scene(scene).operations if o.kind in kinds]
    parts = ["", "", *(part for part in _PARTS if _of(every, part))]
    chosen = _of(every, part := dice.choice(parts))
    kind = "any"
    if dice.random() < 0.5:
        kind = dice.choice(sorted({o.kind for o in chosen}))
        chosen = [o for o in chosen if o.kind == kind]
    return (part, kind, dice.randint(1, len(chosen))) if chosen else None


def _of(operations: list[Operation], part: str) -> list[Operation]:
    return [o for o in operations if part in o.path]


def _kill(stage: Stage, scene: str, dice: random.Random) -> Fault | None:
    found = _operations(stage, scene, Aim().kinds, dice)
    if not found:
        return None
    part, kind, number = found
    when = dice.choice(("before", "after", "half"))
    how = "kill1" if scene == "prepare" and dice.random() < 0.3 else "kill"
    numbers = [str(number)]
    if dice.random() < 0.2:  # and the repetition too
        numbers.append(str(dice.randint(1, len(stage.scene(scene).operations))))
    return Fault("kill", scene, (part, kind, how, when, *numbers))


def _write(stage: Stage, scene: str, dice: random.Random) -> Fault | None:
    error = dice.choices(tuple(_MAY_FAIL), (4, 2, 2, 1))[0]
    found = _operations(stage, scene, _MAY_FAIL[error], dice)
    if not found:
        return None
    part, kind, number = found
    mode = dice.choice(("once", "burst", "forever"))
    return Fault("write", scene, (part, kind, error, mode, str(number)))


def _damage(stage: Stage, scene: str, dice: random.Random) -> Fault | None:
    played = stage.scene(scene)
    # A run on text knows where its text lay, and another lane is another place.
    starts = [
        *played.cuts,
        *([] if scene == "text" else ["end"]),
        *(["base"] if played.starts["base"] else []),
    ]
    workdir = stage.start(scene, start := dice.choice(sorted(starts)))
    kinds = damage.places(workdir)
    if scene == "text":
        kinds = {kind: names for kind, names in kinds.items() if kind.startswith("data/")}
    name = dice.choice(kinds[dice.choice(sorted(kinds))])
    way = dice.choice(damage.ways(workdir / name))
    if "/probes" in name and way in ("deleted", "emptied") and scene != "probe":
        return None  # a result that is taken away is one that nobody asked for
    return Fault("damage", scene, (start, name, way))


_DRAWN: dict[str, Callable[[Stage, str, random.Random], Fault | None]] = {
    "kill": _kill,
    "write": _write,
    "damage": _damage,
}
