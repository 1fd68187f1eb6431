"""One writing process at a time in a directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from wsdjax.errors import ConfigError, UserError


class WorkdirBusy(UserError):
    """Another process writes in this directory."""


_BUSY = "another process is training in {}: wait for it, stop it, or choose another workdir"


@contextlib.contextmanager
def held(workdir: Path, busy: str = _BUSY) -> Iterator[None]:
    """Holds the directory, which is made; the system frees it when the process dies.

    Raises:
      WorkdirBusy: if another process holds it, saying `busy` of it.
      ConfigError: if it cannot be written.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        # Through no link to elsewhere, and nothing that lies there is emptied.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        lock = os.fdopen(os.open(workdir / ".lock", flags, 0o666), "r+")
    except OSError as error:
        raise ConfigError(
            f"{error.filename or workdir} cannot be written ({error.strerror}): mend it, or choose "
            "another directory"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WorkdirBusy(busy.format(workdir)) from None
        yield
