"""What a model is: typed dataclasses, which `wsdjax.config` makes experiments of.

Like those they import no JAX.
"""

from dataclasses import dataclass

from wsdjax.config.validation import SIZE, check, choice, count, number
from wsdjax.errors import ConfigError
from wsdjax.wording import shown


@dataclass
class CNN:
    """The CNN of Belloni et al.: 3x3 convolutions, each with ReLU and 2x2 max-pooling."""

    widths: tuple[int, ...] = (32, 128, 128, 128)
    classes: int = count(10, least=2)


@dataclass
class Transformer:
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
    attention: str = choice("fused", "plain")
    """In training: fused where the device has it (`wsdjax.models.attention`)."""
    remat: str = choice("none", "dots", "layers")
    """What the backward pass computes again: nothing, all but the products with weights, or
    whole layers from their inputs."""
    loss_chunk: int = count(1_024)
    """Tokens whose logits exist at a time."""

    @property
    def classes(self) -> int:
        return self.vocabulary


@dataclass
class RNN:
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
    """Tokens whose logits exist at a time."""

    @property
    def classes(self) -> int:
        return self.vocabulary


def validate_model(path: str, model: CNN | Transformer | RNN) -> None:
    """Checks a model's fields, those of the config that stands at `path`, and how they fit."""
    check(path, model, type(model), {})
    match model:
        case CNN(widths=widths):
            if not 1 <= len(widths) <= 5 or min(widths) < 1 or max(widths) >= SIZE:
                raise ConfigError(
                    f"{path}.widths = {shown(widths)}: must be 1 to 5 integers >= 1 and < {SIZE}"
                )
        case Transformer(width=width, heads=heads, kv_heads=kv_heads):
            if width % heads:
                raise ConfigError(f"{path}.heads = {heads}: must divide width = {width}")
            if kv_heads is not None and heads % kv_heads:
                raise ConfigError(f"{path}.kv_heads = {kv_heads}: must divide heads = {heads}")
            rotated = int(width // heads * model.rotary_fraction)
            if rotated < 2 or rotated % 2:
                raise ConfigError(
                    f"{path}.rotary_fraction = {model.rotary_fraction}: rotates {rotated} of the "
                    f"{width // heads} coordinates of a head, which must be even and >= 2"
                )
