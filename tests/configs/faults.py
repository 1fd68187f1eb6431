"""A tree that trains in a second: every kind of file that a workdir holds, and few of each.

``faults.py:DIR`` trains on the text that is prepared in DIR.
"""

from wsdjax.config import (
    RNN,
    AdamW,
    Averages,
    Bigram,
    Branch,
    Constant,
    Cooldown,
    Experiment,
    Overrides,
    Text,
)


def get_config(directory: str = "") -> Experiment:
    cooldown = {"parent": "trunk@3", "steps": 3}
    tree = {
        "trunk": Branch(steps=6, schedule=Constant(warmup_steps=2)),
        "decay": Branch(schedule=Cooldown(), **cooldown),
        "sqrt": Branch(schedule=Cooldown("sqrt"), optimizer=Overrides(b2=0.9), **cooldown),
    }
    data = Bigram(vocabulary=8, length=4, size=200, eval_size=8)
    if directory:
        data, tree = Text(directory, length=4, eval_tokens=40), {"trunk": tree["trunk"]}
    return Experiment(
        model=RNN(vocabulary=280 if directory else 8, width=4, layers=1, cell="gru"),
        data=data,
        optimizer=AdamW(peak_value=1e-2),
        tree=tree,
        averages=Averages(ema=0.9),
        batch_size=4,
        seeds=2,
        eval_every=3,
        checkpoint_every=2,
        snapshot_every=3,
    )
