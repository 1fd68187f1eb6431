"""Along the lineages of every plan the rates are the single formulas of `wsdjax.schedules`."""

import dataclasses

import numpy as np
import pytest
from helpers import load_config

from wsdjax import plans, schedules, tree
from wsdjax.config import (
    Branch,
    Constant,
    Continued,
    Cooldown,
    Hold,
    InverseSqrt,
    Overrides,
    Photos,
    Rewarm,
)
from wsdjax.errors import ConfigError
from wsdjax.tree import rates as lineage

PEAK = 3e-3
BUDGETS = (40, 80, 160)
PLANS = {
    "wsd": (plans.wsd(50, 7, 20, "sqrt", 1e-4), schedules.wsd(PEAK, 7, 50, 20, "sqrt", 1e-4)),
    "wsd by a family": (
        plans.wsd(50, 7, 20, "power(2)"),
        schedules.wsd(PEAK, 7, 50, 20, schedules.power(2)),
    ),
    "cosine": (plans.cosine(50, 7, 1e-4), schedules.warmup_cosine(PEAK, 7, 50, 1e-4)),
    "wsd_s": (plans.wsd_s(BUDGETS, 5, PEAK / 10), schedules.wsd_s(PEAK, 5, BUDGETS)),
    "wsd_s, earlier decays excluded": (
        plans.wsd_s(BUDGETS, 5, 1e-4, 0.25, "linear", False),
        schedules.wsd_s(PEAK, 5, BUDGETS, 0.25, "linear", 1e-4, False),
    ),
    "cyclic_cosine": (
        plans.cyclic_cosine(BUDGETS, 5, 1e-4),
        schedules.cyclic_cosine(PEAK, 5, BUDGETS, 1e-4),
    ),
    "inverse_sqrt": (
        plans.inverse_sqrt(100, 5, 30, 20.0),
        schedules.inverse_sqrt(PEAK, 5, 100, 30, 20.0),
    ),
    "infinite": (
        plans.infinite(5, 20, 30, 15, 1e-3, 1e-4),
        schedules.infinite(PEAK, 5, 20, 70, 15, 1e-3, "exponential", 1e-4),
    ),
}


def resolved(branches, **changes):
    return tree.resolve(dataclasses.replace(load_config(), tree=branches, **changes))


def rates_to(name, branches):
    """The rates of a lineage, root to leaf."""
    branch = branches[name]
    own = lineage.rates(branch, branches)
    return (
        np.concatenate([rates_to(branch.parent, branches)[: branch.start], own])
        if branch.parent
        else own
    )


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_is_its_single_formula(name):
    branches, schedule = PLANS[name]
    everything = resolved(branches)
    rates = rates_to(list(branches)[-1], everything)
    np.testing.assert_array_equal(rates, schedule(np.arange(1, len(rates) + 1)).astype(np.float32))


def test_each_of_several_budgets_is_wsd_of_that_length():
    """One trunk serves them all."""
    branches = resolved(plans.cooldown_lengths(BUDGETS, 5, 0.25, "sqrt"))
    assert branches["wsd_trunk"].end == 120
    for i, budget in enumerate(BUDGETS, start=1):
        formula = schedules.wsd(PEAK, 5, budget, budget // 4, "sqrt")(np.arange(1, budget + 1))
        np.testing.assert_array_equal(rates_to(f"wsd_{i}", branches), formula.astype(np.float32))


def test_each_oracle_is_a_cosine_of_its_budget():
    branches = resolved(plans.oracle_cosines(BUDGETS, 5))
    for i, budget in enumerate(BUDGETS, start=1):
        formula = schedules.warmup_cosine(PEAK, 5, budget)(np.arange(1, budget + 1))
        np.testing.assert_array_equal(
            lineage.rates(branches[f"cosine_{i}"], branches), formula.astype(np.float32)
        )
    twice = resolved(plans.oracle_cosines(BUDGETS, 5, 0.0, 2 * PEAK, "twice"))
    assert lineage.rates(twice["twice_2"], twice).max() == np.float32(2 * PEAK)


def test_rewarming_starts_from_the_rate_there_was_and_continued_is_the_parent():
    """From inside a decay, with a warmup; an inverse square root forked; and a square-root decay
    gone on with from its middle, to the bit."""
    branches = plans.wsd(50, 5, 20, "sqrt") | {
        "again": Branch(parent="decay@40", steps=30, schedule=Rewarm(8, "linear", 1e-4)),
        "rest": Branch(
            parent="decay@40", steps=14, schedule=Continued(), optimizer=Overrides(b2=0.9)
        ),
        "rsqrt": Branch(40, InverseSqrt(5, 9.0)),
        "on": Branch(parent="rsqrt@30", steps=25, schedule=InverseSqrt(5, 9.0)),
    }
    everything = resolved(branches)
    decay = schedules.wsd(PEAK, 5, 50, 20, "sqrt")
    rewarm = schedules.rewarm(decay(40), PEAK, 40, 8, 70, "linear", 1e-4)
    for name, schedule, first, last in (
        ("again", rewarm, 41, 70),
        ("rest", decay, 41, 54),
        ("on", schedules.inverse_sqrt(PEAK, 5, 99, timescale=9.0), 31, 55),
    ):
        formula = schedule(np.arange(first, last + 1)).astype(np.float32)
        np.testing.assert_array_equal(lineage.rates(everything[name], everything), formula)
        assert lineage.jump(everything[name], everything) is None


def test_jumps_of_small_rates_are_jumps():
    """A tenth of a decayed rate, and three times it; not the first step of any cooldown."""
    branches = plans.wsd(50, 5, 20, "linear", 1e-6) | {
        "lowered": Branch(parent="decay", steps=9, schedule=Cooldown("lowered_linear(0.1)")),
        "raised": Branch(
            parent="decay", steps=9, schedule=Constant(), optimizer=Overrides(peak_value=3e-6)
        ),
        "steep": Branch(parent="decay", steps=9, schedule=Cooldown("one_minus_power(0.05)")),
    }
    everything = resolved(branches)
    assert lineage.jump(everything["lowered"], everything) == pytest.approx((1e-6, 1e-7))
    assert lineage.jump(everything["raised"], everything) == pytest.approx((1e-6, 3e-6))
    assert lineage.jump(everything["steep"], everything) is None


def test_lengths_of_every_unit_give_the_tree_of_their_numbers():
    """2,000 examples in batches of 8 are epochs of 250 updates; here the run is two of them."""
    texts = plans.wsd("100%", "2%", "0.7 epochs") | plans.wsd_s(("0.4 epochs", "40%"), 5, 3e-4)
    numbers = plans.wsd(500, 10, 175) | plans.wsd_s((100, 200), 5, 3e-4)
    assert resolved(texts, length="2 epochs") == resolved(numbers)


def test_a_fork_may_be_told_as_a_length():
    branches = resolved(
        plans.wsd(500, 10, 175)
        | {"early": Branch(parent="trunk@0.5 epochs", steps="10%", schedule=Cooldown())},
        length=400,
    )
    assert (branches["early"].start, branches["early"].end) == (125, 165)


def test_lengths_are_those_of_the_data_they_are_about():
    """A fork's step is measured in the parent's epochs, its length in its own, and a percentage
    in the run's."""
    small = Photos(size=800, eval_size=50)
    branches = resolved(
        plans.wsd("2 epochs", 10, "0.5 epochs")
        | {
            "epochs": Branch(
                parent="trunk@1 epoch", steps="1 epoch", schedule=Cooldown(), data=small
            ),
            "percent": Branch(parent="trunk@250", steps="10%", schedule=Cooldown(), data=small),
        },
        length="4 epochs",
    )
    assert (branches["epochs"].start, branches["epochs"].end) == (250, 250 + 100)
    assert branches["percent"].end == 250 + 100


def test_what_jumps_and_what_does_not():
    """Cooldowns go on from the rate they find, however steep; a return to the peak jumps."""
    wsd_s = resolved(plans.wsd_s(BUDGETS, 5, 3e-4))
    assert lineage.jump(wsd_s["wsd_s_stable_2"], wsd_s) == pytest.approx((3e-4, PEAK))
    assert lineage.jump(wsd_s["wsd_s_2"], wsd_s) is None
    assert lineage.jump(wsd_s["wsd_s_stable_1"], wsd_s) is None
    shapes = [*schedules.COOLDOWNS, "power(3)", "one_minus_power(0.3)"]
    decays = {
        name.replace("(", "_").replace(")", "").replace(".", "_"): Branch(
            parent="trunk", steps=6, schedule=Cooldown(name, 1e-5)
        )
        for name in shapes
    }
    others = {
        "held": Branch(parent="decay@41", steps=4, schedule=Hold()),
        "rewarmed": Branch(parent="decay", steps=4, schedule=Rewarm(2)),
        "at_once": Branch(parent="decay", steps=4, schedule=Rewarm()),
    }
    branches = resolved(plans.wsd(50, 5, 20) | decays | others)
    jumps = {name for name, branch in branches.items() if lineage.jump(branch, branches)}
    assert jumps == {"lowered_linear", "at_once"}
    assert lineage.jump(branches["lowered_linear"], branches) == pytest.approx((PEAK, PEAK / 2))


def test_streams_go_on_or_begin_anew():
    """`continue` keeps seed and start; a seed or another data set begins at the fork."""
    branches = {
        "fresh": Branch(parent="trunk", steps=4, schedule=Cooldown(), data_seed=7),
        "other": Branch(parent="trunk", steps=4, schedule=Cooldown(), data=Photos(noise=0.1)),
        "on": Branch(parent="fresh@32", steps=4, schedule=Hold()),
    }
    everything = resolved(plans.wsd(50, 5, 20) | branches)
    found = {name: (branch.data_seed, branch.data_start) for name, branch in everything.items()}
    assert found == {
        "trunk": (0, 0),
        "decay": (0, 0),
        "fresh": (7, 30),
        "other": (0, 30),
        "on": (7, 30),
    }
    said = {
        name: lineage.at_the_fork(everything[name], everything)["data"]
        for name in everything
        if name != "trunk"
    }
    assert said["decay"] == said["on"] == "continue: the batches that the parent would have seen"
    assert said["fresh"] == "fresh: a new stream, seed 7"
    assert said["other"].startswith("another data set, seed 0: Photos(noise=0.1")


@pytest.mark.parametrize(
    ("branch", "said"),
    [
        (Branch("5 tokens", Cooldown(), "trunk"), "tree.x.steps = '5 tokens': the data have no"),
        (Branch("5%", Cooldown(), "trunk"), "Set the experiment's length"),
        (Branch("5 - 5", Cooldown(), "trunk"), "tree.x.steps = '5 - 5': comes to 0"),
        (Branch(5, Rewarm("6"), "trunk"), "tree.x.schedule: warmup_steps=6 is longer than the 5"),
        (Branch(5, Hold(), "decay"), "tree.x.schedule: the rate of 'decay' is 0 at 50"),
        (Branch(5, Hold()), "tree.x.schedule: Hold keeps its parent's rate, and x has no parent"),
        (Branch(5, Cooldown("power(0)"), "trunk"), "k must be > 0"),
    ],
)
def test_a_branch_that_cannot_be_is_refused(branch, said):
    with pytest.raises(ConfigError) as error:
        resolved(plans.wsd(50, 5, 20) | {"x": branch})
    assert said in str(error.value)


def test_a_model_of_other_classes_than_the_data_is_refused():
    config = load_config()
    config.model.classes = 9
    with pytest.raises(ConfigError, match=r"model.classes = 9: the data of .*, have 10"):
        tree.resolve(config)


@pytest.mark.parametrize(
    ("plan", "name"),
    [
        (lambda: plans.wsd_s((), 4, 1e-4), "budgets"),
        (lambda: plans.cyclic_cosine([], 4), "budgets"),
        (lambda: plans.cooldown_lengths((), 4), "ends"),
    ],
)
def test_a_plan_of_nothing_is_refused(plan, name):
    with pytest.raises(ConfigError, match=rf"{name} = .*must hold one length or more"):
        plan()
