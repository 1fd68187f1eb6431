"""The `config.json` of a Hugging Face model as a `Transformer`, and back.

GPT-NeoX and LLaMA, in the old form with `rotary_pct` and `rope_theta` and in the new one with
`rope_parameters`, as transformers 5 reads them. What they have and our transformer has not is
refused, and a key is read, known to change nothing (`HARMLESS`), or refused: never ignored.
This imports no JAX, so that config files may use `config_of`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from wsdjax import files
from wsdjax.config.models import Transformer
from wsdjax.config.validation import check
from wsdjax.errors import ConfigError, UserError
from wsdjax.interop.keys import FAMILIES, HARMLESS, KEYS, OFF, ROTARY
from wsdjax.wording import listed, shown


class InteropError(UserError, ValueError):
    """A model that one side has and the other has not; the message names the file."""


def config_of(directory: str | Path, **changes: Any) -> Transformer:
    """The model of a Hugging Face directory, with fields changed: ``compute="bfloat16"``.

    Raises:
      FileNotFoundError: if it has no config.json.
      InteropError: for a model that ours cannot be, naming the key of config.json.
    """
    path = Path(directory) / "config.json"
    content = {"tie_word_embeddings": False, **read_json(path)}
    take = content.pop
    family = take("model_type", None)
    if family not in list(FAMILIES):
        allowed = " or ".join(FAMILIES)
        raise InteropError(f"{path}: model_type = {shown(family, 60)}: must be {allowed}")
    if missing := [key for key in KEYS.values() if key not in content]:
        raise InteropError(f"{path}: has no {listed(missing)}")
    of = FAMILIES[family]
    classes = take("architectures", None) or []
    if not isinstance(classes, list) or [c for c in classes if c not in of.classes]:
        allowed = ", ".join(of.classes)
        raise InteropError(f"{path}: architectures = {shown(classes, 60)}: must be of {allowed}")
    for key in OFF:
        if value := take(key, None):
            raise InteropError(
                f"{path}: {key} = {shown(value, 60)}: only what has none can be read"
            )
    for key, only in of.only.items():
        if (value := take(key, only)) != only:
            raise InteropError(f"{path}: {key} = {shown(value, 60)}: only {only!r} can be read")
    fields = _rotary(path, content, family) | {field: take(key) for field, key in KEYS.items()}
    fields |= {field: take(key, getattr(of.like, field)) for field, key in of.keys.items()}
    fields["norm_eps"] = _number(path, of.keys["norm_eps"], fields["norm_eps"])
    if fields.get("kv_heads") == fields["heads"]:
        fields["kv_heads"] = None
    if "biases" in fields and take("mlp_bias", False) != fields["biases"]:
        raise InteropError(f"{path}: attention_bias and mlp_bias differ: only as one are read")
    head_dim = take("head_dim", None)
    if strange := [key for key in content if key not in HARMLESS]:
        raise InteropError(
            f"{path}: not known of a {family}: {listed(strange, 3)}; delete from it what changes "
            "nothing of the model: what does cannot be read"
        )
    model = dataclasses.replace(of.like, **fields | changes)
    try:
        check(f"{path}: model", model, Transformer)
    except ConfigError as error:
        raise InteropError(error) from None
    size = model.width // model.heads
    if head_dim not in (None, size):
        raise InteropError(f"{path}: head_dim = {shown(head_dim, 60)}: only {size} can be read")
    return model


def _rotary(path: Path, content: dict[str, Any], family: str) -> dict[str, Any]:
    """The fields of rotary positions, where transformers 5 reads them; nothing beside may differ.

    It takes what `rope_scaling` has or, if that is empty, `rope_parameters`; then the family's own
    key. Earlier ones read other keys, so that a file in which two differ is two models.
    """
    places = {}
    for key in ("rope_scaling", "rope_parameters"):
        if said := content.pop(key, None):
            if not isinstance(said, dict):
                raise InteropError(f"{path}: {key} = {shown(said, 60)}: must be an object")
            for name in ("rope_type", "type"):
                if (kind := said.get(name, "default")) != "default":
                    kind = shown(kind, 60)
                    raise InteropError(f"{path}: {key} of type {kind}: only 'default' can be read")
            known = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
            if strange := sorted(set(said) - known):
                raise InteropError(f"{path}: {key} has {listed(strange, 3)}, which cannot be read")
            places[key] = said
    if len(places) == 2 and places["rope_scaling"] != places["rope_parameters"]:
        raise InteropError(f"{path}: rope_scaling and rope_parameters differ: one must go")
    fields = {}
    for field, (name, neox_key) in ROTARY.items():
        own, foreign = (neox_key, name) if family == "gpt_neox" else (name, neox_key)
        said = [(f"{key}'s {name}", rope[name]) for key, rope in places.items() if name in rope]
        if own in content:
            said.append((own, content.pop(own)))
        said = said or [(f"{own} by default", getattr(FAMILIES[family].like, field))]
        if (other := content.pop(foreign, None)) is not None:
            said.append((foreign, other))
        (where, value), *others = ((at, _number(path, at, number)) for at, number in said)
        for at, differing in others:
            if differing != value:
                raise InteropError(
                    f"{path}: {at} = {differing:g}, but transformers 5 reads {where} = {value:g}: "
                    "one of them is wrong"
                )
        fields[field] = value
    if family == "llama" and (fraction := fields["rotary_fraction"]) != 1:
        raise InteropError(f"{path}: partial_rotary_factor = {fraction}: only 1 can be read")
    return fields


def _number(path: Path, key: str, value: Any) -> float:
    try:
        if not isinstance(value, bool | str):
            return float(value)
    except (TypeError, OverflowError):
        pass
    raise InteropError(f"{path}: {key} = {shown(value, 60)}: must be a number")


def config_json(model: Any, context: int) -> dict[str, Any]:
    """The content of `config.json` for a `Transformer`, in the old form and in the new."""
    family = family_of(model)
    of = FAMILIES[family]
    told = {key: getattr(model, field) for field, key in (KEYS | of.keys).items()}
    rope = {"rope_type": "default", "rope_theta": model.rotary_theta}
    if family == "gpt_neox":
        rope["partial_rotary_factor"] = model.rotary_fraction
        told |= {"rotary_pct": model.rotary_fraction, "rotary_emb_base": model.rotary_theta}
    else:
        heads = model.kv_heads or model.heads
        told |= {"num_key_value_heads": heads, "mlp_bias": model.biases}
    return {
        "model_type": family,
        "architectures": [of.classes[0]],
        "hidden_act": of.only["hidden_act"],
        **told,
        "max_position_embeddings": context,
        "initializer_range": 0.02,
        "torch_dtype": "float32",
        "bos_token_id": None,  # the tokenizer's to say
        "eos_token_id": None,
        "rope_theta": model.rotary_theta,
        "rope_parameters": rope,
    }


def family_of(model: Any) -> str:
    """The family that has this model, "gpt_neox" or "llama"."""
    if not isinstance(model, Transformer):
        raise InteropError(f"a {type(model).__name__} is no model of Hugging Face's")
    if model.kv_heads == model.heads:
        model = dataclasses.replace(model, kv_heads=None)
    said = []
    for name, of in FAMILIES.items():
        differing = [f for f in of.fixed if getattr(model, f) != getattr(of.like, f)]
        if not differing:
            return name
        only = ", ".join(f"{f}={getattr(of.like, f)!r}" for f in differing)
        said.append(f"a {name} has {only}")
    raise InteropError(f"no model of Hugging Face's: {'; '.join(said)}")


def read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: give a directory of Hugging Face's format")
    try:
        return files.read_json(path, "fetch it again")
    except files.DamagedFile as error:
        raise InteropError(error) from None
