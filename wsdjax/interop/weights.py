"""Weights from and to Hugging Face's directories of safetensors, without PyTorch.

A parameter of ours and its tensor there differ in names, in the transpose of matrices, and in
that our layers are stacked; GPT-NeoX has queries, keys and values in one tensor,
[heads, 3, head_dim, width]. Rotary positions are theirs already (`wsdjax.models.transformer`).
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from wsdjax import models
from wsdjax.config.models import Transformer
from wsdjax.errors import ConfigError
from wsdjax.files import replacing, write_atomically
from wsdjax.interop.foreign_config import InteropError, config_json, config_of, family_of
from wsdjax.interop.tensors import Tensor, aligned, find
from wsdjax.wording import listed

_COMPUTED = ("compute", "attention", "remat", "loss_chunk")
"""Fields that tell how a model is computed and not what it is."""
_FUSED = ("query", "key", "value")
_NAMES = {
    "embed": ("gpt_neox.embed_in", "model.embed_tokens"),
    "layers.attention_norm": ("input_layernorm", "input_layernorm"),
    "layers.attention.query": ("attention.query_key_value", "self_attn.q_proj"),
    "layers.attention.key": ("attention.query_key_value", "self_attn.k_proj"),
    "layers.attention.value": ("attention.query_key_value", "self_attn.v_proj"),
    "layers.attention.out": ("attention.dense", "self_attn.o_proj"),
    "layers.mlp_norm": ("post_attention_layernorm", "post_attention_layernorm"),
    "layers.mlp.gate": ("", "mlp.gate_proj"),
    "layers.mlp.up": ("mlp.dense_h_to_4h", "mlp.up_proj"),
    "layers.mlp.down": ("mlp.dense_4h_to_h", "mlp.down_proj"),
    "final_norm": ("gpt_neox.final_layer_norm", "model.norm"),
    "head": ("embed_out", "lm_head"),
}
"""Our modules in a GPT-NeoX and in a LLaMA; those of a layer by their names in it."""
_MASKS = re.compile(r"gpt_neox\.layers\.\d+\.attention\.(masked_)?bias")
_FREQUENCIES = re.compile(r"(gpt_neox|model)\.(layers\.\d+\.\w+\.)?rotary_emb\.inv_freq")
"""Tensors that older checkpoints hold too, and that follow from config.json."""


def load_huggingface(directory: str | Path) -> tuple[models.Model, models.Params]:
    """The model of a GPT-NeoX or LLaMA directory, and its parameters in float32.

    `directory` has `config.json` and `model.safetensors`, whole or in shards with an index.
    While it is read, one stacked leaf is in memory beside the parameters.

    Raises:
      FileNotFoundError: for a file that is not there.
      InteropError: for a model that ours cannot be, or tensors that are not all of its
        parameters, each once and finite, and nothing else. It names the file.
    """
    model = models.build(config_of(directory))
    tensors = _checked(Path(directory), model)

    def read(path, leaf):
        place = _Place.of(path, model.config)
        whole = np.empty(leaf.shape, np.float32)
        for i, part in enumerate(whole if place.stacked else [whole]):
            part[...] = place.ours(tensors[place.name.format(i)].read())
        return jnp.asarray(whole)

    return model, jax.tree.map_with_path(read, _shapes(model))


def check_weights(directory: str | Path, model: Any) -> None:
    """Checks that a directory's weights are those of the model of this config, by its files'
    headers; a ConfigError names the first field in which they differ."""
    there = config_of(directory)
    if not isinstance(model, Transformer):
        raise ConfigError(f"weights = {str(directory)!r}: model is a {type(model).__name__}")
    for field in (f.name for f in dataclasses.fields(model) if f.name not in _COMPUTED):
        a, b = (getattr(each, field) for each in (there, model))
        if field == "kv_heads":
            a, b = a or there.heads, b or model.heads
        if a != b:
            raise ConfigError(
                f"model.{field} = {b!r}: the weights in {directory} are of a model with {a!r}; "
                "wsdjax.interop.foreign_config.config_of reads it"
            )
    _checked(Path(directory), models.build(model))


def save_huggingface(
    model: models.Model, params: models.Params, directory: str | Path, context: int = 2_048
) -> None:
    """Writes `config.json` and `model.safetensors`, which transformers opens; a tokenizer.json is
    the caller's to copy beside them.

    The model is a GPT-NeoX or a LLaMA, its parameters are of one replicate, as `model.init` gives
    them. `context` is max_position_embeddings; rotary positions have no maximum.
    """
    content = config_json(model.config, context)
    _check_shapes(_shapes(model), params)
    tensors: dict[str, np.ndarray] = {}

    def write(path, leaf):
        place = _Place.of(path, model.config)
        for i, value in enumerate(leaf if place.stacked else [leaf]):
            place.put(tensors, place.name.format(i), np.asarray(value, np.float32))

    jax.tree.map_with_path(write, params)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    # New weights under an old config would be another model, if we are killed between the two.
    (directory / "config.json").unlink(missing_ok=True)
    with replacing(directory / "model.safetensors") as file:
        save_file(tensors, file.name, {"format": "pt"})
    write_atomically(directory / "config.json", json.dumps(content, indent=2) + "\n")


@dataclass(frozen=True)
class _Place:
    """Where a parameter of ours is in a checkpoint, and in which form."""

    name: str
    """The name of its tensor, with {} for the number of the layer."""
    stacked: bool
    matrix: bool
    """Theirs is out x in, ours in x out."""
    heads: int
    parts: int
    """Of heads and of what a tensor fuses, queries, keys and values: its rows are [heads, parts,
    ...]; 1 and 1 of another."""
    part: int

    @classmethod
    def of(cls, path: jax.tree_util.KeyPath, config: Transformer) -> _Place:
        *modules, kind = (key.key for key in path)
        name = _name(".".join(modules), config)
        fused = name.endswith("query_key_value")
        return cls(
            f"{name}.{'bias' if kind == 'bias' else 'weight'}",
            stacked=modules[0] == "layers",
            matrix=kind == "kernel",
            heads=config.heads if fused else 1,
            parts=3 if fused else 1,
            part=_FUSED.index(modules[-1]) if fused else 0,
        )

    def shape(self, leaf: jax.ShapeDtypeStruct) -> tuple[int, ...]:
        """The shape of the tensor, for the leaf's own."""
        shape = leaf.shape[1:] if self.stacked else leaf.shape
        first, *rest = shape[::-1] if self.matrix else shape
        return (self.parts * first, *rest)

    def ours(self, tensor: np.ndarray) -> np.ndarray:
        rows = self._by_head(tensor)[:, self.part].reshape(-1, *tensor.shape[1:])
        return rows.T if self.matrix else rows

    def put(self, tensors: dict[str, np.ndarray], name: str, value: np.ndarray) -> None:
        """Adds our `value` to `tensors`, in their form."""
        value = value.T if self.matrix else value
        first, *rest = value.shape
        whole = tensors.setdefault(name, np.empty((self.parts * first, *rest), np.float32))
        self._by_head(whole)[:, self.part] = value.reshape(self.heads, -1, *rest)

    def _by_head(self, tensor: np.ndarray) -> np.ndarray:
        return tensor.reshape(self.heads, self.parts, -1, *tensor.shape[1:])


def _name(ours: str, config: Transformer) -> str:
    """Their name of a module of ours, with {} for the number of the layer."""
    neox = family_of(config) == "gpt_neox"
    name = _NAMES[ours][0 if neox else 1]
    if not ours.startswith("layers."):
        return name
    return f"{'gpt_neox' if neox else 'model'}.layers.{{}}.{name}"


def _checked(directory: Path, model: models.Model) -> dict[str, Tensor]:
    """The tensors that are this model's parameters, and no others."""
    config = model.config
    embed, head = (f"{_name(ours, config)}.weight" for ours in ("embed", "head"))
    listing, there = find(directory)
    there = aligned(listing, there, embed, embed.split(".")[0] + ".")
    if head not in there and "lm_head.weight" in there:
        # As transformers 5 has a GPT-NeoX's in memory.
        there[head] = there.pop("lm_head.weight")
    found: dict[str, Tensor] = {}
    for path, leaf in jax.tree.leaves_with_path(_shapes(model)):
        place = _Place.of(path, config)
        for i in range(len(leaf) if place.stacked else 1):
            name = place.name.format(i)
            if name not in there:
                tied = "; a tied model's config.json says tie_word_embeddings" * (name == head)
                raise InteropError(
                    f"{listing}: has no tensor {name!r}{tied}; it has {listed(there, 3)}"
                )
            there[name].check(place.shape(leaf))
            found[name] = there[name]
    left = {name: tensor for name, tensor in there.items() if name not in found}
    if config.tied and (again := left.pop(head, None)):  # some checkpoints hold it twice
        again.check((config.vocabulary, config.width))
        if not np.array_equal(again.read(), found[embed].read()):
            raise InteropError(
                f"{listing}: {head!r} is not {embed!r}, to which config.json ties it: with "
                "tie_word_embeddings = false it is read as a head of its own"
            )
    for name in filter(_FREQUENCIES.fullmatch, list(left)):
        _check_frequencies(listing, name, left.pop(name), config)
    if unknown := sorted(name for name in left if not _MASKS.fullmatch(name)):
        raise InteropError(
            f"{listing}: config.json tells nothing of the tensors {listed(unknown, 3)}"
        )
    return found


def _check_frequencies(listing: Path, name: str, tensor: Tensor, config: Transformer) -> None:
    rotated = int(config.width // config.heads * config.rotary_fraction)
    expected = config.rotary_theta ** -(np.arange(0, rotated, 2) / rotated)
    tensor.check(expected.shape)
    # They may have been saved in half precision.
    if not np.allclose(tensor.read(), expected, rtol=1e-2, atol=1e-6):
        raise InteropError(
            f"{listing}: {name!r} are not the frequencies of config.json's theta = "
            f"{config.rotary_theta:g}: one of the two is another model's"
        )


def _shapes(model: models.Model) -> models.Params:
    return jax.eval_shape(model.init, jax.random.key(0))


def _check_shapes(expected: models.Params, params: models.Params) -> None:
    there, given = (
        {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(tree)}
        for tree in (expected, params)
    )
    for path in there | given:
        if there.get(path) != given.get(path):
            raise InteropError(
                f"params{path} has the shape {given.get(path)}, the model's has {there.get(path)}; "
                "of a state's replicates wsdjax.training.state.replicate takes one"
            )
