"""Differences between branches are those of each seed, and their intervals Student's."""

import dataclasses

import numpy as np
import pytest
from helpers import grow, with_tree
from scipy import stats

from experiments.report import paired
from experiments.report.reading import Run
from wsdjax import plans
from wsdjax.config import Branch, Cooldown
from wsdjax.config.json import to_json
from wsdjax.files import write_json


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    sqrt = {"sqrt": Branch(4, Cooldown("sqrt"), "trunk")}
    other = {"elsewhere": Branch(4, Cooldown(), "trunk", data_seed=7)}
    branches = plans.wsd(12, 2, 4) | sqrt | other | plans.cosine(12, 2)
    compare = {"WSD": ("decay",), "cosine": ("cosine",)}
    config = with_tree(branches, compare=compare, batch_size=4, seeds=3)
    workdir = tmp_path_factory.mktemp("paired")
    grow(workdir, config)
    write_json(workdir / "config.json", to_json(config))
    return Run(workdir)


def test_a_difference_is_a_paired_t_test(run):
    """Of what the config compares; else of all leaves with the first, at a level for them all."""
    leaves = ["decay", "sqrt", "cosine", "elsewhere"]
    ends = {name: run.table(name).evaluations["eval_loss"][-1] for name in leaves}
    alone = Run(run.workdir)
    alone.compared = {}
    for found, others in (
        (paired.differences(run, leaves), ["cosine"]),
        (paired.differences(alone, leaves), leaves[1:]),
    ):
        assert [(each.branch, each.other) for each in found] == [(n, "decay") for n in others]
        for each in found:
            test = stats.ttest_rel(ends[each.branch], ends["decay"])
            interval = test.confidence_interval(1 - 0.05 / len(others))
            assert each.finding.value == pytest.approx((ends[each.branch] - ends["decay"]).mean())
            assert each.finding.interval == pytest.approx((interval.low, interval.high))


def test_a_table_says_which_is_higher(run):
    (difference,) = paired.differences(run, ["sqrt", "decay"])
    header, *rows = paired.table([difference])
    assert header == paired.HEADER
    shifted = [
        difference._replace(finding=paired.above(np.array(values)))
        for values in ([1.0, 1.1, 0.9], [-1.0, -1.1, -0.9], [0.1, -0.1, 0.0])
    ]
    said = [row[-1] for row in paired.table(shifted)[1:]]
    assert said == ["higher", "lower", "not told apart"]
    assert len(rows) == 1


def test_what_has_other_seeds_is_not_compared(run):
    run = Run(run.workdir)
    decay = run.branches["decay"]
    run.branches = run.branches | {"decay": dataclasses.replace(decay, seeds=2)}
    assert paired.differences(run, ["sqrt", "decay"]) == []
    assert paired.table([]) == []
