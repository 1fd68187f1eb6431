"""From a command to its first update or product, on an empty cache of compilations and again.

The command runs on a terminal of its own, whose progress bar tells when the first is done.
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from experiments.bench.measure import LEAST
from experiments.bench.ours import ROOT
from experiments.bench.rows import SECONDS, Line, Row, at_most

_MOST = 240.0
"""Seconds after which a command that has not begun is given up."""


def seconds_until(sign: str, arguments: list[str], environment: Mapping[str, str]) -> float:
    """Seconds from the start of ``python -m ARGUMENTS`` until its terminal shows the sign, a
    regular expression; then it is ended."""
    mine, its = pty.openpty()
    termios.tcsetwinsize(its, (24, 200))
    begun, shown = time.perf_counter(), ""
    command = [sys.executable, "-m", *arguments]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=its, stdout=its, stderr=its
    )
    alarm = signal.signal(signal.SIGALRM, lambda *_: process.kill())
    signal.setitimer(signal.ITIMER_REAL, _MOST)
    os.close(its)
    try:
        with suppress(OSError):  # how a terminal tells that its process has ended
            while not re.search(sign, shown):
                shown += os.read(mine, 4_096).decode(errors="replace")
        seconds = time.perf_counter() - begun
        if not re.search(sign, shown):
            raise RuntimeError(f"{' '.join(arguments)}: {shown.strip()[-200:]}")
        return seconds
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, alarm)
        process.kill()
        process.wait()
        os.close(mine)


def _started(sign: str, arguments: list[str], cold: float, second: float) -> Iterator[Line]:
    """Three pairs of starts, each with a cache of its own; --workdir is added to `arguments` where
    WORKDIR stands."""
    found: list[list[float]] = [[], []]
    for _ in range(LEAST):
        with tempfile.TemporaryDirectory() as cache:
            environment = _environment(Path(cache))
            for i, times in enumerate(found):
                given = [each.replace("WORKDIR", f"{cache}/run{i}") for each in arguments]
                times.append(seconds_until(sign, given, environment))
    yield Line("an empty cache", found[0], SECONDS, goal=at_most(cold, cold))
    yield Line("the second start", found[1], SECONDS, goal=at_most(second, second))


def _environment(cache: Path) -> dict[str, str]:
    """With all caches but matplotlib's, which is of fonts, in this directory."""
    caches = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    own = {
        "XDG_CACHE_HOME": str(cache),
        "JAX_COMPILATION_CACHE_DIR": str(cache / "jax"),
        "MPLCONFIGDIR": os.environ.get("MPLCONFIGDIR", str(caches / "matplotlib")),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "TERM": "xterm",
    }
    return {**os.environ, **own}


def _quickstart(_: argparse.Namespace) -> Iterator[Line]:
    config = "--config=experiments/configs/quickstart.py"
    arguments = ["experiments.run", config, "--workdir=WORKDIR"]
    return _started(r"loss \d", arguments, 15, 5)


def _probe(_: argparse.Namespace) -> Iterator[Line]:
    """Of a short run of the quickstart's."""
    short = [
        f"--config.{field}"
        for field in ("tree.trunk.steps=60", "tree.decay.steps=10", "tree.cosine.steps=60")
    ]
    with tempfile.TemporaryDirectory() as directory:
        run = [f"--config={ROOT}/experiments/configs/quickstart.py", f"--workdir={directory}"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "experiments.run", *run, *short]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
        node = ["--node=decay", "--probe=sharpness", "--examples=256"]
        arguments = ["experiments.probe", f"--workdir={directory}", *node]
        yield from _started(r"\d products", arguments, 15, 5)


ROWS = (
    Row(
        "startup.run",
        "from the command to the quickstart's first update",
        at_most(15, 15),
        *(100, 150),
        _quickstart,
    ),
    Row(
        "startup.probe",
        "from the command to the first product of a probe of it",
        at_most(15, 15),
        *(130, 200),
        _probe,
    ),
)
