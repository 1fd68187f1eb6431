"""Well-known language models, as configs: ``pythia("410M")``, ``plainlm()``, ...

A keyword changes a field: ``pythia(compute="bfloat16", remat="dots")``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from wsdjax.model_config import Transformer
from wsdjax.validation import ConfigError

PYTHIA = {
    "70M": (6, 512, 8, 50_304),
    "160M": (12, 768, 12, 50_304),
    "410M": (24, 1_024, 16, 50_304),
    "1B": (16, 2_048, 8, 50_304),
    "1.4B": (24, 2_048, 16, 50_304),
    "2.8B": (32, 2_560, 32, 50_304),
    "6.9B": (32, 4_096, 32, 50_432),
    "12B": (36, 5_120, 40, 50_688),
}
"""(layers, width, heads, padded vocabulary) of Biderman et al., table 1."""

WEN = {
    "0.1B": (768, 3_072, 12, 12),
    "0.3B": (1_024, 2_048, 24, 16),
    "0.6B": (1_536, 6_144, 24, 32),
    "1.2B": (2_048, 8_192, 16, 16),
}
"""(width, hidden, layers, heads) of Wen et al.'s LLaMA models."""


def pythia(size: str = "160M", **changes: Any) -> Transformer:
    """GPT-NeoX as in Pythia (Biderman et al.); 162,322,944 parameters at 160M.

    Raises:
      ConfigError: for a size that is not in `PYTHIA`.
    """
    layers, width, heads, vocabulary = _size(PYTHIA, size)
    model = Transformer(vocabulary, width, layers, heads, hidden=4 * width)
    return dataclasses.replace(model, **changes)


def llama(**changes: Any) -> Transformer:
    """LLaMA (Touvron et al.): RMSNorm, SwiGLU, full rotary, no biases."""
    model = Transformer(
        norm="rms",
        norm_eps=1e-6,
        parallel_residual=False,
        gated=True,
        rotary_fraction=1.0,
        biases=False,
    )
    return dataclasses.replace(model, **changes)


def plainlm(**changes: Any) -> Transformer:
    """plainLM's default, a LLaMA of 162,183,936 parameters (Ajroldi)."""
    return llama(**{"vocabulary": 50_280, "hidden": 2_048} | changes)


def wen_llama(size: str = "0.1B", **changes: Any) -> Transformer:
    """The LLaMA models of Wen et al., with the GPT-NeoX tokenizer's padded vocabulary.

    Raises:
      ConfigError: for a size that is not in `WEN`.
    """
    width, hidden, layers, heads = _size(WEN, size)
    sizes = {"width": width, "hidden": hidden, "layers": layers, "heads": heads}
    return llama(**sizes | changes)


def _size(sizes: Mapping[str, tuple[int, ...]], size: str) -> tuple[int, ...]:
    if size not in sizes:
        raise ConfigError(f"size = {size!r}: must be one of {', '.join(sizes)}")
    return sizes[size]
