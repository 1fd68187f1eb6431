"""Continual training: a month later, with new data, from the trunk; a cosine must re-warm.

    python -m experiments.run --config=experiments/configs/continual.py
    python -m experiments.run --config=experiments/configs/continual.py:later

The first command trains WSD and a cosine on the data there are. The second adds, to the same
workdir, what comes a month later: the data have become noisier. WSD goes on from its trunk,
whose rate never fell, and decays again; the cosine's rate is zero at its end, and it must rise
again before it can learn (Ibrahim et al.). Photographs stand in for CIFAR-10; two seeds.

Hardware: two CPU cores, two minutes and one and a half. Expect a held-out loss on the new data of
1.25 nats from the trunk, and of 1.28 from the cosine.
"""

from wsdjax import plans
from wsdjax.config import CNN, AdamW, Branch, Constant, Cooldown, Experiment, Photos, Rewarm


def get_config(month: str = "first") -> Experiment:
    total, warmup, decay = 800, 50, 250
    new = Photos(noise=1.2, eval_size=1_000)
    later = {
        "later": Branch(parent="trunk", steps=350, schedule=Constant(warmup), data=new),
        "later_decay": Branch(parent="later", steps=decay, schedule=Cooldown()),
        "rewarmed": Branch(parent="cosine", steps=600, schedule=Rewarm(warmup), data=new),
    }
    return Experiment(
        model=CNN(widths=(16, 32, 32, 32)),
        data=Photos(noise=0.8, eval_size=1_000),
        optimizer=AdamW(peak_value=3e-3, weight_decay=0.1),
        tree=plans.wsd(total, warmup, decay)
        | plans.cosine(total, warmup)
        | (later if month == "later" else {}),
        batch_size=64,
        seeds=2,
        eval_every=50,
        checkpoint_every=250,
    )
