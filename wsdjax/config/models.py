"""The models that an experiment may name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

from wsdjax.config.kinds import ModelConfig, kind
from wsdjax.config.validation import SIZE, choice, count, number
from wsdjax.errors import ConfigError
from wsdjax.wording import shown


@kind
class CNN(ModelConfig):
    """The CNN of Belloni et al.: 3x3 convolutions, each with ReLU and 2x2 max-pooling."""

    widths: tuple[int, ...] = (32, 128, 128, 128)
    classes: int = count(10, least=2)
    convolution: str = choice("by_device", "patches", "library")
    """As one product with patches; or the library's, which by the compiler for an H200 moves half
    the bytes and is not measured. By device it is the library's on CPUs, but for few channels,
    and with patches elsewhere. The same function up to rounding."""
    compute: str = choice("float32", "bfloat16")
    """The dtype of training's convolutions and of what they are pooled to; all else is float32.
    Not measured on a GPU; on CPUs it is slower."""

    reads, convolves = "images", True
    unrecorded: ClassVar[Mapping[str, Any]] = {"convolution": "patches"}

    def check(self, path: str) -> None:
        widths = self.widths
        if not 1 <= len(widths) <= 5 or min(widths) < 1 or max(widths) >= SIZE:
            raise ConfigError(
                f"{path}.widths = {shown(widths)}: must be 1 to 5 integers >= 1 and < {SIZE}"
            )

    def module(self, training: bool, device: Any = None) -> tuple[Callable, Callable]:
        from wsdjax.models import cnn, convolutions, language

        forms = {"patches": convolutions.by_patches, "library": convolutions.by_library}
        on_cpu = language.platform(device) == "cpu"
        forms["by_device"] = convolutions.on_cpu if on_cpu else convolutions.by_patches
        dtype = language.computed_in(self.compute, training)
        made = partial(cnn.CNN, self.widths, self.classes, forms[self.convolution], dtype=dtype)
        return made, cnn.metrics


class _Language(ModelConfig):
    """Models of tokens."""

    vocabulary: int

    @property
    def classes(self) -> int:
        return self.vocabulary


@kind
class Transformer(_Language):
    """A decoder-only language model. By default it is Pythia 160M, a GPT-NeoX; its options
    make it a LLaMA (`wsdjax.families`)."""

    vocabulary: int = count(50_304, least=2)
    width: int = count(768)
    layers: int = count(12)
    heads: int = count(12)
    kv_heads: int | None = count(None)
    """Heads of keys and values, each shared by heads / kv_heads queries; None for as many."""
    hidden: int = count(3_072)
    """Width inside the MLP."""
    norm: str = choice("layer", "rms")
    norm_eps: float = number(1e-5, gt=0)
    parallel_residual: bool = True
    """Whether a layer's attention and MLP read the same input; else the MLP follows."""
    gated: bool = False
    """Whether the MLP is SwiGLU; else it has one exact (erf) GELU."""
    rotary_fraction: float = number(0.25, gt=0, le=1)
    """The part of each head that its position rotates."""
    rotary_theta: float = number(10_000.0, gt=0)
    biases: bool = True
    tied: bool = False
    """Whether the head's weights are the embedding's."""
    compute: str = choice("float32", "bfloat16")
    """The dtype of training's activations and matrix products, logits among them; parameters and
    their gradients' sums, norms, softmax and loss are float32."""
    attention: str = choice("fused", "plain", "blocks")
    """Fused, in training and where the device has it; blocks of queries, whose scores alone are in
    memory; else plain (`wsdjax.models.attention`)."""
    remat: str = choice("none", "dots", "layers")
    """The part that the backward pass computes again: nothing (on accelerators norms and
    activations, which keep what they are given), all but the products with weights, or whole
    layers from their inputs."""
    loss_chunk: int = count(1_024)
    """Tokens whose logits exist at a time, at most."""

    def check(self, path: str) -> None:
        if self.width % self.heads:
            raise ConfigError(f"{path}.heads = {self.heads}: must divide width = {self.width}")
        if self.kv_heads is not None and self.heads % self.kv_heads:
            raise ConfigError(
                f"{path}.kv_heads = {self.kv_heads}: must divide heads = {self.heads}"
            )
        rotated = int(self.width // self.heads * self.rotary_fraction)
        if rotated < 2 or rotated % 2:
            raise ConfigError(
                f"{path}.rotary_fraction = {self.rotary_fraction}: rotates {rotated} of the "
                f"{self.width // self.heads} coordinates of a head, which must be even and >= 2"
            )

    def module(self, training: bool, device: Any = None) -> tuple[Callable, Callable]:
        from wsdjax.models import attention, language, transformer

        dtype = language.computed_in(self.compute, training)
        attend: Callable = attention.plain
        if self.attention == "blocks":
            attend = attention.by_blocks
        elif training and self.attention == "fused":
            attend = partial(attention.fused, device)
        lean = training and language.platform(device) != "cpu"
        given = {"dtype": dtype, "attention": attend, "device": device, "lean": lean}
        module = partial(transformer.Transformer, self, **given)
        return module, language.metrics_of(training, self.loss_chunk)


@kind
class RNN(_Language):
    """A recurrent language model: embedding, layers of cells, head."""

    vocabulary: int = count(50_304, least=2)
    width: int = count(768)
    layers: int = count(2)
    cell: str = choice("lstm", "gru")
    tied: bool = False
    """Whether the head's weights are the embedding's."""
    compute: str = choice("float32", "bfloat16")
    """The dtype of training's matrix products, logits among them; parameters and their gradients'
    sums, cells and loss are float32."""
    loss_chunk: int = count(1_024)
    """Tokens whose logits exist at a time, at most."""

    def module(self, training: bool, device: Any = None) -> tuple[Callable, Callable]:
        from wsdjax.models import language, rnn

        dtype = language.computed_in(self.compute, training)
        module = partial(rnn.RNN, self, dtype=dtype)
        return module, language.metrics_of(training, self.loss_chunk)
