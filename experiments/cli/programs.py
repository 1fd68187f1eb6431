"""Compiled programs, kept from one start of a command to the next: JAX's own cache, of which what a
kill or a full disk left half written is sorted out."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import re
import sys
import zlib
from pathlib import Path
from typing import Any

import jax

from wsdjax.files import write_json
from wsdjax.placement import processes

_MOST = 2**30
"""Bytes; beyond them the oldest go."""
_INDEX = "checksums.json"


def keep(given: argparse.Namespace) -> None:
    """Turns the cache on and says where it lies, unless --nocache is given. One that the user has
    set up (JAX_COMPILATION_CACHE_DIR) is left as it is."""
    config: Any = jax.config
    if config.jax_compilation_cache_dir or not config.jax_enable_compilation_cache:
        return
    if not given.cache:
        return
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = home / "wsdjax" / "programs" / _of_this_machine()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        count = sort_out(directory)
    except OSError as error:
        print(f"compiled programs are not kept: {error}", file=sys.stderr)
        return
    config.update("jax_compilation_cache_dir", str(directory))
    config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if processes.is_first():
        said = f"{count} compiled programs of former starts are in {directory}"
        print(f"{said} (--nocache does without)", file=sys.stderr)


def sort_out(directory: Path, most: int = _MOST) -> int:
    """Deletes entries that are not what was written, and the oldest beyond so many bytes; returns
    how many are left.

    JAX would tell of an entry that ends in the middle, at every start, and never mend it; of a
    byte that has changed in one that it unpacks itself it may not even tell.
    """
    index = directory / _INDEX
    known: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError):
        known = dict(json.loads(index.read_text()))
    found: dict[str, int] = {}
    total = 0
    for path in sorted(directory.glob("*-cache"), key=_age):
        try:
            content = path.read_bytes()
            total += len(content)
            checksum = zlib.crc32(content)
            before = known.get(path.name)
            if total > most or not (before == checksum or (before is None and _whole(content))):
                path.unlink()
                continue
        except OSError:  # another process has deleted it
            continue
        found[path.name] = checksum
    if found != known:
        write_json(index, found)
    return len(found)


def _age(path: Path) -> float:
    with contextlib.suppress(OSError):
        return -path.stat().st_mtime
    return 0.0


def _whole(content: bytes) -> bool:
    """Whether an entry, which is compressed, ends where it should."""
    if content[:4] != b"\x28\xb5\x2f\xfd":
        unpacking = zlib.decompressobj()
        with contextlib.suppress(zlib.error):
            unpacking.decompress(content)
        return unpacking.eof
    try:
        import zstandard
    except ImportError:  # nor will JAX read it
        return False
    try:
        return bool(zstandard.ZstdDecompressor().decompress(content))
    except zstandard.ZstdError:
        return False


def _of_this_machine() -> str:
    """A name for processors that run each other's programs: homes are shared by machines that do
    not."""
    told = platform.machine()
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        told += "".join(re.findall(r"^(?:model name|flags|Features)\s*:.*$", text, re.M)[:2])
    return hashlib.sha256(told.encode()).hexdigest()[:12]
