"""Branches on disk: forks that jump nowhere, siblings, what is refused, and what is kept."""

import contextlib
import dataclasses
import json
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import files, grow, load_config, rows_of, same, with_tree

from experiments.launch import launch
from wsdjax import data, models, schedules, tree
from wsdjax.branches import BranchStore, DamagedCheckpoint, MissingNode, WorkdirBusy
from wsdjax.config import Branch, Constant, Cooldown, Overrides, Rewarm
from wsdjax.errors import ConfigError
from wsdjax.files import read_json, write_json
from wsdjax.trainer import Diverged
from wsdjax.training import optim
from wsdjax.training import state as states
from wsdjax.training.step import make_evaluate, make_step


def test_a_fork_with_the_parents_schedule_is_the_parent_continued(tmp_path):
    """trunk@20 > more equals one trunk of the same length, to the bit, and row by row."""
    config = with_tree({"long": Branch(steps=30, schedule=Constant(4))})
    long = grow(tmp_path / "long", config)
    forked = {
        "trunk": Branch(steps=20, schedule=Constant(4)),
        "more": Branch(parent="trunk", steps=10, schedule=Constant(4)),
    }
    store = grow(tmp_path / "forked", with_tree(forked))
    assert same(store.restore("more"), long.restore("long"))
    whole = [row for row in rows_of(long, "long") if "loss" in row]
    parts = rows_of(store, "trunk") + rows_of(store, "more")
    assert [row for row in parts if "loss" in row] == whole


def test_siblings_train_together_as_they_would_alone(tmp_path):
    """Three cooldowns of other shapes and betas are replicates of one program."""
    trunk = {"trunk": Branch(steps=10, schedule=Constant(2))}
    decays = {
        "linear": Branch(parent="trunk", steps=5, schedule=Cooldown("linear")),
        "sqrt": Branch(parent="trunk", steps=5, schedule=Cooldown("sqrt")),
        "b2": Branch(
            parent="trunk", steps=5, schedule=Cooldown(), optimizer=Overrides(b2=0.9, b1=0.5)
        ),
    }
    together = grow(tmp_path / "together", with_tree(trunk | decays))
    assert together.siblings("sqrt") == ["linear", "sqrt", "b2"]
    for name in decays:
        alone = grow(tmp_path / name, with_tree(trunk | {name: decays[name]}))
        a, b = (s.restore(name).params for s in (together, alone))
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), a, b)
    ends = [np.asarray(together.restore(name).params["fc1"]["kernel"]) for name in decays]
    assert not np.allclose(ends[0], ends[1], atol=2e-6)
    assert not np.allclose(ends[0], ends[2], atol=2e-6)


def test_children_leave_their_parents_files_alone(finished, tmp_path):
    """Every file of the trunk is the same, to the byte, after a new child has trained."""
    workdir = shutil.copytree(finished, tmp_path / "w")
    before = files(workdir / "branches/trunk")
    config = load_config()
    config.tree["late"] = Branch(parent="trunk", steps=3, schedule=Cooldown("cosine"))
    store = grow(workdir, config)
    assert store.is_done("late")
    assert files(workdir / "branches/trunk") == before


def test_rates_along_a_lineage_are_the_single_formula(finished):
    """The logged rates of trunk > decay are schedules.wsd at t = 1, ..., T."""
    updates, _ = BranchStore(finished).metrics("decay")
    expected = schedules.wsd(3e-3, 4, 36, 12)(np.arange(1, 37)).astype(np.float32)
    np.testing.assert_array_equal(updates["step"], np.arange(1, 37))
    np.testing.assert_array_equal(updates["rate"].astype(np.float32), expected)
    assert updates["rate"][-1] == 0
    assert updates["loss"].shape == (36, 2)


def test_row_n_is_the_loss_before_update_n_on_batch_n_minus_1(finished):
    """For every seed: from the initialisation, and over a fork, from the parent's node."""
    store = BranchStore(finished)
    branch = store.branches()["decay"]
    model, dataset = models.build(branch.model), data.load(branch.data)
    rows = store.metrics("decay").updates["loss"]
    stream = data.Stream(dataset.train, branch.batch_size, branch.replicate_seeds)
    nodes = {0: states.create(model, branch.replicate_seeds), 24: store.restore("trunk")}
    for step, state in nodes.items():
        losses = jax.vmap(model.loss)(state.params, stream[step])
        np.testing.assert_allclose(rows[step], losses, rtol=1e-5)
    evaluated = store.metrics("decay").evaluations["eval_loss"][-1]
    batches = data.in_order(dataset.test)
    final = make_evaluate(model)(store.restore("decay").params, batches)
    np.testing.assert_allclose(evaluated, final["loss"], rtol=1e-5)


def test_update_n_uses_the_rate_eta_of_n(finished):
    """The decay again from the trunk's node, by the step itself and the paper's formula; and
    its last update, of rate zero, moves nothing."""
    store = BranchStore(finished)
    branch = store.branches()["decay"]
    model = models.build(branch.model)
    step = make_step(model)
    stream = data.Stream(data.load(branch.data).train, branch.batch_size, branch.replicate_seeds)
    state = store.restore("trunk")
    for t in range(25, 36):
        eta = 3e-3 * (1 - (t - 24) / 12)
        hyper = jax.tree.map(lambda x: np.full(2, x), optim.hyper(branch.optimizer, eta))
        state, _ = step(state, stream[t - 1], hyper)
    before, after = store.restore("decay", 35).params, store.restore("decay", 36).params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), state.params, before)
    assert same(before, after)


def test_siblings_log_their_own_rates_and_seeds_are_the_configs(tmp_path):
    """Replicate 0 of seed 1 is replicate 1 of seed 0, in its initialisation and its batches."""
    branches = {
        "linear": Branch(steps=5, schedule=Cooldown("linear")),
        "square": Branch(steps=5, schedule=Cooldown("square")),
    }
    two = grow(tmp_path / "two", with_tree(branches))
    one = grow(tmp_path / "one", with_tree(branches, seed=1, seeds=1))
    for name in branches:
        formula = schedules.wsd(3e-3, 0, 5, 5, name)(np.arange(1, 6)).astype(np.float32)
        rates = two.metrics(name).updates["rate"].astype(np.float32)
        np.testing.assert_array_equal(rates, formula)
        of_two = two.metrics(name).updates["loss"][:, 1]
        np.testing.assert_allclose(one.metrics(name).updates["loss"][:, 0], of_two, rtol=1e-5)
        assert not np.allclose(two.metrics(name).updates["loss"][:, 0], of_two, rtol=1e-5)


def test_augmented_data_are_trained_on(tmp_path):
    config = with_tree({"trunk": Branch(steps=1, schedule=Constant())})
    config.data.augment = True
    store = grow(tmp_path, config)
    model = models.build(config.model)
    state = states.create(model, [0, 1])
    stream = data.Stream(data.load(config.data).train, 8, [0, 1], augment=True)
    losses = jax.vmap(model.loss)(state.params, stream[0])
    np.testing.assert_allclose(store.metrics("trunk").updates["loss"][0], losses, rtol=1e-5)


def test_evaluations_stand_at_their_steps(finished):
    """After every seventh update of the run and at each branch's end."""
    _, evaluations = BranchStore(finished).metrics("decay")
    assert evaluations["step"].tolist() == [7, 14, 21, 24, 28, 35, 36]


def test_restore_needs_no_template_and_takes_no_lock(finished):
    """A reader gets [R, ...] leaves and a scalar int32 step while another process may write."""
    store = BranchStore(finished)
    with BranchStore(finished).lock():
        state = store.restore("decay")
    assert (state.step.shape, state.step.dtype, int(state.step)) == ((), jnp.int32, 36)
    assert state.params["conv1"]["kernel"].shape == (2, 3, 3, 3, 4)
    model = models.build(store.branches()["decay"].model)
    assert jax.tree.structure(state) == jax.tree.structure(states.create(model, [0, 1]))
    one = states.replicate(state, 1)
    assert same(one.params, jax.tree.map(lambda leaf: leaf[1], state.params))


def test_a_branchs_first_node_is_its_parents(finished):
    """Nothing is copied by a fork: decay@24 is trunk@24."""
    store = BranchStore(finished)
    assert same(store.restore("decay", 24), store.restore("trunk", 24))
    assert store.lineage("decay") == [("trunk", 0, 24), ("decay", 24, 36)]


def test_what_is_kept(finished):
    """The newest two, every fork point and the end."""
    store = BranchStore(finished)
    assert store.steps("trunk") == [20, 24]
    assert store.steps("decay") == [35, 36]
    record = json.loads((store.directory("decay") / "branch.json").read_text())
    assert record["branch"]["parent"] == "trunk"
    assert set(record["differs_from_parent"]) == {
        "schedule.type",
        "schedule.warmup_steps",
        "schedule.shape",
        "schedule.end_value",
    }


def test_a_fork_inside_a_trunk_is_kept_for_good(tmp_path):
    """The node a child needs survives, although newer checkpoints follow."""
    branches = {
        "trunk": Branch(steps=30, schedule=Constant(2)),
        "early": Branch(parent="trunk@8", steps=2, schedule=Cooldown()),
    }
    store = grow(tmp_path, with_tree(branches))
    assert store.steps("trunk") == [8, 25, 30]
    store.set_aside("trunk", 8)
    shutil.rmtree(tmp_path / "branches/early/checkpoints")
    with pytest.raises(MissingNode, match="'early' cannot start: no checkpoint trunk@8"):
        grow(tmp_path, with_tree(branches))


def test_a_branch_that_means_something_else_is_refused(finished, tmp_path):
    """Field by field, with both values, and nothing is written; logging is free to change."""
    workdir = shutil.copytree(finished, tmp_path / "w")
    before = files(workdir)
    config = load_config()
    config.optimizer.b2 = 0.95
    config.tree["cosine"].steps = 40
    with pytest.raises(ConfigError) as error:
        BranchStore(workdir).register(tree.resolve(config))
    said = str(error.value)
    assert "optimizer.b2 is 0.999 there, 0.95 now (trunk, decay, cosine)" in said
    assert "end is 36 there, 40 now (cosine)" in said
    assert files(workdir) == before
    config = load_config()
    config.eval_every, config.keep, config.checkpoint_every = 3, 9, 4
    BranchStore(workdir).register(tree.resolve(config))


def test_a_fork_that_cannot_go_on_is_refused(finished):
    """Another model, a missing parent, a step that was not kept: each names both sides."""
    store = BranchStore(finished)
    child = dataclasses.replace(store.branches()["decay"], name="child")
    with pytest.raises(MissingNode, match="no branch 'stem'; there are trunk, decay, cosine"):
        store.fork(dataclasses.replace(child, parent="stem"))
    with pytest.raises(MissingNode, match="trunk@11 was not kept; there are steps 20, 24"):
        store.fork(dataclasses.replace(child, start=11))
    with pytest.raises(MissingNode, match="has the steps 1 to 24, not 25"):
        store.fork(dataclasses.replace(child, start=25))
    other = dataclasses.replace(child.model, widths=(8, 4))
    with pytest.raises(ConfigError, match=r"model is .*8, 4.*the parent's is .*4, 4"):
        store.fork(dataclasses.replace(child, model=other))
    with pytest.raises(MissingNode, match="the steps saved are 20, 24"):
        store.restore("trunk", 23)


def test_a_fork_behind_an_unfinished_trunk_is_refused(finished, tmp_path):
    """It was not kept, and the trunk is past it: nothing is written, of its sibling neither."""
    workdir = shutil.copytree(finished, tmp_path / "w")
    store = BranchStore(workdir)
    store.discard_after("trunk", 20)
    before = files(workdir)
    config = load_config()
    config.tree["fine"] = Branch(parent="trunk", steps=3, schedule=Cooldown())
    config.tree["early"] = Branch(parent="trunk@8", steps=3, schedule=Cooldown())
    with pytest.raises(MissingNode, match="trunk@8 was not kept; there are steps 20"):
        store.register(tree.resolve(config))
    assert files(workdir) == before


def test_a_registration_cut_short_is_completed_or_refused(tmp_path):
    """Siblings that were begun together stay together; a config that drops one is refused."""
    siblings = {
        "a": Branch(steps=4, schedule=Constant()),
        "b": Branch(steps=4, schedule=Constant(2)),
    }
    branches = tree.resolve(with_tree(siblings))
    store = BranchStore(tmp_path)
    store.create(branches["a"], ["a", "b"])
    with pytest.raises(ConfigError, match=r"a, b were begun in .* as branches that train together"):
        store.register({"a": branches["a"]})
    store.register(branches)
    assert store.siblings("b") == ["a", "b"]


def test_a_branch_that_is_taken_out_of_the_config_is_not_trained(tmp_path):
    """Not even beside a sibling, whose program it is part of: that is refused, until it is there
    again. Without an unfinished sibling it is left as it is."""
    config = with_tree(
        {
            "first": Branch(steps=3, schedule=Constant()),
            "a": Branch(steps=4, schedule=Constant()),
            "b": Branch(steps=4, schedule=Constant(2)),
        }
    )
    store = BranchStore(tmp_path)
    store.register(tree.resolve(config))
    del config.tree["b"]
    before = files(tmp_path)
    with pytest.raises(ConfigError, match="a was begun in one program with b, which would be"):
        launch(config, store, tree.resolve(config))
    assert files(tmp_path) == before
    del config.tree["a"]
    launch(config, store, tree.resolve(config))
    assert [name for name in store.names() if store.steps(name)] == ["first"]


def test_checkpoints_elsewhere_are_found_again_and_not_shared(tmp_path):
    """The record says where they are; another run is refused the same place."""
    config = with_tree({"trunk": Branch(steps=2, schedule=Constant())})
    branches = tree.resolve(config)
    store = BranchStore(tmp_path / "w", str(tmp_path / "bucket"))
    store.register(branches)
    model = models.build(config.model)
    with store.lock():
        store.save("trunk", states.create(model, [0, 1]))
    assert not (tmp_path / "w/branches/trunk/checkpoints").exists()
    assert BranchStore(tmp_path / "w").steps("trunk") == [0]
    with pytest.raises(ConfigError, match="belongs to another run"):
        BranchStore(tmp_path / "other", str(tmp_path / "bucket")).register(branches)


def test_a_state_of_another_structure_is_no_damage(finished, tmp_path, monkeypatch):
    """A checkpoint of another optimizer is refused, not set aside."""
    workdir = shutil.copytree(finished, tmp_path / "w")
    monkeypatch.setattr(states.optim, "init", lambda params: optax.sgd(1.0, 0.9).init(params))
    with pytest.raises(ConfigError, match="it cannot be continued here"):
        BranchStore(workdir).restore("decay")


def test_a_second_writer_is_refused(tmp_path):
    with (
        BranchStore(tmp_path).lock(),
        pytest.raises(WorkdirBusy, match="another process"),
        BranchStore(tmp_path).lock(),
    ):
        pass


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    """It names the update and the seeds, and no checkpoint holds a number that is not finite."""
    config = with_tree({"trunk": Branch(steps=40, schedule=Constant())}, checkpoint_every=1)
    config.optimizer.peak_value = 1e30
    with pytest.raises(Diverged, match=r"not finite at update \d: trunk seed 0, trunk seed 1"):
        grow(tmp_path, config)
    store = BranchStore(tmp_path)
    for step in store.steps("trunk"):
        leaves = jax.tree.leaves(store.restore("trunk", step).params)
        assert all(np.isfinite(leaf).all() for leaf in leaves)


def test_an_update_that_is_not_finite_is_not_saved(tmp_path):
    """The first loss is finite; the update that follows from it is not."""
    config = with_tree({"trunk": Branch(steps=4, schedule=Constant())}, checkpoint_every=1)
    config.optimizer.peak_value = 1e38
    with pytest.raises(Diverged, match="not finite at update 1: trunk seed 0, trunk seed 1"):
        grow(tmp_path, config)
    store = BranchStore(tmp_path)
    assert store.steps("trunk") == []
    row = json.loads(
        (tmp_path / "branches/trunk/metrics.jsonl").read_text(), parse_constant=pytest.fail
    )
    assert np.isfinite(row["loss"]).all()
    assert row["update_norm"] == [None, None]
    assert np.isnan(store.metrics("trunk").updates["update_norm"]).all()


def test_what_diverges_does_not_stop_the_others(tmp_path):
    """Its children are left out; its siblings cannot go on, and the error says what to do."""
    high = Overrides(peak_value=1e30)
    branches = {
        "bad": Branch(steps=6, schedule=Constant(), optimizer=high),
        "good": Branch(steps=6, schedule=Constant()),
        "child": Branch(parent="bad", steps=3, schedule=Cooldown()),
        "other": Branch(steps=5, schedule=Constant()),
        "leaf": Branch(parent="other", steps=3, schedule=Cooldown()),
    }
    with pytest.raises(Diverged) as error:
        grow(tmp_path, with_tree(branches))
    assert "bad seed 0, bad seed 1. The last good" in str(error.value)
    assert "bad, good train together: to go on without it give the others new" in str(error.value)
    store = BranchStore(tmp_path)
    assert [name for name in branches if store.is_done(name)] == ["other", "leaf"]


def test_a_save_that_fails_is_not_passed_over(tmp_path):
    """An asynchronous save that the system stops, as a full disk would, is reported by the wait
    that follows it, and leaves no node."""
    config = with_tree({"trunk": Branch(steps=2, schedule=Constant())})
    store = BranchStore(tmp_path)
    store.register(tree.resolve(config))
    large = {"kernel": jax.random.normal(jax.random.key(0), (2, 1_000_000))}
    state = states.State(jnp.int32(0), large, jax.vmap(states.optim.init)(large))
    with files_of_at_most(2**20):
        store.save("trunk", state)
        with pytest.raises(OSError, match=r"trunk@0 was not saved in .*File too large"):
            store.wait("trunk")
    assert store.steps("trunk") == []


@contextlib.contextmanager
def files_of_at_most(size):
    """No file of this process can grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_of_another_shape_is_damaged(finished, tmp_path):
    """The arrays of one leaf in the place of another's."""
    workdir = shutil.copytree(finished, tmp_path / "w")
    at = workdir / "branches/decay/checkpoints/36/state"
    shutil.rmtree(at / "params.conv1.bias")
    shutil.copytree(at / "params.fc1.bias", at / "params.conv1.bias")
    with pytest.raises(DamagedCheckpoint, match="decay/checkpoints/36 is damaged"):
        BranchStore(workdir).restore("decay")


def test_a_branch_that_is_made_again_takes_its_old_place(tmp_path):
    """And one that is new none before its parent's."""
    branches = {"trunk": Branch(steps=2, schedule=Constant())}
    for n in (1, 2):
        branches[f"decay{n}"] = Branch(parent="trunk", steps=n, schedule=Cooldown())
    config = with_tree(branches)
    store = grow(tmp_path, config)
    shutil.rmtree(store.directory("decay1"))
    again = grow(tmp_path, config)
    assert again.names() == ["trunk", "decay1", "decay2"]
    shutil.rmtree(store.directory("decay1"))
    config.tree.pop("decay1")
    config.tree["on"] = Branch(parent="decay2", steps=1, schedule=Rewarm())
    assert grow(tmp_path, config).names() == ["trunk", "decay2", "on"]


def test_checkpoints_that_went_elsewhere_are_found_when_they_are_brought_home(finished, tmp_path):
    workdir, bucket = tmp_path / "w", tmp_path / "bucket"
    shutil.copytree(finished, workdir)
    place = workdir / "branches" / "decay"
    expected = BranchStore(workdir).restore("decay")
    (bucket / "decay").mkdir(parents=True)
    (place / "checkpoints").rename(bucket / "decay" / "checkpoints")
    record = read_json(place / "branch.json", "")
    elsewhere = str(bucket / "decay" / "checkpoints")
    write_json(place / "branch.json", {**record, "checkpoints": elsewhere})
    assert same(BranchStore(workdir).restore("decay"), expected)
    (bucket / "decay" / "checkpoints").rename(place / "checkpoints")
    store = BranchStore(workdir)
    assert store.is_done("decay")
    assert same(store.restore("decay"), expected)
