"""The CNN study of Belloni et al. on CIFAR-10.

    python -m experiments.prepare cifar10
    python -m experiments.run --config=experiments/configs/cnn_cifar10.py

Batch 128, 19,500 updates (50 epochs), the cooldown the last 35%, decay to zero, five seeds in
one program; WSD against warmup-cosine. No augmentation, as in the paper;
--config.data.augment=True turns the standard one on.

Hardware: one GPU or TPU. Not yet run: see the README's list of what is not measured.
"""

from wsdjax import plans
from wsdjax.config import CNN, AdamW, Cifar10, Experiment


def get_config() -> Experiment:
    total, warmup = 19_500, 975
    decay = round(0.35 * total)
    return Experiment(
        model=CNN(),
        data=Cifar10(),
        optimizer=AdamW(peak_value=1e-3, weight_decay=0.1),
        tree=plans.wsd(total, warmup, decay) | plans.cosine(total, warmup),
        batch_size=128,
        seeds=5,
        eval_every=390,
        checkpoint_every=1_950,
    )
