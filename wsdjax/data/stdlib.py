"""The Python standard library's own source as a text: some 12 MB, no download.

Every .py, .txt and .rst file of the library as installed is a document (docstrings and `pydoc`'s
topics are its documentation), apart from tests and what this machine's build wrote. Files whose
path has a hash divisible by 20 are held out; lines that many files share, in the tables of
encodings most of all, are on both sides. Another version of Python has another text.

The token shards are made once, in a directory of ~/.cache/wsdjax (or $XDG_CACHE_HOME/wsdjax) that
is named by their content.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from wsdjax.data import tokenizer as tokenizers
from wsdjax.data import tokens

_SUFFIXES = (".py", ".txt", ".rst")
_LEFT_OUT = ("test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__")
_OF_THIS_BUILD = ("config-", "_sysconfigdata", "sitecustomize")
_ONE_IN = 20


class Document(NamedTuple):
    path: str
    """Relative to the library's directory, with slashes."""
    text: str

    @property
    def held_out(self) -> bool:
        return int(hashlib.sha256(self.path.encode()).hexdigest(), 16) % _ONE_IN == 0


@functools.cache
def describe(tokenizer: str) -> tokens.Description:
    """The library's token shards, which are made if they are not there yet, by "bytes" or by
    "bpe:1024", a BPE of so many tokens that is trained on the documents not held out."""
    documents = read(Path(sysconfig.get_paths()["stdlib"]))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wsdjax"
    directory = cache / f"stdlib-{tokenizer.replace(':', '-')}-{_key(tokenizer, documents)}"
    if not (directory / tokens.JSON).exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f"{directory.name}.", dir=cache, ignore_cleanup_errors=True
        ) as made:
            prepare(Path(made), tokenizer, documents)
            try:
                if not (directory / tokens.JSON).exists():
                    shutil.rmtree(directory, ignore_errors=True)  # its tokens.json was deleted
                    # All at once: a process that is killed leaves nothing half made of this name.
                    os.rename(made, directory)
            except OSError:  # another process has made it meanwhile
                if not (directory / tokens.JSON).exists():
                    raise
    return tokens.describe(directory)


def read(library: Path) -> list[Document]:
    """The documents of a standard library, in the order of their paths."""
    found = []
    for directory, below, names in os.walk(library):
        below[:] = [name for name in below if name not in _LEFT_OUT]
        found += [Path(directory, name) for name in names if name.endswith(_SUFFIXES)]
    relative = sorted(path.relative_to(library).as_posix() for path in found)
    return [
        Document(path, _text(library / path))
        for path in relative
        if not path.startswith(_OF_THIS_BUILD)
    ]


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise tokens.TokensError(
            f"{path} is not UTF-8 ({error.reason}), as all of Python's library is: mend it, or "
            "install Python again"
        ) from None


def prepare(directory: Path, tokenizer: str, documents: Sequence[Document]) -> None:
    """Writes the documents as token shards, one for each split."""
    kind, _, size = tokenizer.partition(":")
    chosen: tokenizers.Tokenizer = tokenizers.Bytes()
    if kind == "bpe":
        training = (each.text for each in documents if not each.held_out)
        chosen = tokenizers.train_bpe(tokenizer, training, int(size))
    splits = {}
    for split, held_out in (("train", False), ("test", True)):
        path = directory / tokens.shard_name(split, 0)
        texts = [each.text for each in documents if each.held_out == held_out]
        with tokens.ShardWriter(path, chosen.fingerprint, chosen.vocabulary) as writer:
            for text, encoded in zip(texts, chosen.encode(texts), strict=True):
                writer.write_document(encoded, chosen.separator, len(text.encode()))
        splits[split] = [tokens.read_shard(path, chosen.fingerprint, chosen.vocabulary)]
    tokens.write_description(
        tokens.Description(
            directory,
            *(chosen.name, chosen.fingerprint, chosen.vocabulary, chosen.separator),
            splits,
        )
    )


def _key(tokenizer: str, documents: Sequence[Document]) -> str:
    """A hash of all that decides the shards."""
    key = hashlib.sha256(f"{tokens.FORMAT} {tokenizer}".encode())
    if tokenizer != "bytes":
        key.update(tokenizers.library().__version__.encode())
    for each in documents:
        content = each.text.encode()
        key.update(f"{each.path} {len(content)} ".encode() + content)
    return key.hexdigest()[:16]
