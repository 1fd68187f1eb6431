"""The effect of the cooldown's shape, and of averaging without a cooldown (Dremov et al.).

    python -m experiments.run --config=experiments/configs/cooldown_shapes.py

Six shapes from one node of a constant trunk, and the trunk extended over the same updates
with averages of its weights: an exponential one and one of the latest ten iterates, twenty
updates apart. The six are replicates of one program. A narrow CNN on photographs, which stand
in for CIFAR-10; two seeds.

Hardware: two CPU cores, eight minutes, with other work beside it. Expect held-out losses of 1.12
to 1.14 nats after the cooldowns, which the two seeds do not tell apart, and of 1.24 at the
constant rate, where the exponential average of the weights has 1.12.
"""

from wsdjax.config import CNN, AdamW, Averages, Branch, Constant, Cooldown, Experiment, Photos

SHAPES = {shape: shape for shape in ("linear", "cosine", "sqrt", "square", "mirror_cosine")}
SHAPES["lowered"] = "lowered_linear(0.7)"


def get_config() -> Experiment:
    def decay(shape):
        return Branch(parent="trunk", steps="35%", schedule=Cooldown(shape))

    trunk = Branch(steps="65%", schedule=Constant(warmup_steps="5%"))
    stable = Branch(parent="trunk", steps="35%", schedule=Constant(warmup_steps="5%"))
    return Experiment(
        model=CNN(widths=(16, 32, 32, 32)),
        data=Photos(noise=0.8, eval_size=1_000),
        optimizer=AdamW(peak_value=3e-3, weight_decay=0.1),
        length=1_000,
        tree={"trunk": trunk, "stable": stable}
        | {name: decay(shape) for name, shape in SHAPES.items()},
        batch_size=64,
        seeds=2,
        averages=Averages(ema=0.98, window=10, window_every=20),
        eval_every="5%",
        checkpoint_every="25%",
    )
