"""Well-known language models, as configs: ``pythia("410M")``, ``plainlm()``, ...

A keyword changes a field: ``pythia(compute="bfloat16", remat="dots")``. Each docstring tells where
the values come from and what of them could not be verified; `tests/test_families.py` has them all.
What no field tells is our own throughout: matrices begin as N(0, 0.02), output projections as
N(0, 0.02 / sqrt(2 layers)).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from wsdjax.config.models import Transformer
from wsdjax.errors import ConfigError

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
"""(layers, width, heads, padded vocabulary): the first three by the repository EleutherAI/pythia
(its README's table, and `models/*/*.yml`), the vocabulary by the published config.json of 160M, 1B
and 12B; for the other sizes by the count of parameters in Biderman et al. alone."""

WEN = {
    "0.1B": (768, 3_072, 12, 12),
    "0.3B": (1_024, 2_048, 24, 16),
    "0.6B": (1_536, 6_144, 24, 32),
    "1.2B": (2_048, 8_192, 16, 16),
}
"""(width, hidden, layers, heads) of Wen et al.'s LLaMA models, as `config/llama2_{100M,300M,600M,
1b}_*.yaml` of the first author's fork of Levanter (WhenWen/levanter, 9d2c63c) have them. By these
"0.6B" has 1.06 billion parameters."""


def pythia(size: str = "160M", **changes: Any) -> Transformer:
    """GPT-NeoX as in Pythia (Biderman et al.); 162,322,944 parameters at 160M.

    By the files that `PYTHIA` names: rotary on a quarter of each head with theta 10,000, parallel
    residual, LayerNorm with eps 1e-5, exact GELU, biases, a head of its own, an MLP of 4 widths.
    The initialisation is not Pythia's, which has `small_init` and `wang_init`.
    """
    layers, width, heads, vocabulary = _size(PYTHIA, size)
    model = Transformer(vocabulary, width, layers, heads, hidden=4 * width)
    return dataclasses.replace(model, **changes)


def llama(**changes: Any) -> Transformer:
    """LLaMA (Touvron et al.): RMSNorm, SwiGLU, full rotary, no biases, a head of its own.

    eps 1e-6 and theta 10,000 are the defaults of transformers' LlamaConfig. Vocabulary, width,
    layers, heads and hidden are those of `Transformer`, and no LLaMA's: give your own.
    """
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
    """plainLM's default, a LLaMA of 162,183,936 parameters (Ajroldi).

    By `config/config.yaml` and `models/` of the repository Niccolo-Ajroldi/plainLM: theta 500,000,
    eps 1e-6, hidden 8/3 of the width in multiples of 256. The initialisation is plainLM's too; it
    turns neighbours where we turn halves, which is another order of the coordinates of queries
    and keys and no other model.
    """
    return llama(**{"vocabulary": 50_280, "hidden": 2_048, "rotary_theta": 500_000.0} | changes)


def wen_llama(size: str = "0.1B", **changes: Any) -> Transformer:
    """The LLaMA models of Wen et al., with the GPT-NeoX tokenizer's padded vocabulary.

    Sizes by the files that `WEN` names; eps 1e-5, theta 10,000, no biases and a head of its own are
    the defaults of Levanter's LlamaConfig, which those files leave. Not verified: the vocabulary.
    Those files, of later runs on DCLM, name the tokenizer of GPT-NeoX, 50,277 tokens that
    Levanter need not pad; beside them is the Pile with LLaMA-2's of 32,000, with which 1.2B has
    1.20 billion parameters (here 1.28). The initialisation is not Levanter's.
    """
    width, hidden, layers, heads = _size(WEN, size)
    fields = {"width": width, "hidden": hidden, "layers": layers, "heads": heads, "norm_eps": 1e-5}
    return llama(**fields | changes)


def _size(sizes: Mapping[str, tuple[int, ...]], size: str) -> tuple[int, ...]:
    if size not in sizes:
        raise ConfigError(f"size = {size!r}: must be one of {', '.join(sizes)}")
    return sizes[size]
