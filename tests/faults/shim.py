"""The shim's other half: compiles it, and tells a process what to count and when to fail."""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_name("shim.c")
KINDS = ("open", "write", "rename", "link", "unlink", "mkdir", "sync", "truncate")
ACTIONS = ("nothing", "kill", "kill1", "fail")
WHEN = ("before", "after", "half")

_HEADER = struct.Struct("<512s256s3q6i2q")
_LOG = 2**23


class Aim(NamedTuple):
    """Which operations under the root count, and what happens at those of `first` to `last`."""

    match: str = ""
    """Part of their path below the root."""
    kinds: tuple[str, ...] = KINDS
    first: int = 0
    last: int = 0
    action: str = "nothing"
    """"kill": SIGKILL to the process group; "kill1": to the process alone; "fail": `error`."""
    when: str = "before"
    error: int = 0


class Operation(NamedTuple):
    kind: str
    path: str
    """Below the root."""


def compile_shim(directory: Path) -> Path:
    """The shared library; SystemExit if there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise SystemExit("tests.faults needs a C compiler (cc, gcc or clang), and there is none")
    library = directory / "shim.so"
    flags = ("-O1", "-shared", "-fPIC")
    subprocess.run([compiler, *flags, "-o", library, SOURCE, "-ldl"], check=True)
    return library


class Control:
    """The file that the shim maps (`struct control`)."""

    def __init__(self, path: Path, root: Path, aim: Aim, log: bool = False):
        self.path = path
        size = _LOG if log else 0
        kinds = sum(1 << KINDS.index(kind) for kind in aim.kinds)
        action, when = ACTIONS.index(aim.action), WHEN.index(aim.when)
        settings = (0, aim.first, aim.last, kinds, action, when, aim.error, int(log), 0, size, 0)
        header = _HEADER.pack(str(root).encode(), aim.match.encode(), *settings)
        with path.open("wb") as file:
            file.write(header)
            file.truncate(len(header) + size)

    def _read(self) -> tuple[tuple, bytes]:
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as all_:
            fields = _HEADER.unpack_from(all_)
            return fields, all_[_HEADER.size : _HEADER.size + fields[-1]]

    @property
    def acted(self) -> bool:
        """Whether the operation came about."""
        return bool(self._read()[0][10])

    def operations(self) -> list[Operation]:
        """What was logged, in order."""
        fields, log = self._read()
        if fields[-1] > fields[-2]:
            raise OverflowError(f"{self.path}: the log of operations is too small")
        return [Operation(*line.split(" ", 1)) for line in log.decode().splitlines()]
