"""experiments.branch: look at a tree, fork it, extend it, from the command line."""

import re
import shutil
import signal

import numpy as np
import pytest
from helpers import call, files, kill, rows_of, same

from wsdjax import schedules
from wsdjax.branches import BranchStore


def branch(*arguments):
    return call("experiments.branch", *arguments)


def fork(workdir, node, name, *more):
    return "fork", node, f"--workdir={workdir}", f"--name={name}", "--steps=6", *more


@pytest.fixture(scope="module")
def grown(finished, tmp_path_factory):
    """The tiny tree after a trunk was decayed in two more ways by two commands, and extended."""
    workdir = tmp_path_factory.mktemp("grown") / "tiny"
    shutil.copytree(finished, workdir)
    before = files(workdir / "branches")
    said = []
    for command in (
        fork(workdir, "trunk", "sqrt", "--schedule=Cooldown('sqrt')"),
        fork(
            workdir,
            "trunk@20",
            "other",
            "--schedule=Cooldown(shape='lowered_linear(0.5)', end_value=1e-4)",
            *("--b2=0.9", "--weight_decay=0", "--data=Photos(noise=0.2, eval_size=50)"),
            *("--reset_optimizer", "--data_seed=6", "--averages=Averages(ema=0.9)"),
        ),
        ("extend", "trunk", f"--workdir={workdir}", "--steps=4", "--name=longer"),
    ):
        code, out, err = branch(*command)
        assert code == 0, err
        said.append((out, err))
    after = files(workdir / "branches")
    assert {path: after[path] for path in before} == before
    return workdir, said


def test_forks_are_what_was_asked_for(grown):
    store = BranchStore(grown[0])
    branches = store.branches()
    sqrt, other, longer = (branches[name] for name in ("sqrt", "other", "longer"))
    assert (sqrt.start, sqrt.end, sqrt.optimizer.b2) == (24, 30, 0.999)
    rates = store.metrics("sqrt").updates["rate"]
    formula = schedules.wsd(3e-3, 4, 30, 6, "sqrt")(np.arange(1, 31)).astype(np.float32)
    np.testing.assert_array_equal(rates.astype(np.float32), formula)
    assert (other.optimizer.b2, other.optimizer.weight_decay) == (0.9, 0.0)
    assert (other.data.noise, other.data_start, other.reset_optimizer) == (0.2, 20, True)
    assert (other.data_seed, other.averages.ema) == (6, 0.9)
    assert longer.schedule == branches["trunk"].schedule
    assert (longer.start, longer.end) == (24, 28)
    assert all(store.is_done(name) for name in branches)


def test_both_decays_are_in_the_figure_and_the_table(grown):
    """They go on from the trunk's curve: their first point is its last."""
    from experiments.report import figures
    from experiments.report.reading import Run

    workdir, said = grown
    assert re.search(r"trunk > sqrt +30 ", said[0][0])
    assert re.search(r"trunk@20 > other +26 ", said[1][0])
    curves = {curve.label: curve for curve in figures.curves(Run(workdir), "param_norm")}
    trunk, sqrt = curves["trunk (constant rate)"], curves["sqrt (WSD, sqrt cooldown)"]
    assert sqrt.steps[0] == trunk.steps[-1] == 24
    np.testing.assert_array_equal(sqrt.values[0], trunk.values[-1])
    assert 'id="convex_bound"' in (workdir / "report.html").read_text()


def test_jumps_are_printed(grown):
    assert "other: the rate jumps from 3.000e-03 to 1.500e-03 at trunk@20" in grown[1][1][1]
    assert "jumps" not in grown[1][0][1]


def test_the_tree_is_drawn(grown):
    code, out, err = branch("list", f"--workdir={grown[0]}")
    assert (code, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "branch updates schedule and changes status held-out loss"
    assert re.fullmatch(r"trunk 0 → 24 Constant\(warmup_steps=4\) done \d\.\d{4}", lines[1])
    assert re.fullmatch(r"├─ sqrt 24 → 30 Cooldown\(shape='sqrt'\) done \d\.\d{4}", lines[3])
    assert lines[5].startswith("└─ longer 24 → 28")
    assert lines[6].startswith("cosine 0 → 36")


def test_a_branch_is_shown(grown):
    code, out, err = branch("show", "other", f"--workdir={grown[0]}")
    assert (code, err) == (0, "")
    for line in (
        "other: updates 21 to 26, done",
        "lineage       trunk@20 > other@26",
        "at the fork   optimizer: reset",
        "at the fork   rate: jumps from 3.000e-03 to 1.500e-03",
        "differs       optimizer.b2: 0.999 in trunk, 0.9 here",
    ):
        assert line in out.splitlines()
    assert "data: another data set, seed 6: Photos(noise=0.2" in out


def test_two_branches_are_compared(grown):
    code, out, err = branch("diff", "sqrt", "decay", f"--workdir={grown[0]}")
    assert (code, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[:3] == ["sqrt decay", "end 30 36", "schedule.shape sqrt linear"]
    assert re.fullmatch(r"held-out loss \d\.\d{4} \d\.\d{4}", lines[3])
    assert lines[4] == "They share trunk."


def test_the_same_fork_again_does_nothing_and_another_is_refused(grown):
    workdir = grown[0]
    before = files(workdir)
    again = fork(workdir, "trunk", "sqrt", "--schedule=Cooldown('sqrt')")
    code, out, _ = branch(*again)
    assert code == 0
    assert "Nothing is missing" in out
    code, _, err = branch(*again, "--b2=0.5")
    assert code == 2
    assert "optimizer.b2 is 0.999 there, 0.5 now (sqrt)" in err
    assert files(workdir) == before


def test_a_fork_that_is_killed_goes_on_to_the_same_bits(grown, tmp_path):
    """SIGKILL after an update, and while a checkpoint is written; the command typed again ends
    as if it had not been."""
    workdir = shutil.copytree(grown[0], tmp_path / "w")
    shutil.rmtree(workdir / "branches" / "sqrt")
    command = fork(workdir, "trunk", "sqrt", "--schedule=Cooldown('sqrt')")
    for what, step in (("update", 24 + 3), ("save", 25), ("update", 28)):
        if what == "save":
            BranchStore(workdir).discard_after("sqrt", 24)
        assert kill(what, "sqrt", step, "experiments.branch", *command) == -signal.SIGKILL
    code, _, err = branch(*command)
    assert code == 0, err
    store, expected = BranchStore(workdir), BranchStore(grown[0])
    assert same(store.restore("sqrt"), expected.restore("sqrt"))
    assert rows_of(store, "sqrt") == rows_of(expected, "sqrt")


MISTAKES = {
    "no command": (("lst",), "'lst' is no command; the commands are list, show"),
    "no name": (("show",), "show takes one branch, got none"),
    "an unknown branch": (("show", "stem"), "no branch 'stem'"),
    "an unknown branch to compare": (("diff", "trunk", "stem"), "no branch 'stem'"),
    "a fork of nothing": (fork("W", "stem", "x")[:2], "--name"),
    "a node that is not there": (("fork", "trunk@11", "--name=x", "--steps=3"), "there are steps"),
    "a step beyond": (("fork", "trunk@99", "--name=x", "--steps=3"), "trunk has the steps 1 to 24"),
    "no length": (("fork", "trunk", "--name=x"), "--steps"),
    "no such schedule": (
        ("fork", "trunk", "--name=x", "--steps=3", "--schedule=Decay"),
        "--schedule: no Decay; there are Constant, Hold",
    ),
    "a wrong field": (
        ("fork", "trunk", "--name=x", "--steps=3", "--schedule=Cooldown(form='sqrt')"),
        "Cooldown has no field 'form'; it has shape, end_value",
    ),
    "a value out of range": (
        ("fork", "trunk", "--name=x", "--steps=3", "--b2=2"),
        "tree.x.optimizer.b2 = 2.0: must be >= 0 and < 1",
    ),
    "a data set for a schedule": (
        ("fork", "trunk", "--name=x", "--steps=3", "--schedule=Photos"),
        "no Photos; there are Constant",
    ),
    "nothing left to decay": (
        ("fork", "decay", "--name=x", "--steps=3"),
        "the rate of 'decay' is 0 at 36",
    ),
    "a flag without a use": (("list", "--steps=3"), "list takes no --steps"),
    "a schedule for an extension": (
        ("extend", "trunk", "--steps=3", "--schedule=Hold"),
        "extend takes no --schedule",
    ),
    "a length beyond numbers": (
        ("fork", "trunk", "--name=x", "--steps=1e400"),
        "tree.x.steps = '1e400': is more updates than can be counted",
    ),
    "a length beyond counting": (
        ("fork", "trunk", "--name=x", "--steps=2147483647"),
        "would end at update 2,147,483,671, and they are counted to 2,147,483,647",
    ),
    "a path for a branch": (("show", "./trunk"), "no branch './trunk'"),
    "a path upwards": (("fork", "../branches/trunk", "--name=x", "--steps=3"), "no branch '../br"),
    "a path to extend": (("extend", "./trunk", "--steps=3"), "no branch './trunk'"),
    "a path to compare": (("diff", "trunk", "./trunk"), "no branch './trunk'"),
    "two steps": (("fork", "trunk@5@6", "--name=x", "--steps=3"), 'write "NAME", or "NAME@STEP'),
    "no step": (("fork", "trunk@", "--name=x", "--steps=3"), 'write "NAME", or "NAME@STEP'),
    "a long name": (("fork", "trunk", f"--name={'x' * 300}", "--steps=3"), "at most 100 bytes"),
    "a required field": (
        ("fork", "trunk", "--name=x", "--steps=3", "--data=Text"),
        "Text.__init__() missing 1 required positional argument: 'directory'",
    ),
    "a field twice": (
        ("fork", "trunk", "--name=x", "--steps=3", "--schedule=Cooldown('sqrt', shape='linear')"),
        "Cooldown.__init__() got multiple values for argument 'shape'",
    ),
    "no value": (
        ("fork", "trunk", "--name=x", "--steps=3", "--schedule=Cooldown({[]:1})"),
        "write it as in a config file",
    ),
    "too deep": (
        ("fork", "trunk", "--name=x", "--steps=3", f"--schedule={'-' * 5_000}1"),
        "write it as in a config file",
    ),
    "far too long": (("fork", "trunk", "--name=x", f"--steps={'-' * 100_000}"), "too many"),
    "no number": (
        ("fork", "trunk", "--name=x", "--steps=3", "--schedule=Cooldown('power(1.2.3)')"),
        "unknown cooldown shape 'power(1.2.3)'; the shapes are",
    ),
    "more than the machine holds": (
        ("fork", "trunk", "--name=x", "--steps=3", "--data=Photos(eval_size=2000000000)"),
        "data.eval_size = 2000000000: training x takes at least",
    ),
    "an extension of what has ended": (
        ("extend", "decay", "--steps=3"),
        "that of decay, Cooldown, has ended: use fork",
    ),
    "no workdir": (("list", "--workdir="), "give the run's directory"),
    "a bad name": (("fork", "trunk", "--name=../x", "--steps=3"), "'../x' is no branch name"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_in_a_line_and_nothing_is_written(mistake, grown):
    arguments, said = MISTAKES[mistake]
    before = files(grown[0])
    workdir = [] if mistake == "no workdir" else [f"--workdir={grown[0]}"]
    code, out, err = branch(*arguments, *workdir)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.strip().splitlines()) <= 2, err
    assert len(err) < 400
    assert files(grown[0]) == before


def test_a_workdir_without_a_run(tmp_path):
    code, _, err = branch("list", f"--workdir={tmp_path}")
    assert code == 2
    assert "no run is there" in err
