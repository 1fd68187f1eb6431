"""WSD against cosine, on photographs."""

from wsdjax import tree
from wsdjax.config import CNN, AdamW, Experiment, Photos


def get_config() -> Experiment:
    total, warmup, decay = 1_000, 50, 350
    return Experiment(
        model=CNN(widths=(16, 32, 32, 32)),
        data=Photos(noise=0.8, eval_size=1_000),
        optimizer=AdamW(peak_value=3e-3, weight_decay=0.1),
        tree=tree.wsd(total, warmup, decay) | tree.cosine(total, warmup),
        batch_size=64,
        seeds=2,
        eval_every=50,
        checkpoint_every=250,
    )
