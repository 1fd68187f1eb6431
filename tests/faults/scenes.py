"""What each command starts from, and what it ends with if nothing disturbs it.

A workdir is a directory named `w` in a directory of its own, since reports quote its name.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.faults import processes
from tests.faults.shim import Aim, Control, Operation

CONFIG = str(Path(__file__).parents[1] / "configs/faults.py")
COMMANDS = ("run", "fork", "probe", "report", "prepare", "text")


@dataclasses.dataclass
class Scene:
    name: str
    command: Callable[[Path], list[str]]
    """The arguments, given the workdir."""
    starts: dict[str, Path | None]
    """Workdirs to start from: "base", what it is given on; "end", what it has made. None for one
    that is not there."""
    cuts: dict[str, str]
    """Unfinished ones: each was killed after the renaming to what has this in its path."""
    end: Path
    """What it ends with undisturbed."""
    with_spares: Path
    """Where checkpoints that it does not keep still are as they were."""
    operations: list[Operation]
    said: tuple[str, ...]
    """The lines that it writes to standard error."""


def copy(start: Path | None, workdir: Path) -> None:
    shutil.rmtree(workdir, ignore_errors=True)
    if start is not None:
        shutil.copytree(start, workdir, symlinks=True)


class Stage:
    """Scenes, each played once when it is first asked for; in the process that forks."""

    def __init__(self, directory: Path):
        self.directory = directory
        self._scenes: dict[str, Scene] = {}

    def scene(self, name: str) -> Scene:
        if name not in self._scenes:
            self._scenes[name] = getattr(self, f"_{name}")()
        return self._scenes[name]

    def start(self, name: str, start: str) -> Path | None:
        """A workdir from which a scene may start: "base", "end", or one of its cuts."""
        scene = self.scene(name)
        if start not in scene.starts:
            aim = Aim(scene.cuts[start], ("rename",), first=1, last=1, action="kill", when="after")
            workdir = self._place(f"{name}-{start}", scene.starts["base"])
            control = Control(workdir.parent / "control", workdir, aim)
            ended = processes.run(scene.command(workdir), workdir.parent, control)
            if not control.acted:
                raise SystemExit(f"{name}: nothing was renamed to {aim.match}: {ended.err}")
            scene.starts[start] = workdir
        return scene.starts[start]

    def _run(self) -> Scene:
        def command(workdir: Path) -> list[str]:
            return ["experiments.run", f"--config={CONFIG}", f"--workdir={workdir}"]

        cuts = {
            "in_trunk": "/branches/trunk/checkpoints/4$",
            "in_siblings": "/branches/sqrt/checkpoints/4$",
        }
        self._scenes["run"] = scene = self._scene("run", None, command, cuts)
        scene.with_spares = self.start("run", "in_trunk") or scene.end
        if not (scene.with_spares / "branches/trunk/checkpoints/2").is_dir():
            raise SystemExit("run: trunk@2 was to be there as long as trunk@4 was not")
        return scene

    def _fork(self) -> Scene:
        def command(workdir: Path) -> list[str]:
            more = ("--name=square", "--steps=3", "--schedule=Cooldown('square')", "--b2=0.95")
            return ["experiments.branch", "fork", "trunk", f"--workdir={workdir}", *more]

        cuts = {"in_branch": "/branches/square/checkpoints/8$"}
        return self._scene("fork", self.scene("run").end, command, cuts)

    def _probe(self) -> Scene:
        def command(workdir: Path) -> list[str]:
            what = ("--node=trunk@3:6", "--probe=sharpness,interpolate")
            more = ("--points=4", "--examples=8")
            return ["experiments.probe", f"--workdir={workdir}", *what, *more]

        cuts = {"begun": "/probes/sharpness-3-"}
        return self._scene("probe", self.scene("run").end, command, cuts)

    def _report(self) -> Scene:
        def command(workdir: Path) -> list[str]:
            return ["experiments.report", f"--workdir={workdir}"]

        return self._scene("report", self.scene("probe").end, command, {})

    def _prepare(self) -> Scene:
        corpus = self.directory / "corpus"
        ended = processes.call(lambda: _write_corpus(corpus), self.directory)
        if ended.code:
            raise SystemExit(ended.err)

        def command(workdir: Path) -> list[str]:
            what = ("--input", str(corpus), "--tokenizer", str(corpus.with_name("tokenizer.json")))
            how = ("--shard_bytes", "100", "--held_out", "0.3", "--workers", "2")
            return ["experiments.prepare", "text", *what, "--out", str(workdir / "data"), *how]

        cuts = {"begun": "/data/train-00001.tokens$"}
        return self._scene("prepare", None, command, cuts)

    def _text(self) -> Scene:
        def command(workdir: Path) -> list[str]:
            # Named from the directory that the command is given in: a run quotes it.
            config = f"--config={CONFIG}:{workdir.name}/data"
            return ["experiments.run", config, f"--workdir={workdir / 'run'}"]

        return self._scene("text", self.scene("prepare").end, command, {})

    def _scene(
        self,
        name: str,
        base: Path | None,
        command: Callable[[Path], list[str]],
        cuts: dict[str, str],
    ) -> Scene:
        end, operations, said = self._play(name, base, command)
        return Scene(name, command, {"base": base, "end": end}, cuts, end, end, operations, said)

    def _play(
        self, name: str, base: Path | None, command: Callable[[Path], list[str]]
    ) -> tuple[Path, list[Operation], tuple[str, ...]]:
        workdir = self._place(name, base)
        control = Control(workdir.parent / "control", workdir, Aim(), log=True)
        # What is compiled here is read, and never written, by all others.
        ended = processes.run(command(workdir), workdir.parent, control, compiling=True)
        if ended.code:
            raise SystemExit(f"{name} failed without a fault: {ended.out}{ended.err}")
        operations = control.operations()
        _check_seen(workdir, base, operations)
        return workdir, operations, tuple(ended.err.splitlines())

    def _place(self, name: str, base: Path | None) -> Path:
        workdir = self.directory / name / "w"
        copy(base, workdir)
        workdir.parent.mkdir(exist_ok=True)
        return workdir


def _check_seen(workdir: Path, base: Path | None, operations: list[Operation]) -> None:
    """That nothing was written past the shim, by system calls that it does not stand before."""
    placed = {o.path for o in operations if o.kind in ("open", "rename", "link")}
    files = [path.relative_to(workdir) for path in workdir.rglob("*") if path.is_file()]
    new = [path for path in files if not (base and (base / path).exists())]
    for path in new:
        if not any(f"/{p}" in placed for p in (path, *path.parents)):
            raise SystemExit(f"{path} was written by operations that are not counted")
    written = sum(o.kind == "write" for o in operations)
    if written < sum((workdir / path).stat().st_size > 0 for path in new):
        raise SystemExit(f"{len(new)} files were written, and {written} writes were counted")


def _write_corpus(directory: Path) -> None:
    """Four files of documents, which become four shards of each split; beside them a tokenizer."""
    from wsdjax.data import tokenizer

    directory.mkdir()
    for i in range(4):
        texts = [f"document {n} of {i}: " + "some words, " * (n % 5 + 1) for n in range(40)]
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (directory / f"{i}.jsonl").write_text(lines)
    tokenizer.train_bpe("own", ["some words, a document"], 270).save(
        str(directory.parent / "tokenizer.json")
    )
