"""What the `config.json` of a Hugging Face model says, as a `Transformer`, and back.

GPT-NeoX and LLaMA, in the old form with `rotary_pct` and `rope_theta` and in the new one with
`rope_parameters`. What they have and our transformer has not is refused, and never ignored.
This imports no JAX, so that config files may use `config_of`.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from wsdjax.model_config import Transformer, validate_model
from wsdjax.validation import ConfigError, UserError

_MISSING = object()
_ONLY: dict[str, dict[str, Any]] = {
    "gpt_neox": {"hidden_act": "gelu", "attention_bias": True, "hidden_dropout": 0},
    "llama": {"hidden_act": "silu", "pretraining_tp": 1},
    "both": {"attention_dropout": 0, "sliding_window": None, "quantization_config": None},
}
"""The one value that each of these keys may have, where it is there."""
_COMPUTED = ("compute", "attention", "remat", "loss_chunk")
"""Fields that tell how a model is computed and not what it is."""


class InteropError(UserError, ValueError):
    """A model that one side has and the other has not; the message names the file."""


def config_of(directory: str | Path, **changes: Any) -> Transformer:
    """The model of a Hugging Face directory, with fields changed: ``compute="bfloat16"``.

    Raises:
      FileNotFoundError: if it has no config.json.
      InteropError: for a model that ours cannot be, naming the key of config.json.
    """
    path = Path(directory) / "config.json"
    content = read_json(path)
    family = content.get("model_type")
    if family not in ("gpt_neox", "llama"):
        raise InteropError(f"{path}: model_type = {family!r}: must be gpt_neox or llama")
    for key, only in (_ONLY[family] | _ONLY["both"]).items():
        if content.get(key, only) != only:
            raise InteropError(f"{path}: {key} = {content[key]!r}: only {only!r} can be read")

    def get(key: str, default: Any = _MISSING) -> Any:
        value = content.get(key, default)
        if value is _MISSING:
            raise InteropError(f"{path}: has no {key!r}")
        return value

    fraction, theta = _rotary(path, content)
    model = Transformer(
        vocabulary=get("vocab_size"),
        width=get("hidden_size"),
        layers=get("num_hidden_layers"),
        heads=get("num_attention_heads"),
        hidden=get("intermediate_size"),
        rotary_fraction=fraction,
        rotary_theta=theta,
        tied=get("tie_word_embeddings", False),
    )
    if family == "gpt_neox":
        model.norm_eps = get("layer_norm_eps", 1e-5)
        model.parallel_residual = get("use_parallel_residual", True)
    else:
        model.norm, model.norm_eps = "rms", get("rms_norm_eps", 1e-6)
        model.parallel_residual, model.gated = False, True
        model.biases = get("attention_bias", False)
        if get("mlp_bias", False) != model.biases:
            raise InteropError(f"{path}: attention_bias and mlp_bias differ: only as one are read")
        model.kv_heads = get("num_key_value_heads", None)
        if model.kv_heads == model.heads:
            model.kv_heads = None
    model = dataclasses.replace(model, **changes)
    try:
        validate_model(f"{path}: model", model)
    except ConfigError as error:
        raise InteropError(error) from None
    size = model.width // model.heads
    if get("head_dim", None) not in (None, size):
        raise InteropError(f"{path}: head_dim = {content['head_dim']}: only {size} can be read")
    return model


def _rotary(path: Path, content: dict[str, Any]) -> tuple[float, float]:
    """(fraction, theta)."""
    new = content.get("rope_parameters") or {}
    for key in ("rope_parameters", "rope_scaling"):
        said = content.get(key) or {}
        kind = said.get("rope_type", said.get("type", "default"))
        if kind != "default":
            raise InteropError(f"{path}: {key} of type {kind!r}: only 'default' can be read")
    neox = content["model_type"] == "gpt_neox"
    old = content.get("rotary_pct", 0.25) if neox else content.get("partial_rotary_factor", 1.0)
    fraction = new.get("partial_rotary_factor", old)
    if not neox and fraction != 1:
        raise InteropError(f"{path}: partial_rotary_factor = {fraction}: only 1 can be read")
    old_theta = content.get("rope_theta", content.get("rotary_emb_base", 10_000.0))
    return float(fraction), float(new.get("rope_theta", old_theta))


def config_json(model: Any, context: int) -> dict[str, Any]:
    """The content of `config.json` for a `Transformer`, in the old form and in the new.

    Raises:
      InteropError: for a model that is neither a GPT-NeoX nor a LLaMA.
    """
    if not isinstance(model, Transformer):
        raise InteropError(f"a {type(model).__name__} is no model of Hugging Face's: {model!r}")
    rope = {"rope_type": "default", "rope_theta": model.rotary_theta}
    both = {
        "vocab_size": model.vocabulary,
        "hidden_size": model.width,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "intermediate_size": model.hidden,
        "max_position_embeddings": context,
        "initializer_range": 0.02,
        "tie_word_embeddings": model.tied,
        "torch_dtype": "float32",
        "bos_token_id": None,  # the tokenizer's to say
        "eos_token_id": None,
        "rope_theta": model.rotary_theta,
        "rope_parameters": rope,
    }
    if is_neox(model):
        return both | {
            "model_type": "gpt_neox",
            "architectures": ["GPTNeoXForCausalLM"],
            "hidden_act": "gelu",
            "layer_norm_eps": model.norm_eps,
            "use_parallel_residual": model.parallel_residual,
            "rotary_pct": model.rotary_fraction,
            "rotary_emb_base": model.rotary_theta,
            "rope_parameters": rope | {"partial_rotary_factor": model.rotary_fraction},
        }
    llamas = (model.norm, model.gated, model.parallel_residual, model.rotary_fraction)
    if llamas == ("rms", True, False, 1):
        return both | {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "hidden_act": "silu",
            "rms_norm_eps": model.norm_eps,
            "num_key_value_heads": model.kv_heads or model.heads,
            "attention_bias": model.biases,
            "mlp_bias": model.biases,
        }
    raise InteropError(
        "no model of Hugging Face's: a GPT-NeoX has norm='layer', biases and as many kv_heads as "
        "heads and is not gated; a LLaMA has norm='rms', is gated, without parallel_residual, "
        f"and rotates whole heads. This is {model!r}"
    )


def is_neox(model: Transformer) -> bool:
    """Whether GPT-NeoX has this model; a LLaMA it is never."""
    ungrouped = (model.kv_heads or model.heads) == model.heads
    return model.norm == "layer" and model.biases and not model.gated and ungrouped


def check_weights(directory: str, model: Any) -> None:
    """Checks that a directory's weights are those of this model.

    Raises:
      ConfigError: naming the first field in which the two differ.
    """
    there = config_of(directory)
    if not isinstance(model, Transformer):
        raise ConfigError(f"weights = {directory!r}: model is a {type(model).__name__}")
    for field in (f.name for f in dataclasses.fields(model) if f.name not in _COMPUTED):
        a, b = (getattr(each, field) for each in (there, model))
        if field == "kv_heads":
            a, b = a or there.heads, b or model.heads
        if a != b:
            raise ConfigError(
                f"model.{field} = {b!r}: the weights in {directory} are of a model with {a!r}; "
                "wsdjax.huggingface.config_of reads it"
            )


def read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: give a directory of Hugging Face's format")
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise InteropError(f"{path} is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise InteropError(f"{path} holds no JSON object")
    return content
