"""A tree that trains in seconds: a trunk, its cooldown, and a cosine."""

from wsdjax import plans
from wsdjax.config import CNN, AdamW, Experiment, Photos


def get_config() -> Experiment:
    return Experiment(
        model=CNN(widths=(4, 4)),
        data=Photos(noise=0.8, size=2_000, eval_size=50),
        optimizer=AdamW(peak_value=3e-3, weight_decay=0.1),
        tree=plans.wsd(36, 4, 12) | plans.cosine(36, 4),
        batch_size=8,
        seeds=2,
        eval_every=7,
        checkpoint_every=5,
    )
