"""A schedule, a data set, a model and a cooldown shape that are added from outside, by a class
under `kind` or an entry in `COOLDOWNS`, are used and refused as those built in."""

import dataclasses
import json
import re

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import call, load_config
from hypothesis import strategies as st

from experiments.launch import launch
from experiments.report import tables
from experiments.report.naming import data_name, schedule_name
from experiments.report.reading import Run, experiment_of
from experiments.report.style import looks
from wsdjax import data, models, schedules, tree
from wsdjax.branches import BranchStore
from wsdjax.config import CNN, Branch, Constant, Cooldown, Experiment, Overrides, Photos, validate
from wsdjax.config.json import from_json, key, to_json
from wsdjax.config.kinds import TYPES, DataConfig, Described, Kind, ModelConfig, Schedule, kind
from wsdjax.config.lengths import Length
from wsdjax.config.validation import count, number
from wsdjax.data.device import DeviceSplit
from wsdjax.data.split import Dataset
from wsdjax.errors import ConfigError
from wsdjax.tree import rates


@pytest.fixture(scope="module")
def toys():
    """Registered, and by the end of the module not so any more."""

    @kind
    class Staircase(Schedule):
        """Down from the parent's rate by a half, `every` so many updates."""

        every: Length = number(2, ge=1)
        lowest: float = number(0.0, ge=0)

        called = "staircase"
        from_parents_rate = decays = True

        def rate(self, span):
            begin = span.rate_left() if span.parent else span.peak
            step = self.every
            return lambda t: np.maximum(begin * 0.5 ** ((t - span.start - 1) // step), self.lowest)

    @kind
    class Stripes(DataConfig):
        """Images whose class is where they are bright."""

        contrast: float = number(1.0, gt=0)
        size: int = count(100)

        called = "stripes"
        unit = "images"

        @property
        def shapes(self):
            return {"inputs": ((4, 4, 1), "float32"), "targets": ((), "int32")}

        def check(self, path):
            if self.size % 4:
                raise ConfigError(f"{path}.size = {self.size}: must be divisible by 4")

        def describe(self):
            return Described(4, self.size, 20, {"made_of": "stripes"})

        def load(self):
            def examples(rows, indices):
                inputs = self.contrast * jnp.eye(4)[indices % 4][:, :, None, None]
                return {"inputs": inputs * jnp.ones((1, 1, 4, 1)), "targets": indices % 4}

            return Dataset(DeviceSplit(self.size, (), examples), DeviceSplit(20, (), examples))

        def note(self):
            return "Stripes are no photographs."

    @kind
    class Linear(ModelConfig):
        """A softmax regression."""

        classes: int = count(4, least=2)

        reads = "images"

        def module(self, training):
            from flax import nnx

            from wsdjax.models import cnn

            class Module(nnx.Module):
                def __init__(self, rngs):
                    self.layer = nnx.Linear(16, classes, rngs=rngs)

                def __call__(self, images):
                    return self.layer(images.reshape(len(images), -1))

            classes = self.classes
            return Module, cnn.metrics

    schedules.COOLDOWNS["cubic"] = schedules.power(3)
    yield {"Staircase": Staircase, "Stripes": Stripes, "Linear": Linear}
    for name in ("Staircase", "Stripes", "Linear"):
        del TYPES[name]
    del schedules.COOLDOWNS["cubic"]


def experiment(toys):
    trunk = Branch(8, Constant(2))
    return dataclasses.replace(
        load_config(),
        model=toys["Linear"](),
        data=toys["Stripes"](contrast=2, size=40),
        tree={
            "trunk": trunk,
            "down": Branch("0.8 epochs", toys["Staircase"](every="0.2 epochs"), "trunk"),
            "cubic": Branch(4, Cooldown("cubic"), "trunk"),
        },
    )


@pytest.fixture(scope="module")
def trained(toys, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("toys") / "w"
    asked = experiment(toys)
    validate(asked)
    launch(asked, BranchStore(workdir), tree.resolve(asked))
    return workdir


def test_what_is_added_is_trained_from_a_config(trained, toys):
    store = BranchStore(trained)
    assert all(map(store.is_done, store.names()))
    branches = store.branches()
    assert branches["down"].schedule == toys["Staircase"](every=1)
    halved = np.float32(3e-3) * np.float32(0.5) ** np.arange(4, dtype=np.float32)
    np.testing.assert_allclose(store.metrics("down").updates["rate"][-4:], halved, rtol=1e-6)
    cubic = schedules.cooldown(3e-3, 8, 4, schedules.power(3))(np.arange(9, 13))
    np.testing.assert_array_equal(rates.rates(branches["cubic"], branches), np.float32(cubic))
    losses = store.metrics("down").updates["loss"]
    assert losses[-1].mean() < losses[0].mean()
    assert store.record("down")["data_facts"] == {"made_of": "stripes"}
    assert experiment_of(trained) == experiment(toys)


def test_what_is_added_is_labelled_as_what_is_built_in(trained):
    run = Run(trained)
    assert schedule_name(run, "down") == "constant > staircase"
    assert looks(run)["cubic"].label == "cubic (WSD, cubic cooldown)"
    assert looks(run)["down"].label == "down (constant > staircase)"
    assert data_name(run.branches.values()) == "stripes"
    assert {each.name for each in run.ends()} == {"down", "cubic"}
    assert "Stripes are no photographs." in tables.notes(run, tables.final_values(run))


def test_what_is_added_is_forked_from_the_command_line(trained, toys):
    pieces = ("--schedule=Staircase(every=3, lowest=1e-5)", "--data=Stripes(size=20)")
    flags = (f"--workdir={trained}", "--name=fork", "--steps=2", *pieces)
    code, _, err = call("experiments.branch", "fork", "trunk", *flags)
    assert code == 0, err
    store = BranchStore(trained)
    assert store.is_done("fork")
    fork = store.branches()["fork"]
    assert (fork.schedule, fork.data) == (toys["Staircase"](3, 1e-5), toys["Stripes"](size=20))


def test_command_lines_refuse_what_is_added_as_what_is_built_in(trained):
    for text, said in (
        ("Stair", "--schedule: no Stair, did you mean 'Staircase'?; there are Constant, "),
        ("Staircase(form=1)", "--schedule: Staircase has no field 'form'; it has every, lowest"),
        ("Stripes", "--schedule: no Stripes; there are Constant, "),
    ):
        flags = (f"--workdir={trained}", "--name=x", "--steps=2", f"--schedule={text}")
        code, _, err = call("experiments.branch", "fork", "trunk", *flags)
        assert code == 2
        assert said in err


def test_configs_refuse_what_is_added_as_what_is_built_in(toys):
    def refused(change):
        asked = experiment(toys)
        change(asked)
        with pytest.raises(ConfigError) as error:  # noqa: PT012
            validate(asked)
            tree.resolve(asked)
        return str(error.value)

    assert refused(lambda c: setattr(c.data, "contrast", 0)) == "data.contrast = 0: must be > 0"
    assert "Stripes has no such field" in refused(lambda c: setattr(c.data, "hue", 0))
    assert "divisible by 4" in refused(lambda c: setattr(c.data, "size", 6))
    assert refused(lambda c: setattr(c.model, "classes", 3)).startswith(
        "model.classes = 3: the data of tree.trunk, Stripes, have 4"
    )
    every = refused(lambda c: setattr(c.tree["down"].schedule, "every", "x"))
    assert every.startswith("tree.down.schedule.every = 'x' is no length")
    assert re.search("one of CNN, .*, Linear", refused(lambda c: setattr(c, "model", None)))
    peak = refused(lambda c: setattr(c.tree["down"].optimizer, "peak_value", 1.0))
    assert "a Staircase starts from its parent's rate" in peak
    shapes = refused(lambda c: setattr(c.tree["cubic"].schedule, "shape", "cubi"))
    assert "unknown cooldown shape 'cubi'" in shapes
    assert "cubic" in shapes.partition("the shapes are")[2]


def test_a_model_and_a_data_set_are_used_by_themselves(toys):
    model = models.build(toys["Linear"]())
    batch = data.in_order(data.load(toys["Stripes"]()).test)[0]
    assert model.loss(model.init(jax.random.key(0)), batch).shape == ()


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(TypeError, match=r"Photos: the name is that of .*Photos"):
        kind(type("Photos", (DataConfig,), {}))
    with pytest.raises(TypeError, match='no field can be called "type"'):
        kind(type("Typed", (Kind,), {"__annotations__": {"type": str}, "type": ""}))
    assert TYPES["Photos"] is Photos
    assert "Typed" not in TYPES


# JSON.


def _values(annotation, bounds):
    """Values of an annotation; numbers within the bounds of their field."""
    arguments = getattr(annotation, "__args__", ())
    if type(None) in arguments:
        return st.none() | _values(next(a for a in arguments if a is not type(None)), bounds)
    if "among" in bounds:
        return st.sampled_from(bounds["among"])
    origin = getattr(annotation, "__origin__", None)
    if origin is dict:
        names = st.sampled_from(["type", "inf", "trunk", "-inf"]) | st.text(max_size=5)
        return st.dictionaries(names, _values(arguments[1], {}), max_size=2)
    if origin is tuple:
        return st.lists(_values(arguments[0], {}), max_size=3).map(tuple)
    if isinstance(annotation, type) and issubclass(annotation, Kind):
        return st.one_of([_drawn(each) for each in annotation.kinds().values()])
    if annotation is Length:
        return st.integers(1, 10**9) | st.sampled_from(["35%", "2 epochs", "3e9 tokens"])
    if annotation is float:
        known = [float("inf")] if bounds.get("le") == float("inf") else [0.25, 1, 1e-30]
        return st.sampled_from(known) | st.floats(allow_nan=False)
    texts = st.text(max_size=5) | st.sampled_from(["inf", "type", "Photos"])
    return {int: st.integers(), bool: st.booleans(), str: texts}[annotation]


def _drawn(cls):
    fields = dataclasses.fields(cls)
    return st.builds(cls, **{f.name: _values(f.type, f.metadata) for f in fields})


@pytest.mark.parametrize("name", [*TYPES])
def test_configs_survive_json(name):
    """Of every type; the text that stands for one is another's only if that is equal to it."""

    @hypothesis.settings(
        max_examples=12,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[*hypothesis.HealthCheck],
    )
    @hypothesis.given(_drawn(TYPES[name]), _drawn(TYPES[name]))
    def check(one, other):
        read = from_json(json.loads(json.dumps(to_json(one))), type(one))
        assert read == one
        assert repr(read) == repr(one)
        assert (key(one) == key(other)) == (repr(one) == repr(other))

    check()


def test_whatever_is_called_type_is_trained_and_read_again(tmp_path):
    """A branch and a row of what is compared: validated, registered, trained, reported."""
    asked = load_config()
    asked.tree = {
        "type": Branch(3, Constant(), optimizer=Overrides(clip_norm=float("inf"))),
        "inf": Branch(2, Cooldown(), "type"),
    }
    asked.compare, asked.seeds = {"type": ("inf",)}, 1
    validate(asked)
    launch(asked, BranchStore(tmp_path), tree.resolve(asked))
    run = Run(tmp_path)
    assert run.compared == {"type": ("inf",)}
    assert run.experiment == asked
    assert run.experiment.tree["type"].optimizer.clip_norm == float("inf")
    assert list(run.branches) == ["type", "inf"]
    assert tables.budget_table(run)[1][0] == "type"
    assert (tmp_path / "report.html").exists()
    BranchStore(tmp_path).register(tree.resolve(run.experiment))  # means the same


def test_what_is_nothing_of_its_annotation_is_left_for_validation():
    written = to_json(load_config())
    for field, value in (("model", 5), ("tree", []), ("compare", {"row": 3}), ("seeds", "inf")):
        read = from_json(written | {field: value}, Experiment)
        assert getattr(read, field) == value
        with pytest.raises(ConfigError, match=field):
            validate(read)


def test_a_record_from_before_a_choice_is_what_was_done_then():
    """So that a run from then goes on in its own program, and is not taken for the default's."""
    written = to_json(CNN())
    assert from_json(written, ModelConfig).convolution == "by_device"
    del written["convolution"], written["compute"]
    assert from_json(written, ModelConfig) == CNN(convolution="patches", compute="float32")
