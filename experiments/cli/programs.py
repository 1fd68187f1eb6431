"""Compiled programs, kept from one start of a command to the next: JAX's own cache, each entry with
a checksum beside it.

JAX would run an entry of which a byte has changed, and would tell at every start of one that a kill
or a full disk has cut, without ever mending it. So an entry counts once it has its checksum, which
it gets some seconds after it was written or when the command ends.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import platform
import re
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from wsdjax.placement import processes

_MOST = 2**30
"""Bytes; beyond them the oldest go."""
_SETTLED = 2.0
"""Seconds since an entry was last written to, after which it is whole."""
_OFTEN = 5.0
"""Seconds between looks for new entries."""


@contextlib.contextmanager
def kept(given: argparse.Namespace) -> Iterator[None]:
    """Has the cache on, and says where it lies, unless --nocache is given. One that the user has
    set up (JAX_COMPILATION_CACHE_DIR) is left to JAX."""
    config: Any = jax.config
    enabled = config.jax_enable_compilation_cache
    asked = getattr(given, "cache", None)  # a command may be called without its flags
    if asked is False:
        config.update("jax_enable_compilation_cache", False)
        try:
            yield
        finally:
            config.update("jax_enable_compilation_cache", enabled)
        return
    if asked is None or config.jax_compilation_cache_dir or not enabled:
        yield
        return
    try:
        directory = _home() / "wsdjax" / "programs" / _of_this_machine()
        directory.mkdir(parents=True, exist_ok=True)
        count = sort_out(directory)
    except (OSError, RuntimeError) as error:  # no home, no room, no right to write there
        print(f"compiled programs are not kept: {error}", file=sys.stderr)
        yield
        return
    if processes.is_first():
        said = f"{count} compiled programs of former starts are in {directory}"
        print(f"{said} (--nocache does without)", file=sys.stderr)
    before = config.jax_persistent_cache_min_compile_time_secs
    config.update("jax_compilation_cache_dir", str(directory))
    config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    over = threading.Event()
    threading.Thread(target=_seal_often, args=(directory, over), daemon=True).start()
    try:
        yield
    finally:
        over.set()
        seal(directory, 0.0)
        config.update("jax_compilation_cache_dir", None)
        config.update("jax_persistent_cache_min_compile_time_secs", before)


def sort_out(directory: Path, most: int = _MOST) -> int:
    """Deletes entries that are not what their checksum was taken of, those that have none, and the
    oldest beyond so many bytes; returns how many are left."""
    total = count = 0
    for path in sorted(directory.glob("*-cache"), key=_age):
        with contextlib.suppress(FileNotFoundError):  # another process was here
            content = path.read_bytes()
            total += len(content)
            if total <= most and _recorded(path) == _checksum(content):
                count += 1
            else:
                path.unlink()
                _beside(path).unlink(missing_ok=True)
    return count


def seal(directory: Path, settled: float = _SETTLED) -> None:
    """Writes the checksum of each entry that has none and was not written to for some seconds.
    Where that cannot be, the entry does not count, and nothing else is lost."""
    with contextlib.suppress(OSError):
        for path in directory.glob("*-cache"):
            with contextlib.suppress(OSError):
                if not _beside(path).exists() and path.stat().st_mtime + settled <= time.time():
                    _beside(path).write_text(_checksum(path.read_bytes()))


def _seal_often(directory: Path, over: threading.Event) -> None:
    while not over.wait(_OFTEN):
        seal(directory)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.crc32")


def _recorded(path: Path) -> str | None:
    try:
        return _beside(path).read_text()
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def _checksum(content: bytes) -> str:
    return f"{zlib.crc32(content):08x} of {len(content)}"


def _age(path: Path) -> float:
    with contextlib.suppress(OSError):
        return -path.stat().st_mtime
    return 0.0


def _home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _of_this_machine() -> str:
    """A name for processors that run each other's programs: homes are shared by machines that do
    not."""
    told = platform.machine()
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        told += "".join(re.findall(r"^(?:model name|flags|Features)\s*:.*$", text, re.M)[:2])
    return hashlib.sha256(told.encode()).hexdigest()[:12]
