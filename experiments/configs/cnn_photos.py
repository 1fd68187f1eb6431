"""The CNN study of Belloni et al. on photographs, which stand in for CIFAR-10.

    python -m experiments.run --config=experiments/configs/cnn_photos.py

Batch 128, 19,500 updates (50 epochs of 50,000), the cooldown the last 35%, decay to zero,
five seeds in one program; WSD against warmup-cosine. Noise and number of crops are those of ten
that were tried at which the loss stays furthest from zero, as the paper's comparisons need: on one
NVIDIA H200 the training loss ended at 1.04 (0.8 and 50,000: at 0.001), the held-out loss 3% above
its lowest (`experiments/results/h200.json`).

Hardware: one GPU or TPU; not yet run in full. On two CPU cores an update takes 0.15 s for one
seed and 1.0 s for five (medians of eight updates), 1.6 and 11 hours for the whole tree.
"""

from wsdjax import plans
from wsdjax.config import CNN, AdamW, Experiment, Photos


def get_config() -> Experiment:
    total, warmup = 19_500, 975
    decay = round(0.35 * total)
    return Experiment(
        model=CNN(),
        data=Photos(noise=3.0, size=400_000, eval_size=5_000),
        optimizer=AdamW(peak_value=3e-3, weight_decay=0.1),
        tree=plans.wsd(total, warmup, decay) | plans.cosine(total, warmup),
        batch_size=128,
        seeds=5,
        eval_every=390,
        checkpoint_every=1_950,
    )
