"""Hugging Face's own models are the reference: the same weights give the same logits."""

import dataclasses
import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from conftest import load_config
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig

from wsdjax import data, families, interop, models, plans, tree
from wsdjax.branches import BranchStore
from wsdjax.config import CNN, Transformer
from wsdjax.data.device import DeviceSplit
from wsdjax.huggingface import check_weights, config_of
from wsdjax.train import Stopped, Trainer
from wsdjax.validation import ConfigError

pytestmark = pytest.mark.usefixtures("compiled_quickly")
SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "initializer_range": 0.3,
}
THEIRS = {
    "neox": GPTNeoXConfig(**SIZES, rotary_pct=0.25),
    "neox sequential, half rotated": GPTNeoXConfig(
        **SIZES, rotary_pct=0.5, use_parallel_residual=False, rotary_emb_base=500.0
    ),
    "neox tied": GPTNeoXConfig(**SIZES, tie_word_embeddings=True, layer_norm_eps=1e-3),
    "llama": LlamaConfig(**SIZES, rope_theta=500_000.0),
    "llama grouped": LlamaConfig(**SIZES, num_key_value_heads=2, rms_norm_eps=1e-3),
    "llama tied, one kv head": LlamaConfig(
        **SIZES, num_key_value_heads=1, tie_word_embeddings=True
    ),
    "llama with biases": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
}
PYTHIA_160M = {
    "architectures": ["GPTNeoXForCausalLM"],
    "hidden_act": "gelu",
    "hidden_size": 768,
    "intermediate_size": 3_072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 2_048,
    "model_type": "gpt_neox",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "rotary_emb_base": 10_000,
    "rotary_pct": 0.25,
    "tie_word_embeddings": False,
    "use_parallel_residual": True,
    "vocab_size": 50_304,
}
"""What the published config.json says of the model."""
TOKENS = np.random.default_rng(0).integers(0, 61, (3, 17))


def logits_of(network):
    with torch.no_grad():
        return network(torch.tensor(TOKENS)).logits.numpy()


@pytest.fixture(scope="module", params=THEIRS)
def theirs(request, tmp_path_factory):
    """(directory, logits) of a network with random weights, biases and gains too."""
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(THEIRS[request.param])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    directory = tmp_path_factory.mktemp("theirs")
    network.save_pretrained(directory)
    return directory, logits_of(network.eval())


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A directory that we have written."""
    model = models.build(
        Transformer(61, 32, 2, 4, 2, 48, "rms", 1e-6, False, True, 1.0, biases=False)
    )
    directory = tmp_path_factory.mktemp("llama")
    interop.save_huggingface(model, model.init(jax.random.key(0)), directory)
    return directory


def test_their_weights_give_their_logits(theirs):
    directory, expected = theirs
    model, params = interop.load_huggingface(directory)
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(model.init, jax.random.key(0)))
    assert jax.tree.map(jnp.shape, params) == shapes
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    np.testing.assert_allclose(model.apply(params, TOKENS), expected, atol=3e-5, rtol=1e-5)


def test_our_weights_open_there_with_the_same_logits(theirs, tmp_path):
    """And come back to us to the bit."""
    model, params = interop.load_huggingface(theirs[0])
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    interop.save_huggingface(model, params, tmp_path)
    network, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ours = model.apply(params, TOKENS)
    np.testing.assert_allclose(ours, logits_of(network.eval()), atol=3e-5, rtol=1e-5)
    again, same = interop.load_huggingface(tmp_path)
    assert again.config == model.config
    jax.tree.map(np.testing.assert_array_equal, same, params)


def test_shards_and_half_precision_are_read(theirs, tmp_path):
    """Several files with an index, in bfloat16, with the masks that old checkpoints hold."""
    tensors = load_file(theirs[0] / "model.safetensors")
    halved = {name: np.asarray(t, jnp.bfloat16) for name, t in tensors.items()}
    halved["gpt_neox.layers.0.attention.masked_bias"] = np.float32([-1e9])
    shards, files = {}, [f"model-0000{i}-of-00003.safetensors" for i in range(3)]
    for i, file in enumerate(files):
        part = dict(list(halved.items())[i::3])
        save_file(part, tmp_path / file)
        shards |= dict.fromkeys(part, file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    (tmp_path / "config.json").write_text((theirs[0] / "config.json").read_text())
    whole, half = (interop.load_huggingface(d)[1] for d in (theirs[0], tmp_path))
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a.astype(jnp.bfloat16).astype(a.dtype), b),
        whole,
        half,
    )


@pytest.mark.parametrize(
    ("old", "field", "value"),
    [
        ({"model_type": "gpt_neox", "rotary_pct": 0.5}, "rotary_fraction", 0.5),
        ({"model_type": "gpt_neox"}, "rotary_fraction", 0.25),
        ({"model_type": "gpt_neox", "rotary_emb_base": 100}, "rotary_theta", 100.0),
        ({"model_type": "llama", "rope_theta": 5e5}, "rotary_theta", 5e5),
        ({"model_type": "llama", "rope_scaling": None}, "rotary_theta", 1e4),
        ({"model_type": "llama", "num_key_value_heads": 4}, "kv_heads", None),
        ({"model_type": "llama", "num_key_value_heads": 2}, "kv_heads", 2),
    ],
)
def test_configs_of_the_old_form(old, field, value, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SIZES | old))
    config = config_of(tmp_path, compute="bfloat16")
    assert getattr(config, field) == value
    assert config.compute == "bfloat16"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "gpt2"}, "model_type = 'gpt2': must be gpt_neox or llama"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu': only 'silu'"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope_scaling of type 'linear'"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "rope_parameters of type 'llama3'"),
        ({"sliding_window": 128}, "sliding_window = 128: only None"),
        ({"attention_bias": True}, "attention_bias and mlp_bias differ"),
        ({"attention_dropout": 0.1}, "attention_dropout = 0.1"),
        ({"head_dim": 16}, "head_dim = 16: only 8"),
        ({"num_attention_heads": 5}, "model.heads = 5: must divide width = 32"),
        ({"vocab_size": None}, "model.vocabulary = None: must be of type int"),
        ({"num_key_value_heads": 3}, "model.kv_heads = 3: must divide heads = 4"),
        ({"intermediate_size": 40}, "'model.layers.0.mlp.down_proj.weight' has the shape (32, 48)"),
        ({"num_hidden_layers": 3}, "has no tensor 'model.layers.2."),
        ({"num_hidden_layers": 1}, "nothing of the tensors model.layers.1."),
    ],
)
def test_what_ours_cannot_be_is_refused_by_file_and_key(change, said, llama, tmp_path):
    content = json.loads((llama / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | change))
    (tmp_path / "model.safetensors").symlink_to(llama / "model.safetensors")
    with pytest.raises(interop.InteropError) as error:
        interop.load_huggingface(tmp_path)
    assert said in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_files_that_are_missing_or_damaged_are_named(llama, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere/config.json is not there"):
        interop.load_huggingface(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(interop.InteropError, match=r"config.json is no JSON"):
        interop.load_huggingface(tmp_path)
    (tmp_path / "config.json").write_text((llama / "config.json").read_text())
    with pytest.raises(FileNotFoundError, match=r"model.safetensors is not there"):
        interop.load_huggingface(tmp_path)
    whole = (llama / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-8])
    with pytest.raises(interop.InteropError, match=r"model.safetensors is damaged"):
        interop.load_huggingface(tmp_path)


@pytest.mark.parametrize(
    "config",
    [CNN(), Transformer(norm="rms"), Transformer(kv_heads=3), Transformer(biases=False)],
)
def test_a_model_that_nobody_else_has_is_not_written(config, tmp_path):
    model = models.build(config)
    with pytest.raises(interop.InteropError, match="no model of Hugging Face's"):
        interop.save_huggingface(model, {}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_replicates_are_not_written_as_one_model(llama, tmp_path):
    model, params = interop.load_huggingface(llama)
    with pytest.raises(interop.InteropError, match=r"\['embedding'\] has the shape \(1, 61, 32\)"):
        interop.save_huggingface(model, jax.tree.map(lambda leaf: leaf[None], params), tmp_path)


def test_reading_a_config_imports_no_jax(llama):
    code = f"from wsdjax.huggingface import config_of; config_of({str(llama)!r})"
    code += "; import sys; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_weights_of_another_model_are_refused_by_field(llama):
    model = config_of(llama, compute="bfloat16", loss_chunk=7)
    check_weights(str(llama), model)
    check_weights(str(llama), dataclasses.replace(model, kv_heads=2))
    with pytest.raises(ConfigError, match=r"model.hidden = 64: .* a model with 48"):
        check_weights(str(llama), dataclasses.replace(model, hidden=64))
    with pytest.raises(ConfigError, match="model is a CNN"):
        check_weights(str(llama), CNN())


@pytest.fixture
def tokens(monkeypatch):
    """A data set of random tokens, in the place of every other."""
    of_tokens = jax.random.randint(jax.random.key(0), (64, 9), 0, 61)

    def examples(arrays, indices):
        return {"inputs": arrays[indices, :-1], "targets": arrays[indices, 1:]}

    split = DeviceSplit(64, of_tokens, examples)
    dataset = data.Dataset(split, split, ())
    monkeypatch.setattr(data, "load", lambda config: dataset)
    return split


def test_a_tree_starts_from_a_directory(llama, tokens, tmp_path):
    """Every replicate from its weights, on batches of its own; afterwards it may be gone."""
    there = tmp_path / "weights"
    shutil.copytree(llama, there)
    config = dataclasses.replace(
        load_config(), model=config_of(there), weights=str(there), tree=plans.cosine(4, 1)
    )
    edges, store = tree.resolve(config), BranchStore(tmp_path / "run")
    trainer = Trainer(store, checkpoint_every=2)
    trainer.check(edges)
    store.register(edges)
    trainer.asked_to_stop = lambda: True
    with pytest.raises(Stopped):
        trainer.train(list(edges))
    model, params = interop.load_huggingface(there)
    stream = data.Stream(tokens, config.batch_size, edges["cosine"].stream_seeds)
    expected = jax.vmap(model.loss, in_axes=(None, 0))(params, stream[0])
    losses = store.metrics("cosine").updates["loss"]
    np.testing.assert_allclose(losses[0], expected, rtol=1e-6)
    assert losses[0, 0] != losses[0, 1]

    shutil.rmtree(there)
    trainer = Trainer(store)
    trainer.check(edges)
    trainer.train(list(edges))
    assert store.is_done("cosine")
    evaluations = store.metrics("cosine").evaluations
    assert evaluations["step"].tolist() == [0, 4], "what is to be improved on stands first"
    assert evaluations["eval_loss"][0, 0] == evaluations["eval_loss"][0, 1]
    root = dataclasses.replace(edges["cosine"], name="another")
    with pytest.raises(FileNotFoundError, match=r"config.json is not there"):
        trainer.check({"another": root})


def test_weights_that_do_not_fit_are_told_before_anything_is_trained(llama, tokens, tmp_path):
    model = dataclasses.replace(config_of(llama), layers=3)
    edges = tree.resolve(dataclasses.replace(load_config(), model=model, weights=str(llama)))
    with pytest.raises(ConfigError, match=r"model.layers = 3: .* a model with 2"):
        Trainer(BranchStore(tmp_path)).check(edges)


def test_our_pythia_is_the_published_one(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(PYTHIA_160M))
    assert config_of(tmp_path) == families.pythia("160M")
