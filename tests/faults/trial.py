"""What becomes of a run under a fault."""

from __future__ import annotations

import hashlib
import random
import re
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.faults import damage, processes
from tests.faults.compare import Difference, differences, without_spares
from tests.faults.faults import FOREVER, Fault
from tests.faults.processes import Ended
from tests.faults.scenes import Scene, Stage, copy
from tests.faults.shim import Control

LINES = 5
"""At most as many lines on standard error, beside those of a run without a fault."""
CHARACTERS = 400
"""An error has fewer."""


class Result(NamedTuple):
    fault: Fault
    verdict: str
    """"survived", "lost", or "none" for a fault that did not come about."""
    what: str
    seconds: float
    err: str = ""
    """What the command said under the fault, of what was lost."""


def attempt(fault: Fault, stage: Stage, lane: Path) -> Result:
    """Tries a fault in `lane`/w."""
    workdir = lane / "w"
    lane.mkdir(exist_ok=True)
    trial = _Trial(stage, stage.scene(fault.scene), workdir)
    came_about = _TRIED[fault.kind](trial, fault)
    shutil.rmtree(workdir, ignore_errors=True)
    verdict = "lost" if trial.problems else "survived"
    what = "; ".join(trial.problems or trial.notes)
    if not came_about:
        verdict = "none"
    return Result(fault, verdict, what, trial.seconds, trial.err if verdict == "lost" else "")


class _Trial:
    def __init__(self, stage: Stage, scene: Scene, workdir: Path):
        self.stage, self.scene, self.workdir = stage, scene, workdir
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.seconds, self.err = 0.0, ""

    def command(self, control: Control | None = None, scene: Scene | None = None) -> Ended:
        arguments = (scene or self.scene).command(self.workdir)
        ended = processes.run(arguments, self.workdir.parent, control)
        self.seconds += ended.seconds
        self.err += f"--- exit {ended.code}\n{ended.err}"
        return ended

    def kill(self, fault: Fault) -> bool:
        copy(self.scene.starts["base"], self.workdir)
        acted = False
        for aim in fault.aims():
            control = Control(self.workdir.parent / "control", self.workdir, aim)
            ended = self.command(control)
            if control.acted:
                acted = True
                if aim.action == "kill" and ended.code != -signal.SIGKILL:
                    self.problems.append(f"killed, and ended with {ended.code}")
                if aim.action == "kill1" and ended.code == 2:
                    self._one_line(ended)
                elif aim.action == "kill1" and ended.code != -signal.SIGKILL:
                    self.problems.append(_ending("one process killed", ended))
            elif ended.code:
                self.problems.append(_ending("again", ended))
        self.again()
        return acted

    def write(self, fault: Fault) -> bool:
        copy(self.scene.starts["base"], self.workdir)
        (aim,) = fault.aims()
        control = Control(self.workdir.parent / "control", self.workdir, aim)
        ended = self.command(control)
        if not control.acted:
            return False
        if ended.code == 0:
            self._equal("exit 0, and")
            self.notes.append("done all the same")
        elif ended.code != 2:
            self.problems.append(_ending("the fault", ended))
        else:
            said = self._one_line(ended)
            if said and f"{self.workdir.name}/" not in said:
                self.problems.append(f"names no file: {said}")
        status = self.workdir / "status.json"
        # A disk that stays full takes no news.
        if aim.last < FOREVER and status.is_file() and b"running" in status.read_bytes():
            self.problems.append("status left 'running'")
        self.again()
        return True

    def again(self) -> None:
        """The same command, without a fault, ends as it always does."""
        ended = self.command()
        if ended.code:
            self.problems.append(_ending("again", ended))
        else:
            self._equal("again, exit 0, and")

    def damage(self, fault: Fault) -> bool:
        start, name, way = fault.what
        copy(self.stage.start(self.scene.name, start), self.workdir)
        before = _listing(self.workdir)
        if not damage.inflict(way, self.workdir / name, self.workdir, random.Random(fault.id)):
            return False
        after = _listing(self.workdir)
        hurt = [name, *(n for n in before | after if before.get(n) != after.get(n))]
        ended = self.command()
        if self._refused(ended, hurt):
            return True
        if ended.code:
            self.problems.append(_ending("", ended))
            return True
        left = self._left()
        declared = re.compile("branches/(trunk|decay|sqrt)(/(?!probes/)|$)")
        others = self.scene.name in ("fork", "probe", "report")
        if others and any(e.what == "missing" and declared.match(e.path) for e in left):
            # What the run was to keep the run makes again, and what is drawn of it is drawn again.
            self.err = ""
            for scene in (self.stage.scene("run"), self.scene):
                if self._refused(ended := self.command(scene=scene), hurt):
                    return True
                if ended.code:
                    self.problems.append(_ending("what is missing made again", ended))
                    return True
            left = [each for each in self._left() if not _is_told_gone(each, self.err)]
        if left and all(_within(each.path, hurt) for each in left):
            # The command had no need of it: who reads it must refuse it, or make it anew.
            if self._refused(ended := self._reader(left), hurt):
                return True
            if ended.code:
                self.problems.append(_ending("read", ended))
                return True
            left = [each for each in self._left() if each.path not in self._harmless]
        if left:
            self.problems.append(f"exit 0, and {_told(left)}")
        return True

    def _reader(self, left: Sequence[Difference]) -> Ended:
        """A command that reads what differs."""
        paths = [each.path for each in left]
        self._harmless: set[str] = set()
        if any(path.startswith("data/") for path in paths):
            reader = "prepare" if self.scene.name == "text" else "text"
            return self.command(scene=self.stage.scene(reader))
        if "status.json" in paths:
            return self.command(scene=self.stage.scene("run"))
        if not any(re.search("/(checkpoints|snapshots)(/|$)", path) for path in paths):
            return self.command(scene=self.stage.scene("report"))
        was = processes.call(lambda: _print_nodes(self.scene.end), self.workdir.parent)
        ended = processes.call(lambda: _print_nodes(self.workdir), self.workdir.parent)
        if ended.code == 0 == was.code and ended.out == was.out:
            # The numbers are right, and they were compared; a node that is gone is gone even so.
            self._harmless = {
                each.path for each in left if each.what != "missing" or self._has_node_of(each)
            }
            self.notes.append("all nodes read as they were")
        return ended

    def _has_node_of(self, each: Difference) -> bool:
        node = re.match(r".*/(checkpoints|snapshots)/\d+", each.path)
        return bool(node) and (self.workdir / node[0]).is_dir()

    def _left(self) -> list[Difference]:
        found = differences(self.workdir, self.scene)
        return without_spares(found, self.workdir, self.scene)

    def _refused(self, ended: Ended, hurt: Sequence[str]) -> bool:
        """Whether the damage was refused by name; how it was told is looked at."""
        if ended.code != 2:
            return False
        said = self._one_line(ended)
        names = {f"{self.workdir.name}/{name}" for name in hurt}
        names |= {m[0] for n in names if (m := re.match(r".*/(checkpoints|snapshots)(/\d+)?", n))}
        names |= {m[0] for n in names if (m := re.match(r".*/branches/[^/]+", n))}
        if "branches" in hurt:
            names.add(f"/{self.workdir.name}:")  # without them it is no workdir
        for path in map(Path, list(names)):
            if f" {path.name}" in said and str(path.parent) in said:
                names.add(path.name)
        if said and not any(name in said for name in names):
            self.problems.append(f"names another file or none: {said}")
        self.notes.append(f"refused: {said}")
        return True

    def _one_line(self, ended: Ended) -> str:
        """The error's one line; anything else that it said is a problem."""
        usual = {_masked(line) for line in self.scene.said}
        lines = [line for line in ended.err.splitlines() if _masked(line) not in usual]
        errors = [line for line in lines if line.startswith("error: ")]
        if "Traceback" in ended.err or len(lines) > LINES:
            self.problems.append(f"{len(lines)} lines on stderr, {_last(ended.err)}")
        elif len(errors) != 1:
            self.problems.append(f"{len(errors)} lines of error: {_last(ended.err)}")
        elif len(errors[0]) >= CHARACTERS:
            self.problems.append(f"an error of {len(errors[0])} characters: {errors[0][:200]}")
        return errors[0] if errors else ""

    def _equal(self, when: str) -> None:
        if found := differences(self.workdir, self.scene):
            self.problems.append(f"{when} {_told(found)}")


def _print_nodes(workdir: Path) -> None:
    """A line for each array of each node; in a child, since it takes JAX."""
    import jax
    import numpy as np

    from wsdjax.branches import BranchStore
    from wsdjax.errors import UserError

    sys.unraisablehook = lambda _: None  # as `experiments.cli` has it
    try:
        store = BranchStore(workdir)
        for name in store.names():
            for step in store.nodes(name):
                states = [store.params(name, step)]
                if step in store.steps(name):
                    states.append(store.restore(name, step))
                for path, leaf in jax.tree_util.tree_leaves_with_path(states):
                    digest = hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest()
                    print(name, step, jax.tree_util.keystr(path), digest)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _listing(workdir: Path) -> dict[str, int | str]:
    return {
        str(p.relative_to(workdir)): ""
        if p.is_dir()
        else hashlib.sha256(p.read_bytes()).hexdigest()
        for p in workdir.rglob("*")
    }


def _is_told_gone(each: Difference, said: str) -> bool:
    """Whether a warning tells that the node is gone which this is of."""
    node = re.match(r"branches/([^/]+)/(checkpoints|snapshots)/(\d+)/", each.path)
    if not node or each.what != "missing":
        return False
    name, kind, step = node.groups()
    if kind == "checkpoints":
        return f"{name}@{step} is gone" in said
    return bool(re.search(rf"{name} has no snapshots any more, of .*\b{step}\b", said))


def _within(path: str, hurt: Sequence[str]) -> bool:
    """Whether it is what was damaged, or lies in it."""
    return any(path == name or path.startswith(f"{name}/") for name in hurt)


def _masked(line: str) -> str:
    return re.sub(r"[\d.,]+(e[-+]\d+)?", "0", line)


def _told(found: Sequence[Difference], most: int = 3) -> str:
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(map(str, found[:most])) + more


def _ending(when: str, ended: Ended) -> str:
    how = f"exit {ended.code}" if ended.code >= 0 else signal.Signals(-ended.code).name
    lines = len(ended.err.splitlines())
    return f"{when} {how} with {lines} lines on stderr, {_last(ended.err)}".strip()


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"the last {lines[-1][:250]!r}" if lines else "which is empty"


_TRIED = {"kill": _Trial.kill, "write": _Trial.write, "damage": _Trial.damage}
