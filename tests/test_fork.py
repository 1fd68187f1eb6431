"""Forks that change something: data, moments, averages; and forks of earlier formats."""

import contextlib
import dataclasses
import shutil
import subprocess
import sys
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT, Silent, Stop, files, grow, load_config, rows_of, same, with_tree

from experiments.report import baselines, figures, tables
from experiments.report.reading import Run
from experiments.report.write import write_report
from wsdjax import data, models, tree
from wsdjax.branches import BranchStore
from wsdjax.config import CNN, Averages, Branch, Constant, Cooldown, Hold, Overrides, Photos
from wsdjax.errors import ConfigError
from wsdjax.files import DamagedFile, read_json, write_json
from wsdjax.trainer import Trainer, Watch, fork, start
from wsdjax.training import averages, optim
from wsdjax.training import state as states
from wsdjax.training.step import make_evaluate, make_step


@pytest.fixture(scope="module")
def forked(tmp_path_factory):
    """A trunk and its forks: fresh data, other data, reset moments, and a child of one."""
    config = load_config()

    def at_20(**changes):
        return Branch(parent="trunk@20", steps=5, schedule=Constant(4), **changes)

    config.tree |= {
        "fresh": at_20(data_seed=7),
        "other": at_20(data=Photos(noise=0.1, size=999, eval_size=30)),
        "reset": at_20(reset_optimizer=True),
        "kept": at_20(),
        "on": Branch(parent="fresh@23", steps=2, schedule=Constant(4)),
    }
    workdir = tmp_path_factory.mktemp("forked")
    return grow(workdir, config)


def first_losses(store, name):
    """Of a branch's first update: [R]."""
    start = store.branches()[name].start
    return store.metrics(name).updates["loss"][start]


def loss_on(store, node, batch):
    model = models.build(store.branches()["trunk"].model)
    return jax.vmap(model.loss)(store.restore(*node).params, batch)


def test_the_batches_after_a_fork(forked):
    """`continue` takes batch 20 of the parent's stream; `fresh` and another data set batch 0 of
    their own; a child of a fresh stream goes on with it."""
    node = ("trunk", 20)
    config = forked.branches()["trunk"].data
    train = data.load(config).train
    other = data.load(Photos(noise=0.1, size=999, eval_size=30)).train
    expected = {
        "kept": data.Stream(train, 8, (0, 1))[20],
        "reset": data.Stream(train, 8, (0, 1))[20],
        "fresh": data.Stream(train, 8, (7, 8))[0],
        "other": data.Stream(other, 8, (0, 1))[0],
    }
    for name, batch in expected.items():
        losses = loss_on(forked, node, batch)
        np.testing.assert_allclose(first_losses(forked, name), losses, rtol=1e-5)
    batch = data.Stream(train, 8, (7, 8))[3]
    losses = loss_on(forked, ("fresh", 23), batch)
    np.testing.assert_allclose(first_losses(forked, "on"), losses, rtol=1e-5)


def test_another_data_set_is_evaluated_on_its_own_test_split(forked):
    model = models.build(forked.branches()["other"].model)
    test = data.in_order(data.load(forked.branches()["other"].data).test)
    expected = make_evaluate(model)(forked.restore("other").params, test)["loss"]
    evaluated = forked.metrics("other").evaluations["eval_loss"][-1]
    np.testing.assert_allclose(evaluated, expected, rtol=1e-5)


def test_moments_are_kept_or_reset(forked):
    """The first update from the trunk's node, by the step itself, with its moments and without."""
    branch = forked.branches()["trunk"]
    model = models.build(branch.model)
    step = make_step(model)
    batch = data.Stream(data.load(branch.data).train, 8, (0, 1))[20]
    hyper = jax.tree.map(lambda x: np.full(2, x), optim.hyper(branch.optimizer, 3e-3))
    counts = {}
    for name in ("kept", "reset"):
        node = forked.restore("trunk", 20)
        node = states.with_new_moments(node) if name == "reset" else node
        _, metrics = step(node, batch, hyper)
        updates = forked.metrics(name).updates["update_norm"][20]
        np.testing.assert_allclose(updates, metrics["update_norm"], rtol=1e-4)
        counts[name] = int(forked.restore(name).opt_state[1].count[0])
    assert counts == {"kept": 25, "reset": 5}
    # The first update without moments is sign-like: much larger than one that has them.
    norms = [forked.metrics(name).updates["update_norm"][20] for name in ("reset", "kept")]
    assert (norms[0] > 1.5 * norms[1]).all()


def test_a_fork_is_recorded_in_words(forked):
    assert forked.record("reset")["at_the_fork"] == {
        "data": "continue: the batches that the parent would have seen",
        "optimizer": "reset",
        "rate": "goes on from 3.000e-03",
    }
    assert set(forked.record("fresh")["differs_from_parent"]) == {"data_seed", "data_start"}
    assert set(forked.record("reset")["differs_from_parent"]) == {"reset_optimizer"}


def test_siblings_together_are_as_alone_over_hundreds_of_updates_in_float64(tmp_path, monkeypatch):
    """Five shapes, two of them with other moments: each parameter to ten digits after 200
    updates, where in float32 they would have parted as chaos does."""
    create = states.create

    def create_in_float64(*arguments):
        state = create(*arguments)
        return states.each(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, state)

    monkeypatch.setattr(states, "create", create_in_float64)
    shapes = ("linear", "cosine", "sqrt", "square", "mirror_cosine")
    decays = {
        shape: Branch(
            parent="trunk",
            steps=200,
            schedule=Cooldown(shape),
            optimizer=Overrides(b2=0.95 if shape in ("sqrt", "square") else None),
        )
        for shape in shapes
    }
    trunk = {"trunk": Branch(steps=20, schedule=Constant(4))}
    small = {"model": CNN(widths=(3,)), "seeds": 1, "batch_size": 4, "checkpoint_every": 200}
    with in_float64():
        together = grow(tmp_path / "together", with_tree(trunk | decays, eval_every=500, **small))
        assert together.siblings("linear") == list(shapes)
        ends = {}
        for shape in shapes:
            config = with_tree(trunk | {shape: decays[shape]}, eval_every=500, **small)
            alone = grow(tmp_path / shape, config)
            ends[shape], expected = (s.restore(shape).params for s in (together, alone))
            assert ends[shape]["fc1"]["kernel"].dtype == jnp.float64
            jax.tree.map(
                lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-8, atol=1e-10),
                ends[shape],
                expected,
            )
        spread = np.ptp([end["fc1"]["kernel"] for end in ends.values()], axis=0)
        assert spread.max() > 1e-3


@contextlib.contextmanager
def in_float64():
    """In all threads, those in which orbax writes included, unlike ``jax.enable_x64``."""
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", False)


AVERAGED = Averages(ema=0.8, window=3, window_every=2)


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """A trunk with averages whose every node is kept, and a fork."""
    branches = {
        "trunk": Branch(steps=9, schedule=Constant(2)),
        "decay": Branch(parent="trunk", steps=4, schedule=Cooldown()),
        "other": Branch(parent="trunk", steps=4, schedule=Cooldown(), averages=Averages(window=2)),
    }
    config = with_tree(branches, averages=AVERAGED, checkpoint_every=1, eval_every=1, keep=20)
    return grow(tmp_path_factory.mktemp("averaged"), config), config


def iterates(store, name, steps):
    return {n: store.restore(name, n).params for n in steps}


def test_averages_are_their_formulas(averaged):
    """sum d^(n-i) theta_i / sum d^(n-i), and the mean of the last three even iterates; a fork
    goes on with both."""
    store, _ = averaged
    theta = iterates(store, "trunk", range(1, 10)) | iterates(store, "decay", range(10, 14))
    for name, n in (("trunk", 1), ("trunk", 3), ("trunk", 9), ("decay", 13)):
        found = jax.vmap(lambda a, p: averages.values(AVERAGED, a, p))(
            store.restore(name, n).averages, store.restore(name, n).params
        )
        weights = {i: 0.8 ** (n - i) for i in range(1, n + 1)}
        latest = [i for i in range(2, n + 1, 2)][-3:] or [n]
        for leaf in (("conv1", "kernel"), ("fc1", "bias")):

            def of(params, leaf=leaf):
                return np.asarray(params[leaf[0]][leaf[1]], np.float64)

            ema = sum(w * of(theta[i]) for i, w in weights.items()) / sum(weights.values())
            np.testing.assert_allclose(of(found["ema"]), ema, rtol=1e-5, atol=1e-7)
            window = np.mean([of(theta[i]) for i in latest], axis=0)
            np.testing.assert_allclose(of(found["window"]), window, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("decay", [0.5, 0.99, 0.9999, 0.99999])
def test_an_average_of_what_stands_still_is_that(decay):
    """At every count, for the decays that people use."""
    config = Averages(ema=decay)
    params = {"w": jnp.array([1.0, -3.0, 1e-3])}
    state = averages.init(config, params)
    update = jax.jit(lambda state, n: averages.update(config, state, params, n))
    for n in range(1, 1001):
        state = update(state, n)
        if n in (1, 10, 1000):
            found = averages.values(config, state, params)["ema"]["w"]
            np.testing.assert_allclose(found, params["w"], rtol=2e-5 if decay > 0.9999 else 3e-6)


def test_moments_and_averages_can_both_begin_anew(averaged):
    store, config = averaged
    node = store.restore("trunk")
    branch = dataclasses.replace(
        store.branches()["decay"], reset_optimizer=True, averages=Averages(window=2)
    )
    new = start.forked(node, branch, config.averages)
    assert set(new.averages) == {"window"}
    assert new.averages["window"]["count"].tolist() == [0, 0]
    assert new.opt_state[1].count.tolist() == [0, 0]
    assert same(new.params, node.params)


def test_averages_leave_the_weights_alone(averaged, tmp_path):
    store, config = averaged
    plain = grow(tmp_path, dataclasses.replace(config, averages=Averages()))
    assert same(store.restore("decay").params, plain.restore("decay").params)
    assert not plain.restore("decay").averages


def test_averages_are_evaluated_beside_the_weights(averaged):
    store, _ = averaged
    branch = store.branches()["decay"]
    model = models.build(branch.model)
    state = store.restore("decay")
    found = jax.vmap(lambda a, p: averages.values(AVERAGED, a, p))(state.averages, state.params)
    evaluations = store.metrics("decay").evaluations
    evaluate = make_evaluate(model)
    test = data.in_order(data.load(branch.data).test)
    for name, params in ({"": state.params} | found).items():
        row = evaluations[f"eval_{name}_loss" if name else "eval_loss"][-1]
        np.testing.assert_allclose(row, evaluate(params, test)["loss"], rtol=1e-5)


def test_averages_are_resumed_to_the_bit(averaged, tmp_path):
    """Stopped at update 3 of the decay, whose newest node is of update 11, and gone on."""
    store, config = averaged
    config = dataclasses.replace(config, checkpoint_every=2)
    stopped = BranchStore(tmp_path, keep=20)
    with stopped.lock():
        stopped.register(tree.resolve(config))
        trainer = Trainer(stopped, Watch(1, 2, progress=Silent(12)))
        with pytest.raises(Stop):
            trainer.train(["decay"])
    assert stopped.steps("decay") == [10]
    resumed = grow(tmp_path, config)
    assert same(resumed.restore("decay"), store.restore("decay"))
    assert rows_of(resumed, "decay") == rows_of(store, "decay")


def test_other_averages_than_the_parents_begin_at_the_fork(averaged):
    store, _ = averaged
    state = store.restore("other")
    assert set(state.averages) == {"window"}
    assert state.averages["window"]["count"].tolist() == [4, 4]
    theta = iterates(store, "other", (12, 13))
    ring = state.averages["window"]["ring"]["fc1"]["bias"].mean(1)
    expected = (theta[12]["fc1"]["bias"] + theta[13]["fc1"]["bias"]) / 2
    np.testing.assert_allclose(ring, expected, rtol=1e-6)


def test_a_lineage_that_changes_its_averages_is_one_table(averaged):
    """Where an average is not kept its column is NaN; where one is new, before it as well."""
    store, _ = averaged
    evaluations = store.metrics("other").evaluations
    ema, window = evaluations["eval_ema_loss"], evaluations["eval_window_loss"]
    assert ema.shape == window.shape == evaluations["eval_loss"].shape == (13, 2)
    assert np.isfinite(ema[:9]).all()
    assert np.isnan(ema[9:]).all()
    assert np.isfinite(window).all()
    write_report(store.workdir)
    rows = [end.schedule for end in tables.final_values(Run(store.workdir))]
    assert rows == [
        "WSD, linear cooldown",
        "WSD, linear cooldown, exponential average",
        "WSD, linear cooldown, latest-window average",
        "WSD, linear cooldown",
        "WSD, linear cooldown, latest-window average",
    ]


def test_a_held_out_curve_is_broken_where_the_data_change(forked):
    """And the loss at the fork, of another held-out set, is not that of the branch."""
    run = Run(forked.workdir)
    curves = {curve.label.split()[0]: curve for curve in figures.curves(run, "eval_loss")}
    assert curves["fresh"].steps[0] <= 20
    assert curves["other"].steps[0] > 20
    ends = {end.lineage[-1]: end for end in tables.final_values(run)}
    assert ends["other"].held_out_loss_at_fork is None
    assert ends["decay"].held_out_loss_at_fork.shape == (2,)


@pytest.fixture
def second_format(tmp_path):
    """A workdir of commit a9c6116: a trunk, and a decay whose last update is missing."""
    with tarfile.open(ROOT / "tests" / "data" / "workdir_format_2.tar.xz") as archive:
        safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(tmp_path, **safe)
    return tmp_path / "a9c6116"


def test_a_workdir_as_format_2_began_goes_on(second_format):
    """Whose rows and records had no checksums. Its parent is not touched, and what is added can be
    told from damage."""
    workdir = second_format
    store = BranchStore(workdir)
    assert store.steps("decay") == [35]
    before = files(workdir / "branches/trunk")
    branches = dict(load_config().tree)
    del branches["cosine"]
    asked = dataclasses.replace(load_config(), tree=branches)
    # What there was no choice of is no default's: it goes on as it was computed.
    with pytest.raises(ConfigError, match=r"model\.convolution is 'patches' there"):
        grow(workdir, asked)
    model = dataclasses.replace(asked.model, convolution="patches")
    grown = grow(workdir, dataclasses.replace(asked, model=model))
    assert files(workdir / "branches/trunk") == before
    assert grown.is_done("decay")
    losses = grown.metrics("decay").updates["loss"]
    assert losses.shape == (36, 2)
    assert np.isfinite(losses).all()
    rows = workdir / "branches/decay/metrics.jsonl"
    assert ['"sum"' in line for line in rows.read_text().splitlines()[-3:]] == [False, True, True]
    rows.write_text(rows.read_text().replace('"step": 36, "eval', '"step": 36, "evil'))
    with pytest.raises(DamagedFile, match="line 15: "):
        store.metrics("decay")


@pytest.mark.parametrize(("number", "age"), [(1, "an older"), (99, "a newer")])
def test_a_workdir_of_another_format_is_refused_by_name(second_format, number, age):
    path = second_format / "branches/trunk/branch.json"
    path.write_text(path.read_text().replace('"format": 2', f'"format": {number}'))
    said = rf"trunk/branch.json has format {number}: written by {age} wsdjax; this one reads 2 to 3"
    with pytest.raises(ConfigError, match=said):
        BranchStore(second_format).branches()


def test_a_workdir_of_format_2_is_forked_and_its_stream_read(second_format):
    """From an old node, with a stream of its own, whose files stay as they were."""
    store = BranchStore(second_format)
    trunk, node = store.branches()["trunk"], store.restore("trunk")
    before = files(second_format / "branches")
    fork(store, "new", Branch(parent="trunk", steps=3, schedule=Cooldown("sqrt"), data_seed=3))
    after = files(second_format / "branches")
    assert {path: after[path] for path in before} == before
    model = models.build(trunk.model)
    batch = data.Stream(data.load(trunk.data).train, 8, (3, 4))[0]
    losses = jax.vmap(model.loss)(node.params, batch)
    np.testing.assert_allclose(first_losses(store, "new"), losses, rtol=1e-5)


def test_a_fork_from_a_python_session(forked, tmp_path):
    """`fork` adds a branch and trains it; again, it goes on or does nothing."""
    workdir = shutil.copytree(forked.workdir, tmp_path / "w")
    store = BranchStore(workdir)
    branch = Branch(parent="trunk@20", steps=5, schedule=Constant(4))
    for _ in range(2):
        resolved = fork(store, "python", branch, Watch(7, 5))
        assert (resolved.start, resolved.end) == (20, 25)
    # Alone, where `kept` had a sibling: the same but for the last bits.
    losses = [s.metrics(n).updates["loss"] for s, n in ((store, "python"), (forked, "kept"))]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert BranchStore(workdir).is_done("python")


def test_a_fork_from_python_is_watched_as_the_workdir_is(finished, tmp_path):
    """Lengths in percent of its config's, evaluations, snapshots, the status; and no report is
    left that does not show it."""
    workdir = shutil.copytree(finished, tmp_path / "w")
    path, status = workdir / "config.json", workdir / "status.json"
    write_json(path, {**read_json(path, ""), "length": 50, "snapshot_every": "6%"})
    status.unlink()
    store = BranchStore(workdir)
    resolved = fork(store, "python", Branch(parent="trunk", steps="10%", schedule=Cooldown()))
    assert (resolved.start, resolved.end) == (24, 29)
    assert store.metrics("python").evaluations["step"].tolist() == [7, 14, 21, 24, 28, 29]
    assert store.steps("python") == [25, 29]
    assert store.snapshots("python") == [27]
    assert read_json(status, "") == {"status": "done"}
    assert not (workdir / "report.html").exists()
    assert read_json(path, "")["length"] == 50


def test_a_parent_is_trained_to_the_fork_and_no_further(tmp_path, caplog):
    config = with_tree(
        {
            "trunk": Branch(steps=20, schedule=Constant(2)),
            "child": Branch(parent="trunk@8", steps=3, schedule=Cooldown()),
        }
    )
    with caplog.at_level("INFO", logger="wsdjax"):
        store = grow(tmp_path, config, ["child"])
    assert "trunk is trained to 8 first, for child" in caplog.text
    assert store.steps("trunk") == [5, 8]
    assert store.is_done("child")
    whole = grow(tmp_path, config)
    assert whole.is_done("trunk")
    assert [row["step"] for row in rows_of(whole, "trunk") if "loss" in row] == [*range(1, 21)]


def test_every_node_of_a_lineage_is_restored_by_its_leaf(forked):
    assert same(forked.restore("on", 20), forked.restore("trunk", 20))


def test_a_restore_says_nothing(forked):
    """In a process of its own, where no command has silenced orbax."""
    restore = f"BranchStore({str(forked.workdir)!r}).restore('on')"
    script = f"from wsdjax.branches import BranchStore; {restore}"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_a_lineage_is_one_table(forked):
    """`on` is trunk to 20, fresh to 23, and its own two updates."""
    assert forked.lineage("on") == [("trunk", 0, 20), ("fresh", 20, 23), ("on", 23, 25)]
    updates = forked.metrics("on").updates
    assert updates["step"].tolist() == [*range(1, 26)]
    assert updates["loss"].shape == (25, 2)
    np.testing.assert_array_equal(
        updates["loss"][20:23], forked.metrics("fresh").updates["loss"][20:23]
    )


def test_a_parent_is_unchanged_to_the_byte(forked, tmp_path):
    """A new child of a child of the trunk: every other branch's files stay as they were."""
    workdir = shutil.copytree(forked.workdir, tmp_path / "w")
    before = files(workdir / "branches")
    config = load_config()
    store = BranchStore(workdir)
    branches = store.branches()
    branch = Branch(parent="on", steps=3, schedule=Cooldown())
    resolved = tree.resolve_branch("leaf", branch, branches["on"], branches)
    with store.lock():
        store.register({"leaf": resolved})
        Trainer(store, Watch(config.eval_every, config.checkpoint_every)).train(["leaf"])
    after = files(workdir / "branches")
    assert {path: after[path] for path in before} == before
    assert store.is_done("leaf")


def test_what_a_lineage_has_read_is_told_batch_by_batch(tmp_path):
    """As the n-grams beside a language model count it: a fork's own stream begins at the fork."""
    tree_ = {
        "trunk": Branch(steps=3, schedule=Constant()),
        "new": Branch(parent="trunk@2", steps=2, schedule=Hold(), data_seed=7),
    }
    store = grow(tmp_path, with_tree(tree_))
    run, branch = Run(store.workdir), store.branches()["new"]
    dataset = data.load(branch.data)
    first, second = (data.Stream(dataset.train, branch.batch_size, seed) for seed in (0, 7))
    expected = [first[0], first[1], second[0], second[1]]
    read = list(baselines._read_by(run, branch, dataset))
    assert len(read) == 4
    assert all(same(one, two) for one, two in zip(read, expected, strict=True))
