"""WSD-S, WSD and cyclic cosine at several budgets, against a cosine for each (Wen et al.).

    python -m experiments.run --config=experiments/configs/wsd_s_cnn.py

A narrow CNN on photographs, which stand in for CIFAR-10; budgets of 400, 800 and 1,600
updates, three seeds. Every schedule falls to a tenth of the peak; WSD and WSD-S over the last
fifth of a budget, linearly in 1/rate. The oracle is the best, at each budget, of cosines of that
length with three peaks. The report's second table is the paper's: the held-out
loss at each budget, and the updates spent in all.

Hardware: two CPU cores, nineteen minutes, with other work beside it. Expect held-out losses of
1.33, 1.21 and 1.08 nats under WSD-S, and of 1.35, 1.21 and 1.07 under the best cosine of each
budget.
"""

from wsdjax import plans
from wsdjax.config import CNN, AdamW, Experiment, Photos


def get_config() -> Experiment:
    budgets, warmup, peak = (400, 800, 1_600), 50, 3e-3
    return Experiment(
        model=CNN(widths=(16, 32, 32, 32)),
        data=Photos(noise=0.8, eval_size=1_000),
        optimizer=AdamW(peak_value=peak, weight_decay=0.1),
        tree=plans.wsd_s(budgets, warmup, peak / 10, 0.2)
        | plans.cooldown_lengths(budgets, warmup, 0.2, "inverse", peak / 10)
        | plans.cyclic_cosine(budgets, warmup, peak / 10)
        | plans.oracle_cosines(budgets, warmup, peak / 10)
        | plans.oracle_cosines(budgets, warmup, peak / 20, peak / 2, "cosine_half")
        | plans.oracle_cosines(budgets, warmup, peak / 5, 2 * peak, "cosine_twice"),
        batch_size=64,
        seeds=3,
        eval_every=80,
        checkpoint_every=400,
        compare={
            "WSD-S": ("wsd_s_1", "wsd_s_2", "wsd_s_3"),
            "WSD": ("wsd_1", "wsd_2", "wsd_3"),
            "cyclic cosine": ("cyclic_1", "cyclic_2", "cyclic_3"),
            "cosine for each budget": ("cosine_1", "cosine_2", "cosine_3"),
            "... at half the peak": ("cosine_half_1", "cosine_half_2", "cosine_half_3"),
            "... at twice the peak": ("cosine_twice_1", "cosine_twice_2", "cosine_twice_3"),
        },
    )
