"""Token shards and windows over them; every fault is told in one line that names the file."""

from __future__ import annotations

import hashlib
import json
import os
import tracemalloc

import numpy as np
import pytest
from helpers import FINGERPRINT, SEPARATOR, VOCABULARY, token_lists, write_shards

from experiments.prepare.text import verify
from experiments.report.baselines import bits_a_byte
from wsdjax import data, tree
from wsdjax.config import Text, describe_all
from wsdjax.data import tokens
from wsdjax.data.host import HostSplit, _order
from wsdjax.errors import UserError

LENGTH, OTHER = 8, "cd" * 32


def joined(texts):
    return np.concatenate([np.append(text, SEPARATOR) for text in texts])


@pytest.fixture
def directory(tmp_path):
    splits = {
        "train": [token_lists([30, 0, 41], 1), token_lists([5], 2), token_lists([70, 19], 3)],
        "test": [token_lists([60], 4)],
    }
    write_shards(tmp_path / "text", splits)
    return tmp_path / "text"


@pytest.mark.parametrize("vocabulary", [VOCABULARY, 2**16, 2**16 + 1, 2**20])
def test_what_is_written_is_read(vocabulary, tmp_path):
    """In 2 bytes a token where the vocabulary allows; a separator ends each document."""
    texts = [np.where(t == SEPARATOR, 0, t) for t in token_lists([50, 33], vocabulary=vocabulary)]
    described = write_shards(tmp_path / "text", {"train": [texts], "test": [texts]}, vocabulary)
    assert tokens.describe(tmp_path / "text") == described
    (shard,) = described.splits["train"]
    written = joined(texts).astype("<u2" if vocabulary <= 2**16 else "<u4").tobytes()
    digest = hashlib.sha256(written).hexdigest()[:16]
    assert shard == ("train-00000.tokens", 85, joined(texts).max(), 85, digest)
    size = (tmp_path / "text" / shard.file).stat().st_size
    assert size == 64 + 85 * (2 if vocabulary <= 2**16 else 4)
    windows = tokens.Windows(described, "train", 84)
    batch = windows.take([0])
    assert batch["inputs"].dtype == batch["targets"].dtype == np.int32
    np.testing.assert_array_equal(batch["inputs"][0], joined(texts)[:-1])
    np.testing.assert_array_equal(batch["targets"][0], joined(texts)[1:])


@pytest.mark.parametrize("mapped", [1, 256])
def test_window_i_of_a_shard_starts_at_i_times_the_length(directory, mapped, monkeypatch):
    """It has length + 1 tokens of one shard; a shard's every token but its first is a target
    once, save for fewer than `length` at its end. However many shards are mapped at a time."""
    monkeypatch.setattr(tokens, "_MAPPED", mapped)
    described = tokens.describe(directory)
    windows = tokens.Windows(described, "train", LENGTH)
    shards = [
        joined(token_lists(sizes, seed))
        for seed, sizes in ((1, [30, 0, 41]), (2, [5]), (3, [70, 19]))
    ]
    expected = [
        shard[i * LENGTH : (i + 1) * LENGTH + 1]
        for shard in shards
        for i in range((len(shard) - 1) // LENGTH)
    ]
    assert windows.size == len(expected) == 9 + 0 + 11
    batch = windows.take(np.arange(20).reshape(4, 5))
    assert batch["inputs"].shape == batch["targets"].shape == (4, 5, LENGTH)
    np.testing.assert_array_equal(batch["inputs"].reshape(20, LENGTH), [w[:-1] for w in expected])
    np.testing.assert_array_equal(batch["targets"].reshape(20, LENGTH), [w[1:] for w in expected])


def test_fewer_windows_are_spread_evenly_over_all(directory):
    described = tokens.describe(directory)
    whole, some = (tokens.Windows(described, "train", LENGTH, most) for most in (None, 5))
    assert some.size == 5
    found, expected = some.take(range(5)), whole.take([0, 4, 8, 12, 16])
    np.testing.assert_array_equal(found["inputs"], expected["inputs"])
    assert tokens.Windows(described, "train", LENGTH, 1_000).size == whole.size


def test_the_config_tells_vocabulary_epochs_and_tokens(directory):
    config = Text(str(directory), LENGTH, eval_tokens=30)
    described = config.describe()
    assert (described.classes, described.examples, config.units) == (VOCABULARY, 20, LENGTH)
    known = describe_all([config])
    assert tree.units(config, 4, None, known) == {"epochs": 5, "tokens": 1 / (4 * LENGTH)}
    assert described.facts["bytes_per_token"] == 1
    dataset = data.load(config)
    assert (dataset.train.size, dataset.test.size) == (20, 3)
    assert [len(b["targets"]) for b in data.in_order(dataset.test, 2)] == [2, 1]


def test_bits_a_byte_are_of_the_held_out_text(tmp_path):
    """A separator counts as a byte: (60 x 5 + 1) bytes for 61 tokens."""
    shards = {}
    for split, each in (("train", 2), ("test", 5)):
        path = tmp_path / tokens.shard_name(split, 0)
        writer = tokens.ShardWriter(path, FINGERPRINT, VOCABULARY)
        writer.write_document(np.arange(60), SEPARATOR, 60 * each)
        writer.close()
        shards[split] = [tokens.read_shard(path, FINGERPRINT, VOCABULARY)]
    described = tokens.Description(tmp_path, "test", FINGERPRINT, VOCABULARY, SEPARATOR, shards)
    tokens.write_description(described)
    size = Text(str(tmp_path), LENGTH).describe().facts["bytes_per_token"]
    assert size == pytest.approx(301 / 61)
    assert bits_a_byte(np.log(2) * size, size) == pytest.approx(1)


def test_a_stream_of_text_is_a_function_of_seed_and_step(directory):
    """Whatever was read before, by whichever object, and whichever seeds stand beside it."""
    train = data.load(Text(str(directory), LENGTH)).train
    stream = data.Stream(train, 6, 3)
    late, first = stream[200], stream[0]
    assert late["inputs"].shape == (6, LENGTH)
    beside = data.Stream(train, 6, [7, 3])
    for t, batch in ((200, late), (0, first)):
        assert beside[t]["inputs"].shape == (2, 6, LENGTH)
        for name in ("inputs", "targets"):
            np.testing.assert_array_equal(data.Stream(train, 6, 3)[t][name], batch[name])
            np.testing.assert_array_equal(beside[t][name][1], batch[name])
    assert not np.array_equal(first["inputs"], stream[1]["inputs"])


def test_the_rows_of_one_process_are_those_of_the_batch(directory):
    stream = data.Stream(data.load(Text(directory, LENGTH)).train, 6, (0, 7))
    for name, leaf in stream[5].items():
        parts = [stream.rows(5, *rows)[name] for rows in ((0, 1), (1, 4), (4, 6))]
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), leaf)


def test_every_epoch_is_another_permutation(directory):
    """Of which a batch that would not be full is left out."""
    split = HostSplit(tokens.describe(directory), "train", LENGTH)
    stream = data.Stream(split, 6, 0)
    assert stream.batches_per_epoch == 3
    seen = [np.concatenate([_order(20, 6, 0)[3 * e + i] for i in range(3)]) for e in range(4)]
    for epoch, indices in enumerate(seen):
        assert len(set(indices.tolist())) == 18
        assert set(indices.tolist()) <= set(range(20))
        read = np.concatenate([stream[3 * epoch + i]["inputs"] for i in range(3)])
        np.testing.assert_array_equal(read, split.take(indices)["inputs"])
    assert len({tuple(indices) for indices in seen}) == 4


def test_no_epoch_of_a_seed_is_one_of_its_neighbours():
    """Replicates have the seeds s, s + 1, ...; grain alone shuffles epoch e by seed + e."""
    orders = [_order(50, 50, seed) for seed in range(10)]
    epochs = {tuple(order[e]) for order in orders for e in range(10)}
    assert len(epochs) == 100


def test_the_order_of_many_windows_takes_no_memory():
    tracemalloc.start()
    batch = _order(3 * 10**8, 256, 0)[10**6 + 17]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(batch.tolist())) == 256
    assert peak < 2**20


def test_tokens_are_not_augmented(directory):
    with pytest.raises(ValueError, match="no augmentation of tokens"):
        data.Stream(data.load(Text(str(directory), LENGTH)).train, 2, 0, augment=True)


def truncate(path):
    os.truncate(path, path.stat().st_size - 3)


def of_another_tokenizer(path):
    writer = tokens.ShardWriter(path, OTHER, VOCABULARY)
    writer.write_document(np.zeros(60, int), SEPARATOR, 60)
    writer.close()


def out_of_the_vocabulary(path):
    with path.open("r+b") as file:
        file.seek(64 + 2 * 10)
        file.write(np.array([VOCABULARY], "<u2").tobytes())


def another_token(path):
    with path.open("r+b") as file:
        file.seek(64 + 2 * 10)
        token = int.from_bytes(file.read(2), "little")
        file.seek(64 + 2 * 10)
        file.write((token ^ 1).to_bytes(2, "little"))


def longer(path):
    writer = tokens.ShardWriter(path, FINGERPRINT, VOCABULARY)
    writer.write_document(np.zeros(99, int), SEPARATOR, 60)
    writer.close()


def change_json(name, value):
    def change(path):
        path = path.parent / "tokens.json"
        content = json.loads(path.read_text())
        del content["content_sha256"]  # as of before there was one
        path.write_text(json.dumps(content | {name: value}))

    return change


SHARD = {"file": "x", "tokens": 9, "greatest": 1, "text_bytes": 9, "digest": "00"}
FAULTS = {
    "no tokens.json": (
        lambda path: (path.parent / "tokens.json").unlink(),
        "tokens.json is not there. Prepare it: python -m experiments.prepare text",
    ),
    "no shard": (lambda path: path.unlink(), "test-00000.tokens is missing"),
    "a shard cut short": (truncate, r"test-00000.tokens has 183 bytes instead of 186"),
    "a header cut short": (lambda path: os.truncate(path, 9), "test-00000.tokens is no shard"),
    "no shard at all": (lambda path: path.write_text("x" * 99), "test-00000.tokens is no shard"),
    "another tokenizer": (
        of_another_tokenizer,
        r"test-00000.tokens was written with another tokenizer \(cdcdcdcdcdcd...\)",
    ),
    "another shard": (longer, "test-00000.tokens is not the shard that tokens.json tells of"),
    "a token outside": (out_of_the_vocabulary, "test-00000.tokens is damaged: its tokens have"),
    "another token": (another_token, "test-00000.tokens is damaged: its tokens have SHA-256"),
    "a smaller vocabulary": (change_json("vocabulary", 90), "tokens.json is damaged"),
    "a larger vocabulary": (change_json("vocabulary", 2**17), "tokens was written with another"),
    "a description of the future": (change_json("format", 3), "tokens.json has format 3"),
    "a description that has changed": (
        lambda path: (path.parent / "tokens.json").write_text(
            (path.parent / "tokens.json").read_text().replace('"separator": 9', '"separator": 8')
        ),
        "tokens.json is damaged: .*tokens.json: has changed since it was written",
    ),
    "a spoilt description": (change_json("splits", {}), "tokens.json is damaged"),
    "an empty split": (
        change_json("splits", {"train": [], "test": []}),
        "tokens.json is damaged",
    ),
    "a shard elsewhere": (
        change_json("splits", {s: [{**SHARD, "file": "../x"}] for s in ("train", "test")}),
        "tokens.json is damaged",
    ),
    "no list of shards": (change_json("splits", {"train": 3, "test": 3}), "tokens.json is damaged"),
    "an absurd vocabulary": (change_json("vocabulary", 10**40), "tokens.json is damaged"),
    "a separator outside": (change_json("separator", VOCABULARY), "tokens.json is damaged"),
    "no format": (change_json("format", None), "tokens.json has format None"),
    "an empty description": (
        lambda path: (path.parent / "tokens.json").write_text(""),
        "tokens.json: holds nothing, as a crash can leave it; delete it and give the command",
    ),
    "a list for a description": (
        lambda path: (path.parent / "tokens.json").write_text("[]"),
        "tokens.json: holds a list in place of an object",
    ),
    "half a description": (
        lambda path: truncate(path.parent / "tokens.json"),
        "tokens.json is damaged",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_in_one_line_that_names_the_file(fault, directory):
    spoil, said = FAULTS[fault]
    spoil(directory / "test-00000.tokens")
    with pytest.raises(UserError, match=said) as error:
        data.in_order(data.load(Text(str(directory), LENGTH)).test)
    assert str(directory) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300 + 2 * len(str(directory))


def test_a_split_too_large_to_be_verified_at_each_start_says_so(directory, monkeypatch, caplog):
    """Tokens outside the vocabulary are seen when they are read; others by the command."""
    path = directory / "test-00000.tokens"
    monkeypatch.setattr(tokens, "VERIFIED_BYTES", 100)
    another_token(path)
    with caplog.at_level("INFO", "wsdjax"):
        test = data.load(Text(str(directory), LENGTH)).test
    assert "of test tokens are used unverified; once and for all: python -m" in caplog.text
    data.in_order(test)
    with pytest.raises(UserError, match=r"test-00000.tokens is damaged: its tokens have SHA-256"):
        verify(directory)
    out_of_the_vocabulary(path)
    with pytest.raises(UserError, match=r"test-00000.tokens: token 97 is outside the vocabulary"):
        data.in_order(data.load(Text(str(directory), LENGTH)).test)


def test_what_is_as_it_was_written_is_verified(directory, capsys):
    verify(directory)
    assert "all 232 tokens of 4 shards are those that were written" in capsys.readouterr().out


def test_a_separator_within_a_document_is_not_written(tmp_path):
    writer = tokens.ShardWriter(tmp_path / "train-00000.tokens", FINGERPRINT, VOCABULARY)
    with pytest.raises(UserError, match=r"makes its separator, token 96, of a document's own"):
        writer.write_document(np.array([1, SEPARATOR, 2]), SEPARATOR, 3)


def test_a_split_without_a_whole_window_is_told(directory):
    """Before anything is loaded too: the config needs the number of windows."""
    for read in (Text.describe, data.load):
        with pytest.raises(UserError, match=r"tokens.json: the longest shard of 'train' has 91"):
            read(Text(str(directory), 91))
    with pytest.raises(UserError, match=r"the longest shard of 'test' has 61 tokens.*window 67"):
        data.load(Text(str(directory), 66))


@pytest.mark.parametrize("token", [VOCABULARY, -1])
def test_a_token_outside_the_vocabulary_is_not_written(token, tmp_path):
    writer = tokens.ShardWriter(tmp_path / "train-00000.tokens", FINGERPRINT, VOCABULARY)
    with pytest.raises(UserError, match=f"train-00000.tokens: token {token} is outside"):
        writer.write_document(np.array([1, token]), SEPARATOR, 2)


def test_a_shard_has_its_name_once_it_is_whole(tmp_path):
    writer = tokens.ShardWriter(tmp_path / "train-00000.tokens", FINGERPRINT, VOCABULARY)
    writer.write_document(np.arange(9), SEPARATOR, 9)
    assert not (tmp_path / "train-00000.tokens").exists()
    writer.close()
    assert [path.name for path in tmp_path.iterdir()] == ["train-00000.tokens"]
