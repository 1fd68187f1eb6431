"""From a command to its first update or product, on an empty cache of compilations and again.

The command runs on a terminal of its own, whose progress bar tells when the first is done.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from experiments.bench.measure import LEAST
from experiments.bench.ours import ROOT
from experiments.bench.rows import SECONDS, Line, row

_MOST = 240.0
"""Seconds after which a command that has not begun is given up."""
_QUICKSTART = "--config=experiments/configs/quickstart.py"


def seconds_until(sign: str, arguments: list[str], environment: Mapping[str, str]) -> float:
    """Seconds from the start of ``python -m ARGUMENTS`` until its terminal shows the sign, a
    regular expression; then it is interrupted and waited for."""
    mine, its = pty.openpty()
    termios.tcsetwinsize(its, (24, 200))
    begun, shown = time.perf_counter(), ""
    command = [sys.executable, "-m", *arguments]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=its, stdout=its, stderr=its
    )
    os.close(its)
    given_up = threading.Timer(_MOST, process.kill)
    given_up.start()
    try:
        while not re.search(sign, shown):
            shown += os.read(mine, 4_096).decode(errors="replace")
        seconds = time.perf_counter() - begun
        # Not killed, which would lose the programs that have no checksum yet.
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):
            while os.read(mine, 4_096):
                pass
        if not given_up.is_alive():
            raise RuntimeError(f"{' '.join(arguments)} does not end when it is interrupted")
        return seconds
    except OSError:  # how a terminal tells that its process has ended
        raise RuntimeError(f"{' '.join(arguments)}: {shown.strip()[-200:]}") from None
    finally:
        given_up.cancel()
        process.kill()
        process.wait()
        os.close(mine)


def _started(sign: str, arguments: list[str]) -> Iterator[Line]:
    """Three pairs of starts, each with a cache of its own, which stands for CACHE in
    `arguments`."""
    found: list[list[float]] = [[], []]
    for _ in range(LEAST):
        with tempfile.TemporaryDirectory() as cache:
            for i, times in enumerate(found):
                given = [each.replace("CACHE", f"{cache}/{i}") for each in arguments]
                times.append(seconds_until(sign, given, _environment(cache)))
    yield Line("an empty cache", found[0], SECONDS)
    yield Line("the second start", found[1], SECONDS, goal=(5, 5))


def _environment(cache: str) -> dict[str, str]:
    """With all caches but matplotlib's, which is of fonts, in this directory. That of programs is
    the commands' own: what a user has set up for JAX keeps the slow ones alone."""
    caches = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    own = {
        "XDG_CACHE_HOME": cache,
        "MPLCONFIGDIR": os.environ.get("MPLCONFIGDIR", str(caches / "matplotlib")),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "TERM": "xterm",
    }
    inherited = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    return {**inherited, **own}


@row("startup.run", (15, 15), (100, 150))
def quickstart(_: argparse.Namespace) -> Iterator[Line]:
    """From the command to the quickstart's first update."""
    return _started(r"loss \d", ["experiments.run", _QUICKSTART, "--workdir=CACHE"])


@row("startup.probe", (15, 15), (130, 200))
def probe(_: argparse.Namespace) -> Iterator[Line]:
    """From the command to the first product of a probe of a short run of the quickstart's."""
    steps = {"trunk": 60, "decay": 10, "cosine": 60}
    short = [f"--config.tree.{branch}.steps={count}" for branch, count in steps.items()]
    with tempfile.TemporaryDirectory() as directory:
        workdir = f"--workdir={directory}/run"
        command = [sys.executable, "-m", "experiments.run", _QUICKSTART, workdir, *short]
        environment = _environment(directory)
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
        node = ["--node=decay", "--probe=sharpness", "--examples=256"]
        yield from _started(r"\d products", ["experiments.probe", workdir, *node])
