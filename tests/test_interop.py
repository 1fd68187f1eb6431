"""Hugging Face's own models are the reference: the same weights give the same logits."""

import dataclasses
import json
import shutil
import struct
import subprocess
import sys
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers import load_config
from safetensors.numpy import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig

from wsdjax import data, families, interop, models, plans, tree
from wsdjax.branches import BranchStore
from wsdjax.config import CNN, Bigram, Transformer
from wsdjax.data.device import DeviceSplit
from wsdjax.errors import ConfigError
from wsdjax.interop import weights
from wsdjax.interop.foreign_config import config_of
from wsdjax.trainer import Stopped, Trainer, Watch

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
        ({"model_type": "llama", "tie_word_embeddings": True}, "tied", True),
        ({"model_type": "llama", "attention_bias": True, "mlp_bias": True}, "biases", True),
        ({"model_type": "gpt_neox", "layer_norm_eps": 1e-3}, "norm_eps", 1e-3),
        ({"model_type": "gpt_neox", "use_parallel_residual": False}, "parallel_residual", False),
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
        ({"sliding_window": 128}, "sliding_window = 128: only what has none"),
        ({"attention_bias": True}, "attention_bias and mlp_bias differ"),
        ({"attention_dropout": 0.1}, "attention_dropout = 0.1"),
        ({"head_dim": 16}, "head_dim = 16: only 8"),
        ({"wings": 2}, "not known of a llama: wings; delete"),
        ({"layer_norm_eps": 1e-5}, "not known of a llama: layer_norm_eps"),
        ({"auto_map": {"AutoModel": "own.Own"}}, "not known of a llama: auto_map"),
        ({"layer_types": ["full_attention"]}, "not known of a llama: layer_types"),
        ({f"k{i}" * 50: i for i in range(99)}, "and 96 more; delete from it"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassi"),
        ({"architectures": "LlamaForCausalLM"}, "architectures = 'LlamaForCausalLM': must be of"),
        ({"quantization_config": {"bits": list(range(999))}}, "quantization_config = {'bits'"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder = True: only what has none"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps = 1e400 or so: must be a number"),
        (
            {"rope_theta": 10**400, "rope_parameters": None},
            "rope_theta = 1e400 or so",
        ),
        ({"vocab_size": 10**400}, "model.vocabulary = 1e400 or so: must be"),
        ({"num_hidden_layers": 10**9}, "has no tensor 'model.layers.2."),
        ({"tie_word_embeddings": None}, "model.tied = None: must be of type bool"),
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
    message = str(error.value)
    assert said in message
    assert str(tmp_path) in message
    assert len(message) - len(str(tmp_path)) < 300


@pytest.mark.parametrize(
    "config",
    [GPTNeoXConfig(**SIZES), LlamaConfig(**SIZES), GPTNeoXConfig(**SIZES, num_labels=3)],
    ids=["neox", "llama", "labels"],
)
def test_every_key_that_transformers_writes_is_known(config, tmp_path):
    config.to_json_file(tmp_path / "config.json", use_diff=False)
    assert config_of(tmp_path).width == 32


PUBLISHED = [
    {
        "_name_or_path": "",
        "architectures": ["GPTNeoXForCausalLM"],
        "custom_pipelines": {"text-generation": {"impl": "own.Own"}},
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "classifier_dropout": 0.1,
        "eos_token_id": 0,
        "hidden_dropout": 0.0,
        "max_position_embeddings": 2048,
        "model_type": "gpt_neox",
        "rope_scaling": None,
        "rotary_emb_base": 10000,
        "rotary_pct": 0.25,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.34.1",
        "use_cache": True,
        "use_parallel_residual": True,
    },
    {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": [1, 2],
        "head_dim": 8,
        "hidden_act": "silu",
        "is_llama_config": True,
        "max_position_embeddings": 8192,
        "mlp_bias": False,
        "model_type": "llama",
        "num_key_value_heads": 2,
        "pad_token_id": 2,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_interleaved": False,
        "rope_scaling": None,
        "rope_theta": 100000,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.40.1",
        "use_cache": True,
    },
]
"""The keys of a Pythia's and of a small LLaMA's published config.json."""


@pytest.mark.parametrize("content", PUBLISHED, ids=["neox", "llama"])
def test_published_configs_are_read(content, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SIZES | content))
    assert config_of(tmp_path).width == 32


DEFAULT = {"rope_type": "default"}
READ = [
    ("llama", {"rope_scaling": DEFAULT | {"rope_theta": 500.0}}),
    ("llama", {"rope_scaling": {"type": "default"}, "rope_theta": 500}),
    ("llama", {"rope_parameters": DEFAULT | {"rope_theta": 500.0}}),
    ("llama", {"rope_parameters": {}, "rope_theta": 500.0}),
    ("llama", {"rope_parameters": DEFAULT | {"rope_theta": 500.0}, "rope_theta": 500.0}),
    ("llama", {"rope_parameters": DEFAULT | {"rope_theta": 500.0}, "rope_scaling": {}}),
    ("llama", {"partial_rotary_factor": 1.0}),
    ("gpt_neox", {"rope_scaling": DEFAULT | {"partial_rotary_factor": 0.5}}),
    ("gpt_neox", {"rope_scaling": DEFAULT | {"rope_theta": 500.0}}),
    ("gpt_neox", {"rope_parameters": DEFAULT | {"rope_theta": 500.0}, "rotary_pct": 0.5}),
    ("gpt_neox", {"rotary_emb_base": 500, "rope_theta": 500.0, "partial_rotary_factor": 0.25}),
    ("gpt_neox", {"rotary_emb_base": 500, "rotary_pct": 1.0}),
    ("gpt_neox", {"rope_theta": 10_000}),
]


@pytest.mark.parametrize(("family", "rope"), READ)
def test_rotary_positions_are_those_of_transformers(family, rope, tmp_path):
    """Wherever config.json says them, by the logits."""
    both = DEFAULT if rope.get("rope_scaling") == DEFAULT else {}
    sizes = SIZES | {"hidden_size": 64}  # heads of 16: half of them, or a quarter, turns
    content = sizes | {"model_type": family} | rope | both
    (tmp_path / "config.json").write_text(json.dumps(content))
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path)).eval()
    network.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(content))
    model, params = interop.load_huggingface(tmp_path)
    ours = model.apply(params, TOKENS)
    np.testing.assert_allclose(ours, logits_of(network), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "rope", "said"),
    [
        ("llama", {"rope_scaling": DEFAULT | {"rope_theta": 5}, "rope_theta": 7}, "rope_theta = 7"),
        ("llama", {"rotary_emb_base": 500}, "rotary_emb_base = 500, but .* rope_theta by default"),
        ("llama", {"rotary_pct": 0.25}, "rotary_pct = 0.25, but"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5: only 1"),
        ("llama", {"rope_parameters": DEFAULT | {"partial_rotary_factor": 0.5}}, "only 1"),
        ("llama", {"rope_scaling": DEFAULT | {"factor": 2.0}}, "rope_scaling has factor, which"),
        ("llama", {"rope_scaling": DEFAULT | {"type": "linear"}}, "of type 'linear'"),
        ("llama", {"rope_scaling": DEFAULT, "rope_parameters": {"rope_theta": 5}}, "differ"),
        ("llama", {"rope_scaling": "linear"}, "rope_scaling = 'linear': must be an object"),
        ("llama", {"rope_theta": None}, "rope_theta = None: must be a number"),
        ("llama", {"rope_theta": True}, "rope_theta = True: must be a number"),
        ("llama", {"rope_theta": "1e4"}, "rope_theta = '1e4': must be a number"),
        ("llama", {"rope_theta": 0}, "rotary_theta = 0.0: must be > 0"),
        ("gpt_neox", {"rope_theta": 10_000.0, "rotary_emb_base": 500_000}, "rope_theta = 10000"),
        ("gpt_neox", {"rope_theta": 500.0}, "rope_theta = 500, but .* rotary_emb_base by default"),
        ("gpt_neox", {"rotary_pct": 0.5, "partial_rotary_factor": 0.25}, "reads rotary_pct = 0.5"),
        (
            "gpt_neox",
            {"rope_parameters": DEFAULT | {"partial_rotary_factor": 0.5}, "rotary_pct": 0.25},
            "rotary_pct = 0.25, but transformers 5 reads rope_parameters's partial_rotary_factor",
        ),
    ],
)
def test_rotary_positions_that_two_read_differently_are_refused(family, rope, said, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SIZES | {"model_type": family} | rope))
    with pytest.raises(interop.InteropError, match=said):
        config_of(tmp_path)


def changed(source, directory, config=None, **tensors):
    """A copy with other tensors (None deletes one) and other keys of config.json."""
    directory.mkdir(exist_ok=True)
    content = json.loads((source / "config.json").read_text()) | (config or {})
    (directory / "config.json").write_text(json.dumps(content))
    there = load_file(source / "model.safetensors") | tensors
    there = {name: value for name, value in there.items() if value is not None}
    save_file(there, directory / "model.safetensors")
    return directory


@pytest.mark.parametrize("family", ["neox", "llama"])
def test_a_head_of_its_own_under_a_tie_is_refused(family, llama, tmp_path):
    """And read where config.json says so; one that is the embedding's copy is no other."""
    source, head, embed = llama, "lm_head.weight", "model.embed_tokens.weight"
    if family == "neox":
        source, head, embed = tmp_path / "neox", "embed_out.weight", "gpt_neox.embed_in.weight"
        model = models.build(Transformer(61, 32, 2, 4, None, 48))
        interop.save_huggingface(model, model.init(jax.random.key(0)), source)
    tied = {"tie_word_embeddings": True}
    there = changed(source, tmp_path / "own", tied)
    for read in (
        interop.load_huggingface,
        lambda directory: interop.check_weights(directory, config_of(directory)),
    ):
        with pytest.raises(interop.InteropError, match=f"'{head}' is not '{embed}'") as error:
            read(there)
        assert "tie_word_embeddings = false" in str(error.value)
    same = load_file(source / "model.safetensors")[embed]
    twice = interop.load_huggingface(changed(source, tmp_path / "twice", tied, **{head: same}))[1]
    once = interop.load_huggingface(changed(source, tmp_path / "once", tied, **{head: None}))[1]
    assert "head" not in once
    jax.tree.map(np.testing.assert_array_equal, once, twice)
    with pytest.raises(interop.InteropError, match=f"no tensor '{head}'; a tied model's config"):
        interop.load_huggingface(changed(source, tmp_path / "none", **{head: None}))


def raw_safetensors(path, dtype, shape, size):
    """A file of one tensor of zeros, of any dtype."""
    tensor = {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}
    header = json.dumps({"model.norm.weight": tensor}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [
        ("F8_E4M3", 8),
        ("F8_E5M2", 8),
        ("F8_E8M0", 8),
        ("F4", 4),
        ("I8", 8),
        ("U8", 8),
        ("BOOL", 8),
        ("I16", 16),
        ("U16", 16),
        ("I32", 32),
        ("I64", 64),
        ("C64", 64),
    ],
)
def test_a_dtype_that_is_no_weights_is_refused_by_name(dtype, bits, llama, tmp_path):
    tensors = load_file(llama / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, tmp_path / "a.safetensors")
    raw_safetensors(tmp_path / "b.safetensors", dtype, [32], 32 * bits // 8)
    names = dict.fromkeys(tensors, "a.safetensors") | {"model.norm.weight": "b.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    shutil.copy(llama / "config.json", tmp_path)
    said = f"b.safetensors: 'model.norm.weight' is of dtype {dtype}: only F64, F32, F16, BF16"
    with pytest.raises(interop.InteropError, match=said):
        interop.load_huggingface(tmp_path)


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_other_dtypes_of_weights_are_read(dtype, llama, tmp_path):
    tensors = load_file(llama / "model.safetensors")
    there = changed(llama, tmp_path, **{name: t.astype(dtype) for name, t in tensors.items()})
    params = interop.load_huggingface(there)[1]
    expected = tensors["model.norm.weight"].astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(params["final_norm"]["scale"], expected)


@pytest.mark.parametrize("value", [np.float32(np.nan), np.float64(1e300)])
def test_weights_that_are_not_finite_are_refused(value, llama, tmp_path):
    there = changed(llama, tmp_path, **{"model.norm.weight": np.full(32, value)})
    with pytest.raises(interop.InteropError, match=r"'model.norm.weight' holds NaN or infinity"):
        interop.load_huggingface(there)


@pytest.mark.parametrize("before", ["_orig_mod.", "module.", "module._orig_mod.", "model."])
def test_what_stands_before_every_name_is_told(before, llama, tmp_path, caplog):
    tensors = load_file(llama / "model.safetensors")
    shutil.copy(llama / "config.json", tmp_path)
    save_file({before + name: t for name, t in tensors.items()}, tmp_path / "model.safetensors")
    expected, params = (interop.load_huggingface(there)[1] for there in (llama, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert f"read without '{before}', which every name begins with" in caplog.text


def test_what_stands_before_some_names_is_refused(llama, tmp_path):
    tensors = load_file(llama / "model.safetensors")
    shutil.copy(llama / "config.json", tmp_path)
    named = {"a." + n if "embed" in n else n: t for n, t in tensors.items()}
    save_file(named, tmp_path / "model.safetensors")
    with pytest.raises(interop.InteropError, match=r"begins with 'a.' and .* and \d+ more not"):
        interop.load_huggingface(tmp_path)


def test_a_model_saved_without_its_head(llama, tmp_path):
    """A tied one is whole; another lacks its head."""
    tensors = load_file(llama / "model.safetensors")
    bare = {name.removeprefix("model."): t for name, t in tensors.items() if "head" not in name}
    changed(llama, tmp_path, {"tie_word_embeddings": True}, **{"lm_head.weight": None})
    expected = interop.load_huggingface(tmp_path)[1]
    save_file(bare, tmp_path / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, interop.load_huggingface(tmp_path)[1], expected)
    changed(llama, tmp_path, {"tie_word_embeddings": False})
    save_file(bare, tmp_path / "model.safetensors")
    with pytest.raises(interop.InteropError, match=r"has no tensor 'lm_head.weight'"):
        interop.load_huggingface(tmp_path)


def test_a_neox_whose_head_has_the_name_that_transformers_gives_it_in_memory(tmp_path):
    model = models.build(Transformer(61, 32, 2, 4, None, 48))
    params = model.init(jax.random.key(0))
    interop.save_huggingface(model, params, tmp_path / "a")
    head = load_file(tmp_path / "a" / "model.safetensors")["embed_out.weight"]
    renamed = {"embed_out.weight": None, "lm_head.weight": head}
    there = changed(tmp_path / "a", tmp_path / "b", **renamed)
    jax.tree.map(np.testing.assert_array_equal, interop.load_huggingface(there)[1], params)


def test_frequencies_in_a_checkpoint_are_those_of_its_config(llama, tmp_path):
    """inv_freq, which older checkpoints hold: of another theta, config.json is another model's."""
    name, own = "model.layers.0.self_attn.rotary_emb.inv_freq", 1e4 ** -(np.arange(4) / 4)
    there = changed(llama, tmp_path, **{name: own.astype(np.float16)})
    expected, params = (interop.load_huggingface(directory)[1] for directory in (llama, there))
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    changed(llama, tmp_path, **{name: 5e5 ** -(np.arange(4) / 4)})
    with pytest.raises(interop.InteropError, match=r"not the frequencies of config.json's theta"):
        interop.load_huggingface(tmp_path)


def test_tensors_too_many_are_refused(llama, tmp_path):
    for name in ("model.layers.2.mlp.up_proj.weight", "score.weight", "a.attention.bias"):
        there = changed(llama, tmp_path, **{name: np.ones(3, np.float32)})
        with pytest.raises(interop.InteropError, match=f"nothing of the tensors {name}"):
            interop.load_huggingface(there)


def in_shards(source, directory):
    """Two shards of a directory, and the map of its index."""
    shutil.copy(source / "config.json", directory)
    tensors = load_file(source / "model.safetensors")
    names = {}
    for i, file in enumerate(("one.safetensors", "two.safetensors")):
        part = dict(list(tensors.items())[i::2])
        save_file(part, directory / file)
        names |= dict.fromkeys(part, file)
    return names


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ("", "index.json: holds nothing"),
        ("[]", "index.json: holds a list in place of an object"),
        ("{}", "index.json: has no weight_map"),
        ('{"weight_map": {}}', "index.json: has no weight_map"),
        ('{"weight_map": ["one.safetensors"]}', "index.json: has no weight_map"),
        ({"lm_head.weight": 7}, "'lm_head.weight' is in no file of its directory: 7"),
        ({"lm_head.weight": "../one.safetensors"}, "is in no file of its directory: '../one"),
        ({"lm_head.weight": "three.safetensors"}, "three.safetensors is not there"),
        ({"score.weight": "one.safetensors"}, "'score.weight' is not in one.safetensors"),
    ],
)
def test_a_damaged_index_is_named(index, said, llama, tmp_path):
    names = in_shards(llama, tmp_path)
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": names}))
    expected, params = (interop.load_huggingface(there)[1] for there in (llama, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    content = index if isinstance(index, str) else json.dumps({"weight_map": names | index})
    path.write_text(content)
    with pytest.raises((interop.InteropError, FileNotFoundError), match=said):
        interop.load_huggingface(tmp_path)


def test_a_tensor_in_two_shards_is_refused(llama, tmp_path):
    names = in_shards(llama, tmp_path)
    tensors = load_file(tmp_path / "two.safetensors")
    one = load_file(tmp_path / "one.safetensors")
    twice = next(iter(one))
    save_file(tensors | {twice: one[twice] + 1}, tmp_path / "two.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    said = f"'{twice}' is in one.safetensors and in two.safetensors"
    with pytest.raises(interop.InteropError, match=said):
        interop.load_huggingface(tmp_path)


def test_parameters_are_written_by_their_paths(llama, tmp_path):
    """In whatever order a tree holds them."""
    model, params = interop.load_huggingface(llama)

    def reversed_order(tree):
        if not isinstance(tree, dict):
            return tree
        return OrderedDict((key, reversed_order(tree[key])) for key in reversed(sorted(tree)))

    interop.save_huggingface(model, reversed_order(params), tmp_path)
    written, expected = (load_file(d / "model.safetensors") for d in (tmp_path, llama))
    assert sorted(written) == sorted(expected)
    for name in written:
        np.testing.assert_array_equal(written[name], expected[name])


def test_a_write_that_is_cut_short_leaves_no_other_model(llama, tmp_path, monkeypatch):
    """Neither new weights under an old config nor half a file."""
    there = changed(llama, tmp_path / "there")
    before = (there / "model.safetensors").read_bytes()
    model, params = interop.load_huggingface(there)

    def full(tensors, path, metadata):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "save_file", full)
    with pytest.raises(OSError, match=r"No space left on device: .*/model.safetensors"):
        interop.save_huggingface(model, params, there)
    assert [path.name for path in there.iterdir()] == ["model.safetensors"]
    assert (there / "model.safetensors").read_bytes() == before


def test_files_that_are_missing_or_damaged_are_named(llama, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere/config.json is not there"):
        interop.load_huggingface(tmp_path / "nowhere")
    for content, said in [
        ("{", "config.json, line 1: no JSON"),
        ("", "config.json: holds nothing"),
        ("null", "config.json: holds null in place of an object"),
        ("[" * 100_000, "config.json: no JSON that can be held"),
    ]:
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(interop.InteropError, match=said):
            interop.load_huggingface(tmp_path)
    (tmp_path / "config.json").write_text((llama / "config.json").read_text())
    with pytest.raises(FileNotFoundError, match=r"model.safetensors is not there"):
        interop.load_huggingface(tmp_path)
    whole = (llama / "model.safetensors").read_bytes()
    for content in (whole[:-8], whole[:100], b"", b"\0" * 1_000, whole + b"more"):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(interop.InteropError, match=r"model.safetensors is damaged"):
            interop.load_huggingface(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(interop.InteropError, match=r"model.safetensors is damaged"):
        interop.load_huggingface(tmp_path)


def test_a_mark_of_byte_order_is_no_fault(llama, tmp_path):
    marked = b"\xef\xbb\xbf" + (llama / "config.json").read_bytes()
    (tmp_path / "config.json").write_bytes(marked)
    assert config_of(tmp_path) == config_of(llama)


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
    code = f"from wsdjax.interop.foreign_config import config_of; config_of({str(llama)!r})"
    code += "; import sys; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_weights_of_another_model_are_refused_by_field(llama):
    model = config_of(llama, compute="bfloat16", loss_chunk=7)
    interop.check_weights(llama, model)
    interop.check_weights(llama, dataclasses.replace(model, kv_heads=2))
    with pytest.raises(ConfigError, match=r"model.hidden = 64: .* a model with 48"):
        interop.check_weights(llama, dataclasses.replace(model, hidden=64))
    with pytest.raises(ConfigError, match="model is a CNN"):
        interop.check_weights(llama, CNN())


@pytest.fixture
def tokens(monkeypatch):
    """A data set of random tokens, in the place of every other."""
    of_tokens = jax.random.randint(jax.random.key(0), (64, 9), 0, 61)

    def examples(arrays, indices):
        return {"inputs": arrays[indices, :-1], "targets": arrays[indices, 1:]}

    split = DeviceSplit(64, of_tokens, examples)
    dataset = data.Dataset(split, split)
    monkeypatch.setattr(data, "load", lambda config: dataset)
    return split


def test_a_tree_starts_from_a_directory(llama, tokens, tmp_path):
    """Every replicate from its weights, on batches of its own; afterwards it may be gone."""
    there = tmp_path / "weights"
    shutil.copytree(llama, there)
    config = dataclasses.replace(
        load_config(),
        model=config_of(there),
        data=Bigram(vocabulary=61),
        weights=str(there),
        tree=plans.cosine(4, 1),
    )
    branches, store = tree.resolve(config), BranchStore(tmp_path / "run")
    trainer = Trainer(store, Watch(checkpoint_every=2))
    trainer.check(branches)
    store.register(branches)
    trainer.asked_to_stop = lambda: True
    with pytest.raises(Stopped):
        trainer.train(list(branches))
    model, params = interop.load_huggingface(there)
    stream = data.Stream(tokens, config.batch_size, branches["cosine"].stream_seeds)
    expected = jax.vmap(model.loss, in_axes=(None, 0))(params, stream[0])
    losses = store.metrics("cosine").updates["loss"]
    np.testing.assert_allclose(losses[0], expected, rtol=1e-6)
    assert losses[0, 0] != losses[0, 1]

    shutil.rmtree(there)
    trainer = Trainer(store)
    trainer.check(branches)
    trainer.train(list(branches))
    assert store.is_done("cosine")
    evaluations = store.metrics("cosine").evaluations
    assert evaluations["step"].tolist() == [0, 4], "what is to be improved on stands first"
    assert evaluations["eval_loss"][0, 0] == evaluations["eval_loss"][0, 1]
    root = dataclasses.replace(branches["cosine"], name="another")
    with pytest.raises(FileNotFoundError, match=r"config.json is not there"):
        trainer.check({"another": root})


def test_weights_that_do_not_fit_are_told_before_anything_is_trained(llama, tokens, tmp_path):
    model = dataclasses.replace(config_of(llama), layers=3)
    config = dataclasses.replace(
        load_config(), model=model, data=Bigram(vocabulary=61), weights=str(llama)
    )
    branches = tree.resolve(config)
    with pytest.raises(ConfigError, match=r"model.layers = 3: .* a model with 2"):
        Trainer(BranchStore(tmp_path)).check(branches)


def test_our_pythia_is_the_published_one(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(PYTHIA_160M))
    assert config_of(tmp_path) == families.pythia("160M")
