"""Which files a corpus is of: paths, folders, patterns and data sets of the Hugging Face hub.

Links are followed, but none into a folder that they stand in; a file with several names is taken
once; names that begin with a dot are left out. What is left out is counted, for it to be told.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from experiments.prepare import PrepareError, hub
from experiments.prepare.documents import SUFFIXES, suffix_of

_OURS = {"plan.json", "tokens.json", "tokenizer.json", "jobs.jsonl"}
"""In a directory of token shards."""


class Source(NamedTuple):
    """One file of a corpus, or one part of a data set of the hub."""

    name: str
    size: int
    """In bytes, as it lies on disk."""
    changed: int
    """When it was last written, in nanoseconds; 0 for a data set."""

    @classmethod
    def of(cls, path: str) -> Source:
        status = os.stat(path)
        return cls(path, status.st_size, status.st_mtime_ns)


class Found(NamedTuple):
    sources: list[Source]
    """In the order of their names."""
    left_out: Counter[str]
    """How many names were not taken, by what they are."""

    def __str__(self) -> str:
        kinds = Counter(suffix_of(each.name) or "of the hub" for each in self.sources)
        taken = f"{len(self.sources):,} {'file' if len(self.sources) == 1 else 'files'} taken"
        left = f" ({_listed(self.left_out)})" if self.left_out else ""
        return f"{taken} ({_listed(kinds)}); {self.left_out.total():,} left out{left}"


def _listed(kinds: Counter[str]) -> str:
    common = [f"{count:,} {kind}" for kind, count in kinds.most_common(8)]
    others = kinds.total() - sum(count for _, count in kinds.most_common(8))
    return ", ".join([*common, f"{others:,} others"] if others else common)


def find(inputs: Sequence[str]) -> Found:
    """The files that paths, patterns (`**` goes into folders), folders and
    ``hf:NAME[[:CONFIG]:SPLIT]`` name, each once."""
    found: dict[str, Source] = {}
    left_out: Counter[str] = Counter()
    files: dict[object, str] = {}
    for given in inputs:
        if given.startswith("hf:"):
            found |= {name: Source(name, size, 0) for name, size in hub.parts(given)}
            continue
        names = list(_named(given, left_out))
        if not names:
            kinds = f", none of {', '.join(SUFFIXES)} in it" if os.path.isdir(given) else ""
            raise PrepareError(f"--input {given}: no such file{kinds}")
        for name in names:
            path = str(Path(name).absolute())
            file = _file(path)
            known = files.setdefault(file, path)
            if known != path:
                left_out["a second name of a file that is taken"] += 1
                files[file] = min(known, path, key=lambda p: (p != os.path.realpath(p), len(p), p))
    found |= {path: Source.of(path) for path in files.values()}
    return Found([found[name] for name in sorted(found)], left_out)


def _file(path: str) -> object:
    """The same for all names of a file."""
    status = os.stat(path)
    if status.st_nlink > 1:  # hard links have no path that is more real than another
        return status.st_dev, status.st_ino
    return os.path.realpath(path)


def _named(given: str, left_out: Counter[str]) -> Iterator[str]:
    if os.path.isdir(given):
        for name in _walk(given, left_out):
            if suffix_of(name):
                yield name
            else:
                left_out["".join(Path(name).suffixes[-2:]).lower()[:20] or "without a suffix"] += 1
        return
    for name in [given] if os.path.exists(given) else _matches(given, left_out):
        if not suffix_of(name):
            raise PrepareError(f"{name} is none of {', '.join(SUFFIXES)}")
        if not os.path.isfile(name):
            raise PrepareError(f"{name} is no file: give files, folders or patterns")
        yield name


def _matches(pattern: str, left_out: Counter[str]) -> Iterator[str]:
    """The files of a pattern. `glob` would follow a link into its own folder, 40 deep."""
    above, into, below = pattern.partition("**")
    if not into or (above and not above.endswith("/")) or (below and not below.startswith("/")):
        for name in glob.glob(pattern):
            if os.path.isdir(name):
                left_out["a folder that a pattern without ** does not enter"] += 1
            else:
                yield name
        return
    parts = ("**" + below).split("/")
    for folder in sorted(glob.glob(above)) if above else ["."]:
        if os.path.isdir(folder):
            for name in _walk(folder, left_out):
                if _fits(os.path.relpath(name, folder).split("/"), parts):
                    yield name


def _fits(names: Sequence[str], parts: Sequence[str]) -> bool:
    if not parts:
        return not names
    if parts[0] == "**":
        return any(_fits(names[i:], parts[1:]) for i in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], parts[0]) and _fits(names[1:], parts[1:])


def _walk(folder: str, left_out: Counter[str]) -> Iterator[str]:
    """The files below a folder, each folder once."""
    seen = set()
    folders = [folder]
    linked: list[str] = []  # after all others: a file is rather taken by a name without links
    while folders or linked:
        here = folders.pop() if folders else linked.pop(0)
        status = os.stat(here)
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(here) as listed:
            entries = sorted(listed, key=lambda entry: entry.name)
        names = {entry.name for entry in entries}
        prepared = {".lock", "plan.json"} <= names or any(n.endswith(".tokens") for n in names)
        for entry in entries:
            if prepared and (entry.name in _OURS or entry.name.endswith(".tokens")):
                left_out["of prepared text"] += 1
            elif entry.name.startswith("."):
                left_out["hidden"] += 1
            elif entry.is_dir():
                if not entry.is_symlink():
                    folders.append(entry.path)
                elif _is_around(os.path.realpath(entry.path), os.path.realpath(here)):
                    left_out["a link to a folder around it"] += 1
                else:
                    linked.append(entry.path)
            elif entry.is_file():
                yield entry.path
            elif entry.is_symlink() and suffix_of(entry.name):
                raise PrepareError(f"{entry.path} is a link to nothing: mend it, or delete it")
            else:
                left_out["no file"] += 1


def _is_around(outer: str, inner: str) -> bool:
    return os.path.commonpath([outer, inner]) == outer
