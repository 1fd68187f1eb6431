"""The standard library as a text: split by file, prepared once."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from helpers import documents_of, texts

from wsdjax import data
from wsdjax.config import Stdlib
from wsdjax.data import stdlib, tokens


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A small one, with a cache of its own."""
    files = {f"m{i}.py": text for i, text in enumerate(texts(80, words=60))}
    left_out = ("test/t.py", "p/tests/t.py", "site-packages/s.py", "p/data.bin", "config-x/c.py")
    for name in (*files, *left_out):
        path = tmp_path / "lib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files.get(name, "left out"))
    monkeypatch.setattr(stdlib.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path / "lib")})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    stdlib.describe.cache_clear()
    yield tmp_path / "cache" / "wsdjax"
    stdlib.describe.cache_clear()


@pytest.mark.parametrize("name", ["bytes", "bpe:300"])
def test_the_library_is_split_by_file_and_prepared_once(name, library, monkeypatch):
    config = Stdlib(name, length=32, eval_size=3)
    dataset = data.load(config)
    described = config.describe()
    assert (described.classes, described.examples) == (
        257 if name == "bytes" else 300,
        dataset.train.size,
    )
    assert dataset.test.size == 3
    (directory,) = library.iterdir()
    if name == "bytes":
        paths = sorted(f"m{i}.py" for i in range(80))
        number = {path: int(hashlib.sha256(path.encode()).hexdigest(), 16) % 20 for path in paths}
        made = dict(zip([f"m{i}.py" for i in range(80)], texts(80, words=60), strict=True))
        for split, held_out in (("train", False), ("test", True)):
            expected = [list(made[p].encode()) for p in paths if (number[p] == 0) == held_out]
            assert expected
            assert documents_of(directory, split) == expected
    stdlib.describe.cache_clear()
    monkeypatch.setattr(stdlib, "prepare", None)  # it is not called again
    assert data.load(config).train.size == dataset.train.size


def test_another_text_is_another_directory(library, tmp_path):
    first = stdlib.describe("bytes")
    (tmp_path / "lib" / "m0.py").write_text("changed")
    stdlib.describe.cache_clear()
    assert stdlib.describe("bytes").directory != first.directory


def test_a_file_that_is_no_text_is_named(library, tmp_path):
    (tmp_path / "lib" / "m1.py").write_bytes(b"\xff")
    with pytest.raises(tokens.TokensError, match=r"m1.py is not UTF-8 \(invalid start byte\)"):
        stdlib.describe("bytes")


def test_what_is_cut_short_leaves_nothing_behind(library, monkeypatch):
    def cut_short(description):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(tokens, "write_description", cut_short)
        with pytest.raises(KeyboardInterrupt):
            stdlib.describe("bytes")
    assert not list(library.iterdir())
    assert stdlib.describe("bytes").directory.parent == library


def test_two_that_prepare_at_once_make_one(library, monkeypatch):
    """The one that comes second takes what the first has made."""
    whole = stdlib.prepare

    def overtaken(directory, name, documents):
        whole(directory, name, documents)
        monkeypatch.setattr(stdlib, "prepare", whole)
        stdlib.describe.__wrapped__(name)

    monkeypatch.setattr(stdlib, "prepare", overtaken)
    described = stdlib.describe("bytes")
    assert [described.directory] == list(library.iterdir())
    assert Stdlib(length=32).describe().examples > 0


def test_the_real_library_is_megabytes_of_text(monkeypatch, tmp_path):
    """As installed here: no test file in it, one in twenty files held out."""
    found = stdlib.read(Path(stdlib.sysconfig.get_paths()["stdlib"]))
    assert sum(len(each.text) for each in found) > 5e6
    assert not [each.path for each in found if "/test/" in each.path or "packages/" in each.path]
    assert 0.02 < sum(each.held_out for each in found) / len(found) < 0.1
