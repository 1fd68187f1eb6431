"""Every field of every preset, against its source, which the preset's docstring names."""

import dataclasses

import pytest

from experiments.configs import lm_llama_wen, lm_pythia160m
from wsdjax import families
from wsdjax.config import AdamW, Transformer

OURS = {"compute": "float32", "attention": "fused", "remat": "none", "loss_chunk": 1_024}
"""How a model is computed, of which no source speaks."""
NEOX = OURS | {
    "kv_heads": None,
    "norm": "layer",
    "norm_eps": 1e-5,
    "parallel_residual": True,
    "gated": False,
    "rotary_fraction": 0.25,
    "rotary_theta": 10_000.0,
    "biases": True,
    "tied": False,
}
LLAMA = NEOX | {
    "norm": "rms",
    "norm_eps": 1e-6,
    "parallel_residual": False,
    "gated": True,
    "rotary_fraction": 1.0,
    "biases": False,
}


def sizes(vocabulary, width, layers, heads, hidden):
    return {
        "vocabulary": vocabulary,
        "width": width,
        "layers": layers,
        "heads": heads,
        "hidden": hidden,
    }


PRESETS = [
    (Transformer(), NEOX | sizes(50_304, 768, 12, 12, 3_072)),
    (families.pythia(), NEOX | sizes(50_304, 768, 12, 12, 3_072)),
    (families.pythia("70M"), NEOX | sizes(50_304, 512, 6, 8, 2_048)),
    (families.pythia("160M"), NEOX | sizes(50_304, 768, 12, 12, 3_072)),
    (families.pythia("410M"), NEOX | sizes(50_304, 1_024, 24, 16, 4_096)),
    (families.pythia("1B"), NEOX | sizes(50_304, 2_048, 16, 8, 8_192)),
    (families.pythia("1.4B"), NEOX | sizes(50_304, 2_048, 24, 16, 8_192)),
    (families.pythia("2.8B"), NEOX | sizes(50_304, 2_560, 32, 32, 10_240)),
    (families.pythia("6.9B"), NEOX | sizes(50_432, 4_096, 32, 32, 16_384)),
    (families.pythia("12B"), NEOX | sizes(50_688, 5_120, 36, 40, 20_480)),
    (families.llama(), LLAMA | sizes(50_304, 768, 12, 12, 3_072)),
    (
        families.plainlm(),
        LLAMA | sizes(50_280, 768, 12, 12, 2_048) | {"rotary_theta": 500_000.0},
    ),
    (families.wen_llama(), LLAMA | sizes(50_304, 768, 12, 12, 3_072) | {"norm_eps": 1e-5}),
    (families.wen_llama("0.1B"), LLAMA | sizes(50_304, 768, 12, 12, 3_072) | {"norm_eps": 1e-5}),
    (families.wen_llama("0.3B"), LLAMA | sizes(50_304, 1_024, 24, 16, 2_048) | {"norm_eps": 1e-5}),
    (families.wen_llama("0.6B"), LLAMA | sizes(50_304, 1_536, 24, 32, 6_144) | {"norm_eps": 1e-5}),
    (families.wen_llama("1.2B"), LLAMA | sizes(50_304, 2_048, 16, 16, 8_192) | {"norm_eps": 1e-5}),
]


@pytest.mark.parametrize(("model", "expected"), PRESETS)
def test_every_field_is_its_sources(model, expected):
    assert dataclasses.asdict(model) == expected


def test_no_size_is_left_out():
    for name, table in (("pythia", families.PYTHIA), ("wen_llama", families.WEN)):
        for size in table:
            assert any(getattr(families, name)(size) == model for model, _ in PRESETS)


@pytest.mark.parametrize(
    "preset", [families.pythia, families.llama, families.plainlm, families.wen_llama]
)
def test_a_keyword_changes_its_field_alone(preset):
    assert preset(rotary_theta=7.0) == dataclasses.replace(preset(), rotary_theta=7.0)
    assert preset(norm_eps=0.5, tied=True) == dataclasses.replace(preset(), norm_eps=0.5, tied=True)


def test_pythias_run():
    experiment = lm_pythia160m.get_config()
    assert experiment.model == families.pythia(compute="bfloat16", loss_chunk=16_384)
    assert experiment.optimizer == AdamW(6e-4, 0.9, 0.95, 1e-8, 0.1, 1.0)
    assert (experiment.batch_size, experiment.data.length) == (256, 2_048)
    assert experiment.length == "3e9 tokens"


@pytest.mark.parametrize(
    ("size", "peak"), [("0.1B", 6e-4), ("0.3B", 6e-4), ("0.6B", 4e-4), ("1.2B", 4e-4)]
)
def test_wens_run(size, peak):
    experiment = lm_llama_wen.get_config(size)
    assert experiment.model == families.wen_llama(size, compute="bfloat16", remat="dots")
    assert experiment.optimizer == AdamW(peak, 0.9, 0.95, 1e-8, 0.1, 1.0)
    assert experiment.batch_size * experiment.data.length == 4 * 2**20
    tree = experiment.tree
    assert [branch.schedule.warmup_steps for branch in tree.values() if not branch.parent] == (
        [2_000] * 5  # WSD-S, WSD and three cosines
    )
    assert tree["wsd_s_1"].schedule.end_value == pytest.approx(peak / 10)
