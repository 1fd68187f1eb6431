"""Language models through the commands: from text to a tree of branches, a report and probes."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from helpers import ROOT, call, finish, load_config, rows_of, same, start, token_lists, write_shards

from experiments.estimate import estimate
from wsdjax import data, models, probes, tree
from wsdjax.branches import BranchStore
from wsdjax.config import Branch, Constant, Cooldown, Text
from wsdjax.data import tokenizer
from wsdjax.data.ngrams import ngram_loss
from wsdjax.errors import ConfigError
from wsdjax.trainer import Trainer
from wsdjax.trainer.preflight import warn_of_another_tokenizer
from wsdjax.training import cost

TINY = ROOT / "tests" / "configs" / "tiny_lm.py"


def run(workdir, *more):
    return call("experiments.run", f"--config={TINY}", f"--workdir={workdir}", *more)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("lm") / "w"
    code, out, err = run(workdir)
    assert code == 0, err
    return workdir, out, err


def test_a_run_tells_its_cost_first_and_its_bits_at_the_end(trained):
    """Parameters, tokens; bits a byte beside a bigram's and a 5-gram's of the same text."""
    workdir, out, err = trained
    assert "Transformer: 12,704 parameters, computed in bfloat16, 2 seeds" in err
    assert "18 updates of 8 x 16 tokens in 2 micro-batches, 4.61e+03 tokens in all" in err
    assert "Held-out bits a byte: decay (WSD, linear cooldown)" in out
    assert "experiments.report --baselines counts them" in out
    assert "n-grams counted on" not in out
    assert not (workdir / "baselines.json").exists()


def test_n_grams_are_counted_when_asked_for_and_kept(trained):
    """On what was read and on the whole text; a later report has them without counting."""
    workdir = trained[0]
    code, out, err = call("experiments.report", f"--workdir={workdir}", "--baselines")
    assert code == 0, err
    assert "takes a minute" in err
    counted = json.loads((workdir / "baselines.json").read_text())["bits_a_byte"]
    assert [list(each) for each in counted.values()] == 2 * [["bigram", "3-gram", "5-gram"]]
    few, many = (each["5-gram"] for each in counted.values())
    assert 1 < many < few < 8
    branch = BranchStore(workdir).branches()["decay"]
    read = np.concatenate([windows_of(stream_of(branch)[t]) for t in range(branch.end)])
    held_out = windows_of(data.load(branch.data).test.take(np.arange(40)))
    expected = ngram_loss(read, held_out, 2, 257) / np.log(2)
    assert next(iter(counted.values()))["bigram"] == pytest.approx(expected)
    assert f"counted on the {read.size:,} tokens that were read: bigram {expected:.3f}" in out
    kept = (workdir / "baselines.json").stat()
    _, again, _ = call("experiments.report", f"--workdir={workdir}")
    assert again == out
    assert (workdir / "baselines.json").stat().st_mtime_ns == kept.st_mtime_ns
    assert branch.start == 12, "1,536 tokens are 12 batches of 8 windows of 16"


def test_a_tokenizer_that_did_not_make_the_text_is_told(tmp_path, caplog):
    """Where the weights come with theirs; nothing is said of the one that did."""
    weights, directory = tmp_path / "weights", tmp_path / "text"
    weights.mkdir()
    theirs = tokenizer.train_bpe("x", ["some text"], 300)
    theirs.save(str(weights / "tokenizer.json"))
    data_ = Text(str(directory), 8)
    write_shards(directory, {"train": [token_lists([90])], "test": [token_lists([40], 1)]})
    base = dataclasses.replace(load_config(TINY), data=data_, weights=str(weights))
    branches = {"trunk": Branch(steps=2, schedule=Constant())}
    (branch,) = tree.resolve(dataclasses.replace(base, tree=branches)).values()
    warn_of_another_tokenizer(branch)
    assert "the weights come with another tokenizer" in caplog.text
    caplog.clear()
    described = json.loads((directory / "tokens.json").read_text())
    del described["content_sha256"]
    described["fingerprint"] = theirs.fingerprint
    (directory / "tokens.json").write_text(json.dumps(described))
    warn_of_another_tokenizer(branch)
    assert not caplog.text


def stream_of(branch):
    return data.Stream(data.load(branch.data).train, branch.batch_size, branch.data_seed)


def windows_of(batch):
    return np.concatenate([batch["inputs"], batch["targets"][:, -1:]], axis=1)


def test_text_that_was_prepared_anew_is_refused(tmp_path):
    """By what goes on with a stream of the old one; a stream of its own is another matter."""
    directory = tmp_path / "text"
    spread = {"train": [token_lists([90])], "test": [token_lists([40], 1)]}
    write_shards(directory, spread)
    base = dataclasses.replace(load_config(TINY), data=Text(str(directory), 8), seeds=1)
    branches = {
        "trunk": Branch(steps=2, schedule=Constant()),
        "decay": Branch(parent="trunk", steps=2, schedule=Cooldown()),
        "fresh": Branch(parent="trunk", steps=2, schedule=Cooldown(), data_seed=7),
    }
    resolved = tree.resolve(dataclasses.replace(base, tree=branches))
    store = BranchStore(tmp_path / "w")
    store.register({"trunk": resolved["trunk"]})
    Trainer(store).check(resolved)
    write_shards(directory, {**spread, "train": [token_lists([90], 2)]})
    for name in ("trunk", "decay"):
        with pytest.raises(ConfigError, match=r"not the data that 'trunk' .* \(sha256 was"):
            Trainer(store).check({name: resolved[name]})
    Trainer(store).check({"fresh": resolved["fresh"]})


def test_stopped_and_resumed_is_the_same_to_the_bit(trained, tmp_path):
    """Windows of text in micro-batches, in bfloat16."""
    workdir = shutil.copytree(trained[0], tmp_path / "w")
    store = BranchStore(workdir)
    for name, step in (("decay", 12), ("trunk", 6)):
        store.discard_after(name, step)
    code, _, err = run(workdir)
    assert code == 0, err
    plain = BranchStore(trained[0])
    for name in ("trunk", "decay"):
        assert same(store.restore(name), plain.restore(name))
        assert rows_of(store, name) == rows_of(plain, name)


def test_a_node_is_probed_as_any_other(trained):
    """In float32, whatever it was trained in, over held-out windows too."""
    workdir = trained[0]
    arguments = (
        "--node=decay",
        "--probe=sharpness,preconditioned",
        "--examples=30",
        "--split=test",
    )
    code, _, err = call("experiments.probe", f"--workdir={workdir}", *arguments)
    assert code == 0, err
    store = BranchStore(workdir)
    branch = store.branches()["decay"]
    (path,) = (store.directory("decay") / "probes").glob(f"sharpness-{branch.end}-*.json")
    found = json.loads(path.read_text())["results"][0]
    assert found["computed_in"] == "float32"
    params = jax.tree.map(lambda leaf: leaf[0], store.params("decay", branch.end))
    batches = data.sample(data.load(branch.data).test, 30)
    expected = probes.sharpness(models.build(branch.model).loss, params, batches, tol=1e-3)
    np.testing.assert_allclose(found["eigenvalues"], expected.eigenvalues, rtol=2e-3)
    mass = found["mass_of_first"]
    assert {"embed/embedding", "layers/00/mlp/up/kernel", "layers/01/mlp/up/kernel"} <= set(mass)
    assert sum(mass.values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("lm_quickstart.py", "Transformer: 918,912 parameters"),
        ("lm_quickstart.py:gru", "RNN: "),
        ("lm_pythia160m.py", "Transformer: 162,322,944 parameters"),
        (
            "lm_pythia160m.py",
            "11,444 updates of 256 x 2,048 tokens in 8 micro-batches, 6e+09 tokens",
        ),
        ("lm_pythia160m.py", "about 5.8e+18 FLOPs"),  # 11,444 updates of 5.07e14
        ("lm_llama_wen.py:1.2B", "4,096 tokens"),
    ],
)
def test_what_a_config_costs_is_told_without_its_data(config, said, tmp_path):
    arguments = (f"--config=experiments/configs/{config}", "--dry_run")
    code, out, err = finish(start("experiments.run", *arguments, XDG_CACHE_HOME=str(tmp_path)))
    assert (code, err) == (0, "")
    assert said in out
    assert " FLOPs, and at least " in out


def test_seeds_and_updates_are_counted_and_memory_is_that_of_the_largest_group():
    """Two siblings of two seeds each train together; the trunk's two alone."""
    branches = {
        "trunk": Branch(steps=3, schedule=Constant()),
        "a": Branch(parent="trunk", steps=2, schedule=Cooldown()),
        "b": Branch(parent="trunk", steps=2, schedule=Cooldown("sqrt")),
    }
    experiment = dataclasses.replace(load_config(TINY), tree=branches)
    resolved = tree.resolve(experiment)
    one = cost.of_update(experiment.model, cost.batch_shapes(experiment.data, 8), 2)
    _, lengths, told = estimate(resolved)
    assert "7 updates of 8 x 16 tokens in 2 micro-batches, 1.79e+03 tokens in all" in lengths
    memory = 4 * (one.state_bytes + one.activation_bytes) / 2**30
    assert f"about {2 * 7 * one.flops:.2g} FLOPs, and at least {memory:.2g} GiB" in told


def test_data_that_are_not_prepared_are_told_with_the_command(tmp_path):
    arguments = ("--config=experiments/configs/lm_pythia160m.py", f"--workdir={tmp_path / 'w'}")
    code, _, err = call("experiments.run", *arguments, "--config.accumulate=256")  # to fit here
    assert code == 2
    assert "python -m experiments.prepare text" in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "w").exists()
