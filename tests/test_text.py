"""From raw text to token shards: every format, any number of workers, and kills on the way."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
import types
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import zstandard
from conftest import finish, start
from pyarrow import parquet

from experiments import hub, prepare
from experiments.documents import documents
from experiments.prepare_jobs import split_into_jobs
from experiments.sources import Source
from wsdjax import data
from wsdjax.config import Text
from wsdjax.data import tokenizer, tokens
from wsdjax.validation import UserError


def texts(count, seed=0, words=30):
    """Documents in several alphabets, with line ends and what looks like a separator."""
    random = np.random.default_rng(seed)
    known = ["loss", "rate", "Grüße", "温度", "\n", "<|endoftext|>", "😀", "\t", "steps"]
    return [f"{i} " + " ".join(random.choice(known, words)) for i in range(count)]


def write_jsonl(path: Path, documents, field="text"):
    path.write_text("".join(json.dumps({"meta": 1, field: each}) + "\n" for each in documents))


def write_zst(path: Path, documents):
    """Two frames, the second of which begins within a line."""
    content = "".join(json.dumps({"text": each}) + "\n" for each in documents).encode()
    half = len(content) // 2 + 3
    compress = zstandard.ZstdCompressor().compress
    path.write_bytes(compress(content[:half]) + compress(content[half:]))


def write_parquet(path: Path, documents, field="text"):
    rows = pyarrow.table({"other": [0] * len(documents), field: documents})
    parquet.write_table(rows, path, row_group_size=3)


def run(out: Path, *arguments: str, tokenizer="bytes", held_out="0.4", workers="1"):
    """The command, in this process; its jobs run in others."""
    prepare.main(
        [
            "text",
            *("--out", str(out), "--tokenizer", tokenizer),
            *("--held_out", held_out, "--workers", workers),
            *("--input", *arguments),
        ]
    )


def refused(capsys, *arguments, **options) -> str:
    """The one line that the command ends with."""
    with pytest.raises(SystemExit) as error:
        run(*arguments, **options)
    assert error.value.code == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1, said
    return said


def read(out: Path, split: str) -> list[list[int]]:
    """The documents of a split, by the shards' own bytes."""
    found: list[list[int]] = []
    for path in sorted(out.glob(f"{split}-*.tokens")):
        document: list[int] = []
        for token in np.frombuffer(path.read_bytes()[64:], "<u2").tolist():
            if token == tokens.describe(out).separator:
                found.append(document)
                document = []
            else:
                document.append(token)
        assert not document
    return found


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*.tokens*")} | {
        "tokens.json": (out / "tokens.json").read_bytes()
    }


def test_every_format_gives_its_documents_in_order(tmp_path):
    """Each in the split that a hash of its text tells, so that equal ones are in the same."""
    made = texts(40)
    (tmp_path / "a.txt").write_text(made[0])
    (tmp_path / "empty.txt").write_text("")
    write_jsonl(tmp_path / "b.jsonl", [*made[1:10], ""])
    write_zst(tmp_path / "c.jsonl.zst", made[10:20])
    write_parquet(tmp_path / "d.parquet", [*made[20:], *made[20:25]])
    run(tmp_path / "out", str(tmp_path))
    held_out = [
        int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64 < 0.4 for text in made
    ]
    assert 5 < sum(held_out) < 25
    order = [*range(40), *range(20, 25)]
    for split, kept in (("train", False), ("test", True)):
        expected = [list(made[i].encode()) for i in order if held_out[i] == kept]
        assert read(tmp_path / "out", split) == expected
    dataset = data.load(Text(str(tmp_path / "out"), 16))
    assert dataset.train.part(0, 1)["inputs"].shape == (1, 16)


@pytest.fixture
def corpus(tmp_path):
    """Twelve files, of which a shard takes some two."""
    (tmp_path / "in").mkdir()
    for i in range(12):
        write_jsonl(tmp_path / "in" / f"{i:02d}.jsonl", texts(60, seed=i))
    return str(tmp_path / "in" / "*.jsonl")


def test_the_number_of_workers_makes_no_difference(corpus, tmp_path):
    for workers in "13":
        run(tmp_path / workers, corpus, "--shard_bytes=25000", workers=workers)
    one, three = (contents(tmp_path / workers) for workers in "13")
    assert one == three
    assert len(one) == 13


def test_killed_and_resumed_gives_the_same_shards(corpus, tmp_path):
    """To the byte; what was finished is kept."""
    run(tmp_path / "whole", corpus, "--shard_bytes=25000")
    out = tmp_path / "killed"
    arguments = ("--tokenizer=bytes", "--held_out=0.4", "--shard_bytes=25000", f"--out={out}")
    process = start("experiments.prepare", "text", *arguments, "--input", corpus, "--workers=1")
    while not list(out.glob("train-*.tokens")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("train-*.tokens")}
    (out / "test-00005.tokens").unlink(missing_ok=True)
    (out / "tokens.json").unlink(missing_ok=True)
    (out / "train-00004.tokens.99.tmp").write_bytes(b"left by a kill")
    run(out, corpus, "--shard_bytes=25000", workers="2")
    assert contents(out) == contents(tmp_path / "whole")
    assert all(
        (out / name).stat().st_mtime_ns == when
        for name, when in kept.items()
        if name != "train-00005.tokens"
    )


def test_what_is_prepared_is_left_alone_and_what_is_spoilt_made_again(corpus, tmp_path, capsys):
    run(tmp_path / "out", corpus)
    before = contents(tmp_path / "out")
    path = tmp_path / "out" / "train-00000.tokens"
    when = path.stat().st_mtime_ns
    run(tmp_path / "out", corpus)
    assert "is already prepared: train " in capsys.readouterr().out
    assert path.stat().st_mtime_ns == when
    os.truncate(path, 1_000)
    run(tmp_path / "out", corpus)
    assert contents(tmp_path / "out") == before


def test_a_directory_begun_otherwise_is_refused(corpus, tmp_path, capsys):
    out, made = tmp_path / "out", tmp_path / "tokenizer.json"
    run(out, corpus)
    tokenizer.train_bpe("x", texts(9), 300).save(str(made))
    assert "another tokenizer" in refused(capsys, out, corpus, tokenizer=str(made))
    assert "--held_out, 0.4 there and 0.3 now" in refused(capsys, out, corpus, held_out="0.3")
    one = corpus.replace("*", "03")
    assert f"{out} was begun with other inputs: " in refused(capsys, out, one)
    os.truncate(out / "plan.json", 20)
    assert "plan.json, line 2: no JSON" in refused(capsys, out, corpus)
    (out / "plan.json").unlink()
    assert "were not made here" in refused(capsys, out, corpus)


def test_what_came_to_nothing_is_begun_anew(tmp_path, capsys):
    """In the same directory: after the advice of an error is taken, and after a corpus without
    any text has some."""
    out, path = tmp_path / "out", tmp_path / "a.jsonl"
    write_jsonl(path, texts(40), "txt")
    prepared = ("text", "--tokenizer=bytes", "--held_out=0.4", "--workers=1")
    assert "it has meta, txt. Name it with --text_field" in refused(capsys, out, str(path))
    prepare.main([*prepared, f"--out={out}", "--input", str(path), "--text_field=txt"])
    assert len(read(out, "train") + read(out, "test")) == 40
    said = capsys.readouterr().out
    assert "held-out tokens: --held_out takes a larger share" in said
    other, path = tmp_path / "other", tmp_path / "b.txt"
    path.write_text("")
    assert "no document with any text" in refused(capsys, other, str(tmp_path / "*.txt"))
    for i, text in enumerate(texts(20)):
        (tmp_path / f"{i}.txt").write_text(text)
    run(other, str(tmp_path / "*.txt"))
    assert len(read(other, "train") + read(other, "test")) == 20


def test_a_document_is_neither_cut_nor_padded(tmp_path):
    """Whatever a tokenizer.json says of sentences in batches."""
    path = tmp_path / "tokenizer.json"
    trained = tokenizer.train_bpe("x", texts(60), 300)
    expected = trained.encode(["a", "some longer document " * 9])
    trained._tokenizer.enable_truncation(8)
    trained._tokenizer.enable_padding(length=8)
    trained.save(str(path))
    for found, whole in zip(
        tokenizer.load(str(path)).encode(["a", "some longer document " * 9]), expected, strict=True
    ):
        np.testing.assert_array_equal(found, whole)


def test_no_token_is_added_to_a_document(tmp_path):
    """As the template of a tokenizer.json would, at its beginning and its end."""
    trained = tokenizer.train_bpe("x", texts(60), 300)
    (expected,) = trained.encode(["a document"])
    end = tokenizer.SEPARATORS[0]
    trained._tokenizer.post_processor = tokenizer.library().processors.TemplateProcessing(
        single=f"{end} $A {end}", special_tokens=[(end, trained.separator)]
    )
    path = tmp_path / "tokenizer.json"
    trained.save(str(path))
    assert len(trained._tokenizer.encode("a document").ids) == len(expected) + 2
    (found,) = tokenizer.load(str(path)).encode(["a document"])
    np.testing.assert_array_equal(found, expected)


def test_a_learned_tokenizer_gives_its_own_tokens(corpus, tmp_path):
    """A document that holds the separator's name is not cut there."""
    trained = tokenizer.train_bpe("x", texts(60), 300)
    path = tmp_path / "tokenizer.json"
    trained.save(str(path))
    loaded = tokenizer.load(str(path))
    assert (loaded.fingerprint, loaded.vocabulary) == (trained.fingerprint, 300)
    again = tokenizer.train_bpe("x", texts(60), 300)
    assert again.fingerprint == trained.fingerprint
    run(tmp_path / "out", corpus.replace("*", "00"), tokenizer=str(path), workers="2")
    found = read(tmp_path / "out", "train") + read(tmp_path / "out", "test")
    expected = [each.tolist() for each in trained.encode(texts(60))]
    assert sorted(found) == sorted(expected)
    described = tokens.describe(tmp_path / "out")
    assert (described.vocabulary, described.fingerprint) == (300, trained.fingerprint)
    all_bytes = sum(len(text.encode()) + 1 for text in texts(60))
    shards = [shard for split in described.splits.values() for shard in split]
    assert sum(shard.text_bytes for shard in shards) == all_bytes


GOOD = json.dumps({"text": "good"}).encode() + b"\n"


def cut_zst(path):
    write_zst(path, texts(200))
    os.truncate(path, path.stat().st_size - 10)


def holding(content):
    return lambda path: path.write_bytes(content)


FAULTS = {
    "text, not UTF-8": ("a.txt", holding(b"good\ngood\nb\xffd\n"), ", line 3: not UTF-8"),
    "not UTF-8": ("a.jsonl", holding(GOOD + b'\n{"text": "b\xffd"}\n'), ", line 3: not UTF-8"),
    "half a surrogate": (
        "a.jsonl",
        holding(GOOD + b'{"text": "b\\ud800d"}\n'),
        ", line 2: no UTF-8",
    ),
    "half a line": ("a.jsonl", holding(GOOD + GOOD[:-5]), ", line 2: no JSON"),
    "no such field": (
        "a.jsonl",
        holding(b'{"content": "good"}\n'),
        ", line 1: no text under 'text'; it has content. Name it with --text_field",
    ),
    "no dict": ("a.jsonl", holding(b"[1]\n"), ", line 1: no text under 'text'"),
    "a .zst cut short": ("a.jsonl.zst", cut_zst, " is cut short"),
    "no .zst": ("a.jsonl.zst", holding(GOOD), " is no .zst file, or is damaged"),
    "no parquet": ("a.parquet", holding(GOOD), " is no parquet file, or is damaged"),
    "no such column": (
        "a.parquet",
        lambda path: write_parquet(path, texts(3), "content"),
        " has no column 'text'; it has other, content. Name it with --text_field",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_read_is_told_in_one_line(fault, tmp_path):
    name, spoil, said = FAULTS[fault]
    path = tmp_path / name
    spoil(path)
    with pytest.raises(UserError) as error:
        list(documents(str(path), "text"))
    assert f"{path}{said}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (GOOD + GOOD[:-5], "a.jsonl, line 2: no JSON"),
        (b"\n", "a.jsonl: no document with any text"),
        (GOOD, "no document for "),
    ],
)
def test_the_command_ends_with_that_line(content, said, tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    assert said in refused(capsys, tmp_path / "out", str(path))
    assert not (tmp_path / "out" / "tokens.json").exists()


def test_what_is_not_there_is_told_in_one_line(tmp_path, capsys):
    text, out = tmp_path / "a.txt", tmp_path / "out"
    text.write_text("text")
    (tmp_path / "a.pdf").write_text("text")
    nothing = str(tmp_path / "*.jsonl")
    assert f"--input {nothing}: no such file" in refused(capsys, out, nothing)
    assert "a.pdf is none of .txt, .jsonl" in refused(capsys, out, str(tmp_path / "a.pdf"))
    missing = str(tmp_path / "tokenizer.json")
    assert f"{missing} is not there" in refused(capsys, out, str(text), tokenizer=missing)
    assert f"{text} is no tokenizer.json" in refused(capsys, out, str(text), tokenizer=str(text))
    tokenizer.train_bpe("x", ["text"], 300).save(missing)
    said = refused(capsys, out, str(text), "--separator=<end>", tokenizer=missing)
    assert f"{missing} has no token <end> to end a document" in said
    assert "must be between 0 and 1" in refused(capsys, out, str(text), held_out="0")
    assert not out.exists()


def test_a_name_that_cannot_be_fetched_is_told_in_one_line(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    arguments = ("--input", str(tmp_path / "a.txt"), "--out", str(tmp_path / "out"))
    code, out, err = finish(
        start(
            *("experiments.prepare", "text", "--tokenizer=no/such", *arguments),
            HF_HUB_OFFLINE="1",
            HF_HOME=str(tmp_path),
        )
    )
    assert (code, out) == (2, "")
    assert "the tokenizer no/such is no file here, and could not be fetched" in err
    assert len(err.strip().splitlines()) == 1, err


class FakeDataset(list):
    size_in_bytes = 6_400

    def shard(self, num_shards, index, contiguous):
        assert contiguous
        bounds = np.linspace(0, len(self), num_shards + 1).astype(int)
        return FakeDataset(self[bounds[index] : bounds[index + 1]])


def test_a_data_set_of_the_hub_is_read_in_parts(monkeypatch, tmp_path):
    """With a stand-in for the library: there is no network in tests."""
    rows = FakeDataset({"text": text} for text in texts(100))
    library = types.SimpleNamespace(
        load_dataset=lambda *name, split: {
            ("a/b", "validation"): rows,
            ("a/b", "en", "validation"): FakeDataset(rows[:3]),
        }[*name, split],
        disable_progress_bars=lambda: None,
    )
    monkeypatch.setitem(sys.modules, "datasets", library)
    parts = hub.parts("hf:a/b:validation")
    assert len(parts) == 64
    assert parts[0] == ("hf:a/b:validation:1/64", 100)
    found = [text for name, _ in parts for text in documents(name, "text")]
    assert found == texts(100)
    (*_, (last, _)) = hub.parts("hf:a/b:en:validation")
    assert (last, list(documents(last, "text"))) == ("hf:a/b:en:validation:3/3", [texts(100)[2]])
    with pytest.raises(UserError, match="hf:a/c:train could not be fetched"):
        hub.parts("hf:a/c")
    with pytest.raises(UserError, match="write hf:NAME, hf:NAME:SPLIT or hf:NAME:CONFIG"):
        hub.parts("hf:")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        UserError, match=r"hf:a/b:train needs the library datasets: pip .*huggingface"
    ):
        hub.parts("hf:a/b")


def test_jobs_are_neighbours_of_enough_bytes_and_not_too_many():
    sources = [Source(f"{i:04d}", 10, 0) for i in range(10_000)]
    for shard_bytes, count in ((1, 2_000), (95, 1_000), (10**6, 1)):
        jobs = split_into_jobs(sources, shard_bytes)
        assert [each for job in jobs for each in job.sources] == sources
        assert [job.number for job in jobs] == list(range(len(jobs))) == list(range(count))
