"""From raw text to token shards: every format, any number of workers, and kills on the way."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import zstandard
from helpers import ROOT, command, documents_of, finish, start, texts
from pyarrow import parquet

from experiments.prepare import __main__ as prepare
from experiments.prepare import documents as reading
from experiments.prepare import hub
from experiments.prepare import jobs as prepare_jobs
from experiments.prepare.documents import documents
from experiments.prepare.jobs import Made, split_into_jobs
from experiments.prepare.sources import Source, find
from wsdjax import data
from wsdjax.config import Text
from wsdjax.data import tokenizer, tokens
from wsdjax.errors import UserError


def write_jsonl(path: Path, documents, field="text"):
    path.write_text("".join(json.dumps({"meta": 1, field: each}) + "\n" for each in documents))


def write_zst(path: Path, documents):
    """Two frames, the second of which begins within a line."""
    content = "".join(json.dumps({"text": each}) + "\n" for each in documents).encode()
    half = len(content) // 2 + 3
    compress = zstandard.ZstdCompressor().compress
    path.write_bytes(compress(content[:half]) + compress(content[half:]))


def write_gz(path: Path, documents):
    content = "".join(json.dumps({"text": each}) + "\n" for each in documents).encode()
    path.write_bytes(gzip.compress(content))


def write_parquet(path: Path, documents, field="text"):
    rows = pyarrow.table({"other": [0] * len(documents), field: documents})
    parquet.write_table(rows, path, row_group_size=3)


def attempt(out: Path, *arguments: str, tokenizer="bytes", held_out="0.4", workers="1") -> int:
    """The exit code of the command, in this process; its jobs run in others."""
    return prepare.main(
        [
            "text",
            *("--out", str(out), "--tokenizer", tokenizer),
            *("--held_out", held_out, "--workers", workers),
            *("--input", *arguments),
        ]
    )


def run(*arguments, **options) -> None:
    assert attempt(*arguments, **options) == 0


def refused(capsys, *arguments, **options) -> str:
    """The one line that the command ends with."""
    assert attempt(*arguments, **options) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1, said
    return said


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*.tokens*")} | {
        "tokens.json": (out / "tokens.json").read_bytes()
    }


def test_every_format_gives_its_documents_in_order(tmp_path):
    """Each in the split that a hash of its text tells, so that equal ones are in the same."""
    made = texts(40)
    (tmp_path / "a.txt").write_text(made[0])
    (tmp_path / "empty.txt").write_text("")
    write_jsonl(tmp_path / "b.JSONL", [*made[1:6], ""])
    write_gz(tmp_path / "ba.json.gz", made[6:8])
    (tmp_path / "bb.json").write_text(json.dumps([{"text": each} for each in made[8:10]], indent=1))
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
        assert documents_of(tmp_path / "out", split) == expected
    dataset = data.load(Text(str(tmp_path / "out"), 16))
    assert dataset.train.take(np.arange(1))["inputs"].shape == (1, 16)


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
    done = out / "jobs.jsonl"
    while not (done.exists() and done.read_bytes().endswith(b"\n")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    jobs = [json.loads(line)["job"] for line in done.read_text().splitlines()]
    kept = {
        name: (out / name).stat().st_mtime_ns for name in (f"train-{i:05d}.tokens" for i in jobs)
    }
    (out / "test-00005.tokens").unlink(missing_ok=True)
    (out / "tokens.json").unlink(missing_ok=True)
    left = out / f".train-00004.tokens.{process.pid}-0badcafe.tmp"
    left.write_bytes(b"left by a kill")
    run(out, corpus, "--shard_bytes=25000", workers="2")
    assert not left.exists()
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
    assert "plan.json, line 3: no JSON" in refused(capsys, out, corpus)
    (out / "plan.json").unlink()
    assert "were not made here" in refused(capsys, out, corpus)


def test_a_spoilt_tokenizer_is_written_again(corpus, tmp_path, capsys):
    out, made = tmp_path / "out", tmp_path / "tokenizer.json"
    tokenizer.train_bpe("x", texts(9), 300).save(str(made))
    run(out, corpus, tokenizer=str(made))
    before = contents(out)
    (out / "tokenizer.json").write_text("[]")
    run(out, corpus, tokenizer=str(made))
    assert "is already prepared: train " in capsys.readouterr().out
    assert contents(out) == before


def test_what_came_to_nothing_is_begun_anew(tmp_path, capsys):
    """In the same directory: after the advice of an error is taken, and after a corpus without
    any text has some."""
    out, path = tmp_path / "out", tmp_path / "a.jsonl"
    write_jsonl(path, texts(40), "txt")
    prepared = ("text", "--tokenizer=bytes", "--held_out=0.4", "--workers=1")
    assert "it has meta, txt. Name it with --text_field" in refused(capsys, out, str(path))
    arguments = [*prepared, f"--out={out}", "--input", str(path), "--text_field=txt"]
    assert prepare.main(arguments) == 0
    assert len(documents_of(out, "train") + documents_of(out, "test")) == 40
    said = capsys.readouterr().out
    assert "held-out tokens: --held_out takes a larger share" in said
    other, path = tmp_path / "other", tmp_path / "b.txt"
    path.write_text("")
    assert "no document with any text" in refused(capsys, other, str(tmp_path / "*.txt"))
    for i, text in enumerate(texts(20)):
        (tmp_path / f"{i}.txt").write_text(text)
    run(other, str(tmp_path / "*.txt"))
    assert len(documents_of(other, "train") + documents_of(other, "test")) == 20


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
    found = documents_of(tmp_path / "out", "train") + documents_of(tmp_path / "out", "test")
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
    "no dict": ("a.jsonl", holding(b"[1]\n"), ", line 1: no text under 'text', but [1] in place "),
    "a list under text": (
        "a.jsonl",
        holding(GOOD + json.dumps({"text": ["x" * 50] * 5_000}).encode()),
        ", line 2: 'text' is ['xxxxxxxx",
    ),
    "nested deep": (
        "a.jsonl",
        holding(b'{"text": "ok", "meta": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"),
        ", line 1: no JSON that can be held: nested too deep, or too large",
    ),
    "an array nested deep": ("a.json", holding(b"[" * 100_000), ", line 1: no JSON that can b"),
    "a long number": ("a.jsonl", holding(b'{"text": ' + b"9" * 5_000 + b"}"), ", line 1: no JSON"),
    "many long names": (
        "a.jsonl",
        holding(json.dumps({f"{i} " * 50: 1 for i in range(999)}).encode()),
        ", line 1: no text under 'text'; it has 0 0 0",
    ),
    "an item of an array": ("a.json", holding(b'[{"text": "a"}, 3]'), ", item 2: no text under"),
    "half an array": ("a.json", holding(b'[{"text": "a"},\n'), ", line 2: no JSON (Expecting"),
    "a long line": (
        "a.jsonl",
        holding(GOOD + b'{"text": "' + b"x" * 2**20 + b'"}\n'),
        ", line 2: longer than 0 MiB: make several documents of it",
    ),
    "a long line, packed": (
        "a.jsonl.zst",
        lambda path: path.write_bytes(
            zstandard.ZstdCompressor().compress(GOOD + b'{"text": "' + bytes(2**25))
        ),
        ", line 2: longer than 0 MiB: make several documents of it",
    ),
    "a long text, packed": (
        "a.txt.gz",
        lambda path: path.write_bytes(gzip.compress(bytes(2**23))),
        " has more than 4 MiB to be read at once: split it",
    ),
    "a .gz cut short": (
        "a.jsonl.gz",
        lambda path: path.write_bytes(gzip.compress(GOOD * 99)[:-10]),
        " is cut short",
    ),
    "nothing of a .gz": ("a.jsonl.gz", holding(b""), " is cut short, to nothing"),
    "nothing of a .zst": ("a.jsonl.zst", holding(b""), " is cut short"),
    "no .gz": ("a.jsonl.gz", holding(GOOD), " is no .gz file, or is damaged"),
    "a column of numbers": (
        "a.parquet",
        lambda path: write_parquet(path, [1, 2, 3]),
        ", row 1: 'text' is 1, and no text: mend it, name another --text_field",
    ),
    "a .zst cut short": ("a.jsonl.zst", cut_zst, " is cut short"),
    "no .zst": ("a.jsonl.zst", holding(GOOD), " is no .zst file, or is damaged"),
    "no parquet": ("a.parquet", holding(GOOD), " is no parquet file, or is damaged"),
    "no such column": (
        "a.parquet",
        lambda path: write_parquet(path, texts(3), "content"),
        " must have one column 'text', and has other, content: name another with --text",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_read_is_told_in_one_line(fault, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MOST_OF_A_ROW", 2**19)
    monkeypatch.setattr(reading, "MOST_OF_A_FILE", 2**22)
    name, spoil, said = FAULTS[fault]
    path = tmp_path / name
    spoil(path)
    with pytest.raises(UserError) as error:
        list(documents(str(path), "text"))
    assert f"{path}{said}" in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


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

    def broken(self, **which):
        yield {"text": "good"}
        raise OSError("connection lost")

    monkeypatch.setattr(FakeDataset, "shard", broken)
    with pytest.raises(UserError, match=r"3/3 cannot be read after row 1 .*connection lost"):
        list(documents(last, "text"))
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


def test_a_byte_order_mark_is_no_text(tmp_path):
    mark = b"\xef\xbb\xbf"
    (tmp_path / "a.txt").write_bytes(mark + b"text")
    (tmp_path / "b.jsonl").write_bytes(mark + GOOD)
    (tmp_path / "c.json").write_bytes(mark + b"[" + GOOD + b"]")
    found = [list(documents(str(tmp_path / n), "text")) for n in ("a.txt", "b.jsonl", "c.json")]
    assert found == [["text"], ["good"], ["good"]]


def test_a_column_may_have_a_dot_in_its_name(tmp_path):
    """Beside one whose inner field has the same path."""
    rows = pyarrow.table({"a": [{"b": "no"}] * 3, "a.b": ["x", "y", "z"]})
    parquet.write_table(rows, tmp_path / "a.parquet")
    assert list(documents(str(tmp_path / "a.parquet"), "a.b")) == ["x", "y", "z"]


def test_a_folder_is_read_through_links_without_loops_each_file_once(tmp_path, capsys):
    corpus, real = tmp_path / "corpus", tmp_path / "real"
    for folder in (corpus / "below", corpus / ".ipynb_checkpoints", real):
        folder.mkdir(parents=True)
    names = ["corpus/a.jsonl", "corpus/below/d.TXT", "real/b.jsonl", "real/c.jsonl.gz"]
    others = ("corpus/.ipynb_checkpoints/a.jsonl", "corpus/.x.txt", "corpus/p.pdf")
    for i, name in enumerate((*names, *others)):
        (write_gz if name.endswith("gz") else write_jsonl)(tmp_path / name, texts(20, seed=i))
    (corpus / "linked").symlink_to("../real")
    (corpus / "again").symlink_to("../real")
    (real / "back").symlink_to("../corpus")
    (corpus / "loop").symlink_to("below/..")
    (corpus / "up").symlink_to("..")
    (corpus / "a2.jsonl").symlink_to("a.jsonl")
    (corpus / "below/d2.TXT").hardlink_to(corpus / "below/d.TXT")
    found = find([str(corpus), str(real), str(corpus / "**" / "*.jsonl")])
    taken = [os.path.realpath(source.name) for source in found.sources]
    assert len(taken) == len(set(taken)) == 4
    assert {os.path.basename(name) for name in taken} >= {"a.jsonl", "b.jsonl", "c.jsonl.gz"}
    alone = find([str(corpus)])
    assert len(alone.sources) == 4
    assert alone.left_out["hidden"] == 2
    assert alone.left_out[".pdf"] == 1
    assert alone.left_out["a link to a folder around it"] >= 2
    assert alone.left_out["a second name of a file that is taken"] == 2
    run(tmp_path / "out", str(corpus))
    assert capsys.readouterr().out.startswith("4 files taken (2 .jsonl, 1 ")
    (corpus / "gone.txt").symlink_to("nowhere")
    assert "gone.txt is a link to nothing" in refused(capsys, tmp_path / "out", str(corpus))


def test_what_is_prepared_within_its_own_corpus_is_no_corpus(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", texts(40))
    for _ in range(2):
        run(tmp_path / "out", str(tmp_path))
    assert (
        len(documents_of(tmp_path / "out", "train") + documents_of(tmp_path / "out", "test")) == 40
    )


def ascii_only(path: Path) -> str:
    """A tokenizer without tokens for other letters."""
    of = tokenizer.library()
    made = of.Tokenizer(of.models.BPE())
    made.pre_tokenizer = of.pre_tokenizers.Whitespace()
    trainer = of.trainers.BpeTrainer(vocab_size=60, special_tokens=["</s>"], show_progress=False)
    made.train_from_iterator(["plain ascii words only"], trainer)
    made.save(str(path))
    return str(path)


def test_text_without_tokens_is_counted_and_refused_above_a_share(tmp_path, capsys):
    """Each line has 5 letters with tokens, 30 without, of two bytes each, and a blank."""
    own = ascii_only(tmp_path / "ascii.json")
    write_jsonl(tmp_path / "a.jsonl", [f"words {'ω' * 30}"] * 2 + ["plain words", "ascii", "only"])
    out = tmp_path / "out"
    said = refused(capsys, out, str(tmp_path / "a.jsonl"), tokenizer=own, held_out="0.5")
    assert "no tokens for 78.95% of the text's bytes, and --lost=0.01 allows 1.00%" in said
    run(out, str(tmp_path / "a.jsonl"), "--lost=0.8", tokenizer=own, held_out="0.5")
    assert "no tokens for 120 bytes of the text (78.95%); bits a byte are of the others" in (
        capsys.readouterr().out
    )
    described = tokens.describe(out)
    shards = [shard for split in described.splits.values() for shard in split]
    assert sum(shard.text_bytes for shard in shards) == 2 * 6 + 11 + 5 + 4 + 5
    assert described.lost_bytes == 120
    assert "no tokens for" in refused(
        capsys, out, str(tmp_path / "a.jsonl"), tokenizer=own, held_out="0.5"
    )


def test_what_a_tokenizer_says_nothing_of_is_counted():
    """Unknown words as well as characters that it drops; white space apart."""
    of = tokenizer.library()
    words = of.Tokenizer(of.models.WordLevel({"</s>": 0, "?": 1, "a": 2, "b": 3}, unk_token="?"))
    words.pre_tokenizer = of.pre_tokenizers.Whitespace()
    counted = tokenizer.Learned("x", words).encode_and_count(["a b", "a zz  ωω b", "", "b\n"])
    assert [lost for _, lost in counted] == [0, 2 + 4, 0, 0]
    assert counted[1][0].tolist() == [2, 1, 1, 3]
    whole = tokenizer.train_bpe("x", texts(9), 300)
    assert [lost for _, lost in whole.encode_and_count(texts(9))] == [0] * 9
    whole._keeps_all = False  # the long way comes to the same
    assert [lost for _, lost in whole.encode_and_count(texts(9))] == [0] * 9
    composing = of.Tokenizer.from_str(whole._tokenizer.to_str())
    composing.normalizer = of.normalizers.NFC()
    composed = tokenizer.Learned("x", composing)  # whose offsets leave out an accent
    assert [lost for _, lost in composed.encode_and_count(["cafe\u0301"])] == [0]


@pytest.mark.parametrize("kind", ["not special", "an ordinary token", "a word", "unknown words"])
def test_a_separator_that_is_made_from_text_is_refused(kind, tmp_path):
    of, path, separator = tokenizer.library(), tmp_path / "tokenizer.json", None
    made = of.Tokenizer(of.models.WordLevel({"<unk>": 0, "</s>": 1, "b": 2}, unk_token="<unk>"))
    made.pre_tokenizer = of.pre_tokenizers.WhitespaceSplit()
    if kind in ("not special", "an ordinary token"):
        made = of.Tokenizer(of.models.BPE())
        made.pre_tokenizer = of.pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = sorted(of.pre_tokenizers.ByteLevel.alphabet())
        trainer = of.trainers.BpeTrainer(
            vocab_size=270, initial_alphabet=alphabet, show_progress=False
        )
        made.train_from_iterator(["some text"], trainer)
        made.add_tokens([of.AddedToken("</s>", special=kind != "not special")])
        separator = "some" if kind == "an ordinary token" else None
    elif kind == "unknown words":
        separator = "<unk>"
    made.save(str(path))
    with pytest.raises(UserError, match=r"makes its token '.*' of a document's own text"):
        tokenizer.load(str(path), separator)


def test_a_token_beyond_int32_is_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.train_bpe("x", ["text"], 300).save(str(path))
    content = json.loads(path.read_text())
    content["model"]["vocab"]["xyz"] = 2**31
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="has the token 2,147,483,648: they may go up to"):
        tokenizer.load(str(path))


def test_a_mended_row_costs_its_own_shard_alone(corpus, tmp_path, capsys):
    last, out = Path(corpus.replace("*", "11")), tmp_path / "out"
    good = last.read_text()
    last.write_text(good + '{"text": null}\n')
    said = refused(capsys, out, corpus, "--shard_bytes=1")
    assert f"{last}, line 61: 'text' is None, and no text" in said
    kept = {path.name: path.stat().st_ino for path in out.glob("*.tokens")}
    assert len(kept) == 2 * 11
    last.write_text(good)
    run(out, corpus, "--shard_bytes=1")
    for name, inode in kept.items():
        assert (out / name).stat().st_ino == inode
    run(tmp_path / "whole", corpus, "--shard_bytes=1")
    assert contents(out) == contents(tmp_path / "whole")


def test_what_was_touched_or_moved_is_unchanged_and_what_changed_is_refused(
    corpus, tmp_path, capsys
):
    out, first = tmp_path / "out", Path(corpus.replace("*", "00"))
    run(out, corpus, "--shard_bytes=25000")
    before = contents(out)
    os.utime(first)
    run(out, corpus, "--shard_bytes=25000")
    first.parent.rename(tmp_path / "moved")
    run(out, corpus.replace("/in/", "/moved/"), "--shard_bytes=25000")
    assert capsys.readouterr().out.count("is already prepared") == 2
    (tmp_path / "moved").rename(first.parent)
    run(out, corpus, "--shard_bytes=25000")
    first.write_text(first.read_text().replace("loss", "Loss"))
    said = refused(capsys, out, corpus, "--shard_bytes=25000")
    assert f"other inputs: {first} came, went or changed" in said
    assert "delete tokens.json in it to make again what changed" in said
    assert contents(out) == before
    inode = (out / "train-00001.tokens").stat().st_ino
    (out / "tokens.json").unlink()
    run(out, corpus, "--shard_bytes=25000")
    assert (out / "train-00001.tokens").stat().st_ino == inode
    run(tmp_path / "whole", corpus, "--shard_bytes=25000")
    assert contents(out) == contents(tmp_path / "whole") != before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_full_disk_is_told_of_with_the_file_and_what_to_do(tmp_path, capsys, monkeypatch):
    (tmp_path / "jobs.jsonl").symlink_to("/dev/full")
    done = Made(0, [], [])
    monkeypatch.setattr(prepare, "prepare_text", lambda *_: prepare_jobs.add(tmp_path, done))
    said = refused(capsys, tmp_path, "any")
    assert f"{tmp_path / 'jobs.jsonl'}: No space left on device: make room" in said


def test_a_directory_of_before_there_were_records_goes_on(corpus, tmp_path, capsys):
    """Its plan.json has the inputs, and nothing tells what was in them."""
    out = tmp_path / "out"
    run(out, corpus, "--shard_bytes=25000")
    before = contents(out)
    plan = json.loads((out / "plan.json").read_text())
    del plan["content_sha256"]
    plan["inputs"] = [list(source) for source in find([corpus]).sources]
    for _ in range(2):
        (out / "plan.json").write_text(json.dumps(plan))
        (out / "jobs.jsonl").unlink()
        run(out, corpus, "--shard_bytes=25000")
        assert contents(out) == before
        os.utime(corpus.replace("*", "03"))
    said = capsys.readouterr().out
    assert "is already prepared" in said
    assert "5 of 6 shards are kept, 1 have other inputs" in said


def test_bad_rows_are_left_out_counted_and_told(tmp_path, capsys):
    path, out = tmp_path / "a.jsonl", tmp_path / "out"
    good = "".join(json.dumps({"text": each}) + "\n" for each in texts(40))
    path.write_text('{"text": null}\n' + good + "{\n" * 30)
    run(out, str(path), "--bad_rows=skip")
    said = capsys.readouterr().out
    assert f"{out}: 31 rows were left out, since they cannot be read:\n  {path}, line 1: " in said
    assert f"  {path}, line 42: no JSON (Expecting" in said
    assert "jobs.jsonl has more" in said
    assert tokens.describe(out).rows_left_out == 31
    assert len(documents_of(out, "train") + documents_of(out, "test")) == 40
    assert "31 rows were left out, such as" in refused(capsys, out, str(path))


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        (
            f"--shard_bytes={10**400}",
            "000 must be between 1 and 1099511627776",
        ),
        (f"--shard_bytes={'9' * 5_000}", "argument --shard_bytes: invalid int value"),
        ("--shard_bytes=0", "--shard_bytes: 0 must be between"),
        ("--lost=nan", "--lost: nan must be between 0 and 1"),
        ("--text_field=" + "x" * 5_000, "no text under 'xxx"),
    ],
)
def test_absurd_settings_are_refused_in_a_line(flag, said, tmp_path, capsys):
    write_jsonl(tmp_path / "a.jsonl", texts(20))
    told = refused(capsys, tmp_path / "out", str(tmp_path / "a.jsonl"), flag)
    assert said in told
    assert len(told) < 300
    for workers in ("0", "1000000", "9" * 400):
        told = refused(capsys, tmp_path / "x", str(tmp_path / "a.jsonl"), workers=workers)
        assert " must be between 1 and " in told
        assert len(told) < 300
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("when", [0.2, 0.6, "a shard is begun", "shards are done"])
def test_two_interrupts_end_it_within_a_second(when, corpus, tmp_path):
    """As a terminal sends them: to the workers as well, while they start and while they work."""
    for i in range(12):
        write_jsonl(Path(corpus.replace("*", f"{i:02d}")), texts(3_000, seed=i, words=90))
    arguments = ("--tokenizer=bytes", "--workers=3", f"--out={tmp_path / 'out'}")
    process = subprocess.Popen(
        command("experiments.prepare", "text", *arguments, "--shard_bytes=1", "--input", corpus),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    if isinstance(when, float):
        time.sleep(when)
    else:
        sign = {"a shard is begun": ".*.tokens.*.tmp", "shards are done": "*.tokens"}[when]
        while not any((tmp_path / "out").glob(sign)) and process.poll() is None:
            time.sleep(0.001)
    started = time.monotonic()
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=20)  # which waits for the workers too
    assert time.monotonic() - started < 5  # a second, and what a busy machine adds
    assert process.returncode == 130
    assert err.strip().endswith("Stopped. The same command goes on from there.")
    assert "Traceback" not in err
