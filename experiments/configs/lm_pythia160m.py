"""The language model of Belloni et al.: Pythia 160M, 3 billion tokens, the cooldown the last 20%.

    python -m experiments.prepare text --input DIR/*.jsonl.zst \\
        --tokenizer EleutherAI/pythia-160m --out data/text
    python -m experiments.run --config=experiments/configs/lm_pythia160m.py

Batch 256 of length 2,048 in 8 micro-batches, AdamW with betas 0.9 and 0.95, weight decay 0.1,
gradients clipped to 1. The paper's peak and warmup are not known to us: the peak is
Pythia's own, the warmup 5%, as in the paper's study of the CNN. Pythia's file
(EleutherAI/pythia, `models/160M/pythia-160m.yml`) has the same length, betas, decay, clipping and
peak, but batches of 1,024, a warmup of 1% and a cosine to a tenth. The commands for the Pile and
for SlimPajama are in `experiments/prepare/README.md`.

Hardware: a GPU of 40 GB or more, for which micro-batches and chunks of the loss are chosen: by the
compiler for an H200 they take 20 GiB of temporaries; 4 micro-batches take 37, move as many bytes;
--config.model.remat=dots takes 12 and moves a third more. One v5e chip wants smaller ones:
--config.accumulate=32 --config.model.loss_chunk=4096. `python -m experiments.plan` tells what fits
other devices. Not yet run: see the README's list of what is not measured. --dry_run tells what it
costs.
"""

from wsdjax import families, plans
from wsdjax.config import AdamW, Experiment, Text


def get_config() -> Experiment:
    tree = plans.wsd("100%", "5%", "20%") | plans.cosine("100%", "5%")
    return Experiment(
        model=families.pythia("160M", compute="bfloat16", loss_chunk=16_384),
        data=Text("data/text", length=2_048),
        optimizer=AdamW(peak_value=6e-4, b2=0.95, weight_decay=0.1, clip_norm=1.0),
        tree=tree,
        length="3e9 tokens",
        batch_size=256,
        accumulate=8,
        eval_every=200,
        checkpoint_every=1_000,
    )
