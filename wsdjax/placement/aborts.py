"""JAX's coordination service aborts a process, with a stack of C++, when another one is lost: here
the abort is caught, and what C++ says on the way is kept from the screen."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

_FATAL = "JAX distributed service detected fatal errors"
_NOISE = ("[Gloo]", "preemption_notifier", "coordination_service", "preemption_sync_manager")
_KEPT: list[Any] = []
"""What C calls must not be collected."""


def catch(end: Callable[[str], None]) -> None:
    """Has ``end(said)`` called in place of such an abort, in a thread of its own, with what the
    service said; it should end the process. Other aborts go their way.

    What C++, or a child process, writes to standard output and error goes through here to
    standard error; Python's own does not.
    """
    sys.stdout.flush()
    sys.stdout, sys.stderr = (os.fdopen(os.dup(n), "w", buffering=1) for n in (1, 2))
    read, write = os.pipe()
    for stream in (1, 2):
        os.dup2(write, stream)
    fatal: list[str] = []

    def relay() -> None:
        told, last = True, 0.0
        with os.fdopen(read, errors="replace") as lines:
            for line in lines:
                # What goes on with the line before comes at once.
                told, last = told or time.monotonic() - last > 0.5, time.monotonic()
                if fatal or _FATAL in line:
                    fatal.append(line)
                    continue
                if re.match(r"[IWE]\d{4} |\[Gloo\]", line):  # others go on with one before
                    told = not any(noise in line for noise in _NOISE)
                if told:
                    sys.stderr.write(line)

    def on_abort(_: int) -> None:
        time.sleep(0.2)  # in which the relay reads to the end
        if fatal:
            end("".join(fatal))

    threading.Thread(target=relay, daemon=True).start()
    _KEPT.append(ctypes.CFUNCTYPE(None, ctypes.c_int)(on_abort))
    # Not `signal.signal`: its handlers run in the main thread, which may wait for ever.
    ctypes.CDLL(None).signal(signal.SIGABRT, _KEPT[0])
