"""A tree of a tiny language model on real text: seconds on one core."""

from wsdjax.config import AdamW, Branch, Constant, Cooldown, Experiment, Stdlib, Transformer


def get_config() -> Experiment:
    return Experiment(
        model=Transformer(257, 16, 2, 2, hidden=32, rotary_fraction=0.5, compute="bfloat16"),
        data=Stdlib(length=16, eval_size=40),
        optimizer=AdamW(peak_value=1e-2, clip_norm=1.0),
        tree={
            "trunk": Branch(steps="1_536 tokens", schedule=Constant(warmup_steps=2)),
            "decay": Branch(parent="trunk", steps=6, schedule=Cooldown()),
        },
        batch_size=8,
        accumulate=2,
        seeds=2,
        eval_every=6,
        checkpoint_every=6,
    )
