"""Commands in forked children of one process that has imported all they need.

To start Python and import JAX takes longer than a tiny command; a fork takes none of it. It is safe
as long as the parent has one thread, and so no backend of JAX: `be_ready` sees to that.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import runpy
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import jax

from tests.faults.shim import Control

_MODULES = (
    "experiments.launch",
    "experiments.report.probes.measures",
    "experiments.report.drawing",
    "experiments.prepare.text",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "orbax.checkpoint",
    "tokenizers",
    "wsdjax.models",
    "wsdjax.training.compiled",
)


class Ended(NamedTuple):
    code: int
    """Negative for a signal; None stands for a time that ran out."""
    out: str
    err: str
    seconds: float


def be_ready() -> None:
    """Imports what every command needs."""
    for module in _MODULES:
        importlib.import_module(module)
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise SystemExit(f"{threads} threads are running: a fork would not be safe")


def call(
    function: Callable[[], None],
    directory: Path,
    control: Control | None = None,
    timeout: float = 240,
) -> Ended:
    """Calls a function in a child, whose output goes to files in `directory`."""
    began = time.monotonic()
    paths = directory / "out", directory / "err"
    pid = os.fork()
    if pid == 0:
        _become(function, paths, control)
    status = _wait(pid, began + timeout)
    out, err = (path.read_text(errors="replace") for path in paths)
    seconds = time.monotonic() - began
    if status is None:
        return Ended(-signal.SIGALRM, out, f"{err}\nstopped after {timeout:g} s", seconds)
    return Ended(os.waitstatus_to_exitcode(status), out, err, seconds)


def run(
    arguments: Sequence[str],
    directory: Path,
    control: Control | None = None,
    compiling: bool = False,
) -> Ended:
    """An entry point as its command line runs it: ``["experiments.run", "--config=...", ...]``.

    Only if it is `compiling` does it write to JAX's cache of compiled programs: a process that is
    killed would leave half an entry there.
    """

    def main() -> None:
        if compiling:
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        sys.argv = list(arguments)
        os.chdir(directory)
        warnings.filterwarnings("ignore", "'experiments.*' found in sys.modules")
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)

    return call(main, directory, control)


def _become(function: Callable, paths: tuple[Path, Path], control: Control | None) -> NoReturn:
    code = 1
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, path in enumerate(paths, 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
        if control:
            os.environ["FAULTS_CONTROL"] = str(control.path)
            ctypes.CDLL(None).faults_arm(str(control.path).encode())
        function()
        code = 0
    except SystemExit as asked:
        code = asked.code if isinstance(asked.code, int) else int(asked.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(pid: int, until: float) -> int | None:
    """How the child ended; None if it had to be ended. None of its own children outlives it."""
    status = None
    while status is None and time.monotonic() < until:
        found, ended = os.waitpid(pid, os.WNOHANG)
        if found:
            status = ended
        else:
            time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    if status is None:
        os.waitpid(pid, 0)
    return status
