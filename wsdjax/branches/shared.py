"""A workdir in which several processes train: the first one's own, of which the others get the
records, with checkpoints in one place that all must see."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import jax
from etils import epath

from wsdjax.branches.store import BranchStore
from wsdjax.errors import ConfigError
from wsdjax.placement import processes

T = TypeVar("T")


def open_store(
    workdir: str | Path, checkpoint_dir: str | None = None, keep: int = 2
) -> BranchStore:
    """The store of a workdir for all processes that are there; the arguments are those of
    `BranchStore`. All must call what reads or writes nodes, at the same point."""
    if not processes.several():
        return BranchStore(workdir, checkpoint_dir, keep)
    own = Path(workdir).expanduser().absolute()
    home = Path(processes.agreed(lambda: str(own), "the workdir"))
    told = processes.agreed(lambda: _texts(home), "the workdir's records")
    return SharedStore(home, told, checkpoint_dir, keep)


class SharedStore(BranchStore):
    """What a process but the first writes beside checkpoints is its own, and gone with it.

    Checkpoints go to `checkpoint_dir`, or to the workdir itself on disks that all share.
    """

    may_be_home = False  # since not all might find them there

    def __init__(self, home: Path, texts: Mapping[str, str], checkpoint_dir: str | None, keep: int):
        self.leads = processes.is_first()
        # Deleted with this object.
        self._scratch = None if self.leads else tempfile.TemporaryDirectory(prefix="wsdjax-")
        super().__init__(self._scratch.name if self._scratch else home, checkpoint_dir, keep)
        self._home = home
        if not self.leads:
            for name, text in texts.items():
                (self.workdir / name).parent.mkdir(parents=True, exist_ok=True)
                (self.workdir / name).write_text(text)

    def agreed(self, tell: Callable[[], T], what: str) -> T:
        return processes.agreed(tell, what)

    def check_seen(self) -> None:
        place = epath.Path(self._checkpoint_dir or self._home).expanduser()
        mark = place / self.agreed(lambda: f".seen-{secrets.token_hex(4)}", "the name of a file")

        def put() -> None:
            place.mkdir(parents=True, exist_ok=True)
            mark.write_text("")

        self.agreed(put, f"whether {place} can be written")
        seen = mark.exists()
        processes.barrier(f"a look at {place}")
        if self.leads:
            mark.unlink()
        if not seen:
            raise ConfigError(
                f"{place} of process 0 is not there for process {jax.process_index()}: give all a "
                "--checkpoint_dir that they share, such as a bucket"
            )


def _texts(workdir: Path) -> dict[str, str]:
    """The files that tell what a workdir is, by their paths in it."""
    files = [*workdir.glob("config.json"), *workdir.glob("branches/*/branch.json")]
    return {path.relative_to(workdir).as_posix(): path.read_text() for path in files}
