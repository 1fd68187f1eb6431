"""Whether a workdir is what it is to be, to the bit; times, dates and places do not count."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.faults.scenes import Scene

_NODE = re.compile(r"(.*/(?:checkpoints|snapshots))/(\d+)(?=/|$)")


class Difference(NamedTuple):
    path: str
    """Below the workdir."""
    what: str
    """"missing", "left over" or "differs"."""

    def __str__(self) -> str:
        return f"{self.path} {self.what}"


def differences(workdir: Path, scene: Scene) -> list[Difference]:
    """What of a workdir is not as its scene ends.

    A checkpoint more than there need be is none, if it is what it was when it was made; so are
    what was set aside as damaged, and the lock.
    """
    found = []
    wanted, there = _files(scene.end), _files(workdir)
    for path in sorted(wanted | there):
        if path not in there:
            found.append(Difference(path, "missing"))
        elif path in wanted or _in_a_node(path, scene):
            end = scene.end if path in wanted else scene.with_spares
            if _content(workdir, path) != _content(end, path):
                found.append(Difference(path, "differs"))
        elif not re.search(r"\.damaged(/|$)", path) and not (scene.end / path).is_dir():
            found.append(Difference(path, "left over"))
    # A node that is not kept is whole or gone.
    for path in sorted(_files(scene.with_spares) - wanted - there):
        node = _NODE.match(path)
        if node and (workdir / node[0]).is_dir():
            found.append(Difference(path, "missing"))
    return found


def without_spares(found: list[Difference], workdir: Path, scene: Scene) -> list[Difference]:
    """The differences but for checkpoints that were taken away whole and which nothing needs any
    more: neither a branch's end nor a fork."""
    records = [json.loads(path.read_text()) for path in scene.end.glob("branches/*/branch.json")]
    branches = [record["branch"] for record in records]
    needed = {(b["parent"], b["start"]) for b in branches}
    needed |= {(b["name"], b["end"]) for b in branches}

    def spare(each: Difference) -> bool:
        node = re.match(r"branches/([^/]+)/checkpoints/(\d+)(?=/|$)", each.path)
        if each.what != "missing" or not node or (workdir / node[0]).exists():
            return False
        return (node[1], int(node[2])) not in needed

    return [each for each in found if not spare(each)]


def _files(workdir: Path) -> set[str]:
    """All that are no directories; directories that are empty."""
    paths = (p for p in workdir.rglob("*") if not p.is_dir() or not any(p.iterdir()))
    return {str(p.relative_to(workdir)) for p in paths if p.name != ".lock"}


def _in_a_node(path: str, scene: Scene) -> bool:
    node = _NODE.match(path)
    return bool(node) and (scene.with_spares / path).is_file()


def _content(workdir: Path, path: str) -> bytes | list | dict | None:
    """Without what may differ from one undisturbed run to the next; None for no regular file, or
    where the content cannot be read as it should be."""
    file = workdir / path
    if not file.is_file() or file.is_symlink():
        return None
    content = file.read_bytes().replace(str(workdir).encode(), b"WORKDIR")
    clean = next((clean for name, clean in _CLEANED.items() if file.match(name)), None)
    try:
        return clean(content) if clean else content
    except (ValueError, AttributeError, KeyError, TypeError):
        return None


def _without(*names: str) -> Callable[[bytes], Any]:
    def clean(content: bytes) -> Any:
        value = json.loads(content)
        return {name: value[name] for name in value if name not in names}

    return clean


def _metadata(content: bytes) -> Any:
    value = _without("init_timestamp_nsecs", "commit_timestamp_nsecs")(content)
    value["custom_metadata"].pop("rows", None)  # the checksum of rows, and so of timings
    return value


def _rows(content: bytes) -> Any:
    # Their checksums are of the timings too.
    return [_without("seconds", "sum")(line) for line in content.splitlines()]


def _jobs(content: bytes) -> Any:
    return sorted(map(json.loads, content.splitlines()), key=lambda row: row["job"])


def _dateless(content: bytes) -> bytes:
    return re.sub(rb"\d{4}-\d\d-\d\d", b"DATE", content)


def _placeless(content: bytes) -> bytes:
    return re.sub(rb"/[^ ]*/w/", b"WORKDIR/", content)


_CLEANED: dict[str, Callable[[bytes], Any]] = {
    "metrics.jsonl": _rows,
    "jobs.jsonl": _jobs,  # in the order in which the workers were done
    "results.json": _without("date"),
    "branch.json": _without("content_sha256"),  # a checksum of places too
    "config.json": _without("content_sha256"),
    "report.html": _dateless,
    "commit_success.txt": _placeless,  # where it was written, which copies do not change
    "_CHECKPOINT_METADATA": _metadata,
}
