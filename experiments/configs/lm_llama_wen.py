"""The LLaMA models of Wen et al. under WSD-S and WSD, with a cosine for each budget.

    python -m experiments.run --config=experiments/configs/lm_llama_wen.py[:0.1B|0.3B|0.6B|1.2B]

Context 4,096, 4M tokens a batch, budgets of 50, 100 and 200 billion tokens, decays of a tenth to a
tenth of the peak, which is 6e-4 for the two small sizes and 4e-4 for the two large ones. The text
is prepared as for `lm_pythia160m.py`.

What could be checked against the first author's fork of Levanter (WhenWen/levanter, 9d2c63c,
`config/llama2_*.yaml`, of later runs on DCLM): context (of 1.2B it is 2,048 there), batch, warmup,
weight decay, the tenths and, by Levanter's defaults, betas, eps and clipping. There the peaks of
WSD-S are 1e-3 for 0.1B and 5e-4 for 0.3B and 0.6B (6e-4 for a cosine of 0.1B); its decays are
linear in the rate, where ours are in its inverse; its longest run does not count earlier decays in
a budget and ends at 53,750 (`plans.wsd_s(..., budgets_include_decays=False)`); and Levanter's
default mask spares embeddings from weight decay. The peaks below are the paper's as given to us.

Hardware: the paper's was a TPU v3-256. By its compiler 1.2B fits there, and a v5e-256 too, in two
micro-batches with remat "dots": parameters and moments are divided among all 256 devices, and a
layer's weights gathered at a time. For other devices `python -m experiments.plan
--config=experiments/configs/lm_llama_wen.py:1.2B --devices=v3:8x16` tells what fits, what is sent,
and how long it takes at best. Not yet run.
"""

from wsdjax import families, plans
from wsdjax.config import AdamW, Experiment, Text

PEAKS = {"0.1B": 6e-4, "0.3B": 6e-4, "0.6B": 4e-4, "1.2B": 4e-4}


def get_config(size: str = "0.1B") -> Experiment:
    budgets, warmup = (12_500, 25_000, 50_000), 2_000
    model = families.wen_llama(size, compute="bfloat16", remat="dots")
    peak = PEAKS[size]
    return Experiment(
        model=model,
        data=Text("data/text", length=4_096),
        optimizer=AdamW(peak_value=peak, b2=0.95, weight_decay=0.1, clip_norm=1.0),
        tree=(
            plans.wsd_s(budgets, warmup, end_value=peak / 10)
            | plans.cooldown_lengths(budgets, warmup, end_value=peak / 10)
            | plans.oracle_cosines(budgets, warmup, end_value=peak / 10)
        ),
        batch_size=1_024,
        accumulate=2,
        eval_every=500,
        checkpoint_every=2_500,
    )
