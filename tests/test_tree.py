"""The tree of a config, and the config itself: what it resolves to, and what it refuses."""

import dataclasses
import json

import numpy as np
import pytest
from helpers import load_config

from wsdjax import plans, schedules, tree
from wsdjax.config import (
    CNN,
    RNN,
    Bigram,
    Branch,
    Constant,
    Cooldown,
    Experiment,
    Overrides,
    Photos,
    Stdlib,
    Text,
    Transformer,
    WarmupCosine,
    validate,
)
from wsdjax.config.json import differences, from_json, to_json
from wsdjax.errors import ConfigError
from wsdjax.tree import rates as lineage
from wsdjax.tree.branch import ResolvedBranch


def resolved(branches):
    return tree.resolve(dataclasses.replace(load_config(), tree=branches))


@pytest.mark.parametrize("shape", schedules.COOLDOWNS)
def test_along_wsd_the_rates_are_the_single_formula(shape):
    branches = resolved(plans.wsd(50, 7, 20, shape, 1e-4))
    rates = np.concatenate([lineage.rates(branches[name], branches) for name in ("trunk", "decay")])
    formula = schedules.wsd(3e-3, 7, 50, 20, shape, 1e-4)(np.arange(1, 51))
    np.testing.assert_array_equal(rates, formula.astype(np.float32))


def test_a_cosine_is_warmup_cosine():
    branches = resolved(plans.cosine(50, 7, 1e-4))
    formula = schedules.warmup_cosine(3e-3, 7, 50, 1e-4)(np.arange(1, 51))
    np.testing.assert_array_equal(
        lineage.rates(branches["cosine"], branches), formula.astype(np.float32)
    )


def test_a_cooldown_starts_from_the_rate_its_parent_had():
    """Forked within another cooldown, it goes on from there without a jump."""
    branches = resolved(
        plans.wsd(40, 4, 20)
        | {"again": Branch(parent="decay@30", steps=5, schedule=Cooldown("cosine"))}
    )
    parent, child = (lineage.rates(branches[name], branches) for name in ("decay", "again"))
    assert parent[9] == np.float32(1.5e-3)
    assert 0 <= parent[9] - child[0] < parent[0] - parent[2]
    assert child[-1] == 0


def test_a_branch_inherits_along_its_lineage():
    branches = resolved(
        {
            "root": Branch(10, Constant(), optimizer=Overrides(b2=0.9)),
            "child": Branch(5, Constant(), "root@4", Overrides(weight_decay=0.0)),
            "leaf": Branch(5, Cooldown(), "child", Overrides(b2=0.5)),
        }
    )
    leaf = branches["leaf"]
    assert (leaf.start, leaf.end) == (9, 14)
    assert (leaf.optimizer.b2, leaf.optimizer.weight_decay) == (0.5, 0.0)
    assert branches["child"].optimizer.b2 == 0.9
    assert branches["root"].optimizer.weight_decay == 0.1


def test_siblings_of_equal_length_are_one_group():
    branches = resolved(
        {
            "a": Branch(5, Cooldown(), "trunk"),
            "trunk": Branch(10, Constant()),
            "b": Branch(5, Cooldown("sqrt"), "trunk"),
            "longer": Branch(6, Cooldown(), "trunk"),
            "earlier": Branch(5, Cooldown(), "trunk@9"),
        }
    )
    groups = [[branch.name for branch in group] for group in tree.groups(branches)]
    assert groups == [["trunk"], ["a", "b"], ["longer"], ["earlier"]]


@pytest.mark.parametrize(
    ("branches", "said"),
    [
        ({"a": Branch(5, Cooldown(), "b")}, "tree.a.parent = 'b': 'b' does not exist"),
        (
            {"a": Branch(5, Constant(), "b"), "b": Branch(5, Constant(), "a")},
            "'b' is its own ancestor",
        ),
        (
            {"a": Branch(5, Constant()), "b": Branch(5, Constant(), "a@6")},
            "tree.b.parent = 'a@6': a has the steps 1 to 5",
        ),
        ({"a": Branch(5, Constant()), "b": Branch(5, Constant(), "a@x")}, "'a@x'"),
        ({"a": Branch(5, Constant(), "@")}, "tree.a.parent = '@': write"),
        ({"a": Branch(5, Constant()), "b": Branch(5, Constant(), "a@")}, "tree.b.parent = 'a@'"),
        ({"a": Branch(5, Constant()), "b": Branch(5, Constant(), "a@2@3")}, "parent = 'a@2@3'"),
        ({"a": Branch(2**31, Constant())}, "tree.a.steps = 2147483648: comes to"),
        ({"a": Branch(10**5000, Constant())}, "tree.a.steps = 1e5000 or so: comes to"),
        (
            {"a": Branch(2**31 - 1, Constant()), "b": Branch(1, Constant(), "a")},
            "tree.b.steps = 1: would end at update 2,147,483,648, and they are counted to",
        ),
        ({"a": Branch(5, Constant(2**40))}, "tree.a.schedule.warmup_steps = 1099511627776: comes"),
        ({"a": Branch(5, Cooldown("power(1.2.3)"))}, "unknown cooldown shape 'power(1.2.3)'"),
        ({"a": Branch(5, Cooldown("power(1e999)"))}, "finite, got inf"),
        ({"a": Branch(5, Constant(), data=Bigram())}, "gives tokens, which model = CNN does not"),
        ({"a": Branch(5, Constant(6))}, "tree.a.schedule: warmup_steps=6"),
        (
            {"a": Branch(5, Constant()), "b": Branch(5, Cooldown(), "a", Overrides(1e-3))},
            "tree.b.optimizer.peak_value = 0.001: a Cooldown starts from its parent's rate",
        ),
        ({"a": Branch(5, WarmupCosine(6))}, "tree.a.schedule: warmup_steps=6"),
        ({"a": Branch(5, Cooldown("linea"))}, "unknown cooldown shape 'linea'; the shapes are"),
        ({"a": Branch(5, Cooldown("inverse"))}, "never reaches 0: give it an end_value > 0"),
        (
            {"a": Branch(5, Cooldown()), "b": Branch(5, Cooldown(), "a")},
            "the rate of 'a' is 0 at 5",
        ),
    ],
)
def test_a_tree_that_cannot_be_is_refused(branches, said):
    with pytest.raises(ConfigError) as error:
        resolved(branches)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: setattr(c, "batch_size", 0), "batch_size = 0: must be >= 1"),
        (lambda c: setattr(c, "batch_size", True), "batch_size = True: must be of type int"),
        (lambda c: setattr(c, "batch_size", 8.0), "batch_size = 8.0: must be of type int"),
        (
            lambda c: setattr(c, "data", "photos"),
            "data = 'photos': must be one of Photos, Cifar10,",
        ),
        (lambda c: setattr(c, "data", Stdlib("bpe:9")), "data.tokenizer = 'bpe:9': must be \"byt"),
        (
            lambda c: setattr(c, "data", Bigram(vocabulary=3)),
            "data.choices = 4: must be at most the vocabulary, 3",
        ),
        (
            lambda c: setattr(c.tree["decay"], "data", Stdlib("bpe:x")),
            "tree.decay.data.tokenizer = 'bpe:x'",
        ),
        (lambda c: setattr(c, "model", None), "model = None: must be one of CNN, Transformer, RNN"),
        (
            lambda c: setattr(c.optimizer, "peak_value", float("inf")),
            "optimizer.peak_value = inf: must be finite",
        ),
        (lambda c: setattr(c, "tree", {}), "tree: is empty"),
        (lambda c: setattr(c, "accumulate", 3), "accumulate = 3: must divide batch_size = 8"),
        (
            lambda c: setattr(c, "model", Transformer(norm="batch")),
            "model.norm = 'batch': must be one of layer, rms",
        ),
        (
            lambda c: setattr(c, "model", Transformer(heads=7)),
            "model.heads = 7: must divide width = 768",
        ),
        (
            lambda c: setattr(c, "model", Transformer(kv_heads=5)),
            "model.kv_heads = 5: must divide heads = 12",
        ),
        (
            lambda c: setattr(c, "model", Transformer(rotary_fraction=0.3)),
            "model.rotary_fraction = 0.3: rotates 19 of the 64 coordinates",
        ),
        (
            lambda c: setattr(c, "model", RNN(cell="rnn")),
            "model.cell = 'rnn': must be one of lstm, gru",
        ),
        (lambda c: c.tree.update({"a b": c.tree["trunk"]}), "'a b' is no branch name"),
        (lambda c: c.tree.update({"..": c.tree["trunk"]}), "'..' is no branch name"),
        (lambda c: setattr(c, "seed", 5_000_000_000), "seed = 5000000000: must be >= 0 and <"),
        (lambda c: c.tree.update({"x" * 300: c.tree["trunk"]}), "at most 100 bytes"),
        (lambda c: c.tree.update({5: c.tree["trunk"]}), "tree: its key 5 must be a text"),
        (lambda c: c.compare.update({"a\nb": ()}), "compare: 'a\\nb' is no name of a row"),
        (
            lambda c: setattr(c.tree["trunk"], "wrong", 5),
            "tree.trunk.wrong: Branch has no such field",
        ),
        (
            lambda c: setattr(c.optimizer, "weight_decy", 5),
            "optimizer.weight_decy: AdamW has no such field, did you mean 'weight_decay'?",
        ),
        (lambda c: setattr(c, "batchsize", 5), "batchsize: Experiment has no such field, did"),
        (lambda c: setattr(c.data, "classes", 5), "data.classes: Photos has no such field"),
        (lambda c: setattr(c.optimizer, "eps", 10**400), "optimizer.eps = 1e400 or so: is more"),
        (lambda c: setattr(c.optimizer, "eps", 1e-60), "optimizer.eps = 1e-60: is 0 in float32"),
        (lambda c: setattr(c.optimizer, "b2", 1 - 1e-12), "b2 = 0.999999999999: is 1 in float32"),
        (lambda c: setattr(c.data, "noise", 1e39), "data.noise = 1e+39: is more than a float32"),
        (lambda c: setattr(c, "batch_size", 10**5000), "batch_size = 1e5000 or so: must be >= 1"),
        (lambda c: setattr(c, "data", Text("a\0b")), "data.directory = 'a\\x00b': holds a char"),
        (lambda c: setattr(c, "data", Text("x" * 5_000)), "is too long for a path"),
        (lambda c: c.tree.update({"../x": c.tree["trunk"]}), "'../x' is no branch name"),
        (lambda c: setattr(c.model, "widths", (4, "4")), "model.widths[1] = '4'"),
        (lambda c: setattr(c.model, "widths", (4,) * 6), "must be 1 to 5 integers"),
        (lambda c: setattr(c.optimizer, "b2", 1), "optimizer.b2 = 1: must be >= 0 and < 1"),
        (lambda c: setattr(c.optimizer, "eps", "x"), "optimizer.eps = 'x': must be of type float"),
        (
            lambda c: setattr(c.optimizer, "peak_value", float("nan")),
            "optimizer.peak_value = nan: must be > 0",
        ),
        (
            lambda c: setattr(c.tree["decay"].optimizer, "b2", 2.0),
            "tree.decay.optimizer.b2 = 2.0",
        ),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(change, said):
    config = load_config()
    change(config)
    with pytest.raises(ConfigError) as error:
        validate(config)
    assert said in str(error.value)
    assert len(str(error.value)) < 400


def test_a_value_that_cannot_be_shown_is_refused_all_the_same():
    """Nested or circular or of a repr that raises; a subclass, which no record could name."""

    class Silent:
        def __repr__(self):
            raise RuntimeError

    class Mine(CNN):
        pass

    circular: dict = {}
    circular["itself"] = circular
    for value in (Silent(), circular, Mine(), CNN, "x" * 10_000):
        config = load_config()
        config.model = value
        with pytest.raises(ConfigError, match=r"^model = .{1,250}: must be one of CNN"):
            validate(config)


def test_a_whole_number_will_do_for_a_float():
    config = load_config()
    config.data.noise = 1
    config.tree["decay"].optimizer.weight_decay = 0
    validate(config)
    assert repr(config.data.noise) == "1.0"
    assert repr(config.tree["decay"].optimizer.weight_decay) == "0.0"
    assert not differences(
        to_json(config.data), to_json(dataclasses.replace(config.data, noise=1.0))
    )


def test_a_config_survives_json():
    """Infinite clipping and tuples included; so does a branch."""
    config = load_config()
    assert from_json(json.loads(json.dumps(to_json(config))), Experiment) == config
    for branch in tree.resolve(config).values():
        assert ResolvedBranch.from_json(json.loads(json.dumps(branch.to_json()))) == branch


def test_whatever_is_called_type_survives_json():
    """A branch, and a row of what is compared; a branch's infinite clipping too."""
    config = load_config()
    config.tree["type"] = Branch(3, Cooldown(), "trunk", Overrides(clip_norm=float("inf")))
    config.compare = {"type": ("type",), "inf": ("decay",)}
    validate(config)
    read = from_json(json.loads(json.dumps(to_json(config))), Experiment)
    assert read == config
    assert read.tree["type"].optimizer.clip_norm == float("inf")
    branch = tree.resolve(config)["type"]
    assert ResolvedBranch.from_json(json.loads(json.dumps(branch.to_json()))) == branch


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r["data"].update(type="Nothing"), "unknown type 'Nothing'"),
        (lambda r: r["data"].update(type=[]), "unknown type"),
        (lambda r: r["data"].update(hue=1), "Photos has no field 'hue'"),
        (lambda r: r.update(hue=1), "the record of a branch lacks, or should not hold, hue"),
        (lambda r: r.pop("model"), "the record of a branch lacks, or should not hold, model"),
    ],
)
def test_a_record_that_is_none_is_refused_by_name(change, said):
    record = tree.resolve(load_config())["trunk"].to_json()
    change(record)
    with pytest.raises(ConfigError, match=said):
        ResolvedBranch.from_json(record)


def test_a_model_may_have_more_classes_than_the_data_but_not_fewer():
    """A vocabulary may be padded."""
    config = load_config()
    padded = dataclasses.replace(config, model=CNN(classes=12))
    assert tree.resolve(padded)["trunk"].model.classes == 12
    with pytest.raises(ConfigError, match=r"model.classes = 9: the data of .*, have 10"):
        tree.resolve(dataclasses.replace(config, model=CNN(classes=9)))


def test_micro_batches_and_first_weights_are_part_of_a_branch():
    """Every branch has the experiment's; a program or a start of another kind is no sibling."""
    config = dataclasses.replace(load_config(), accumulate=2, weights="there")
    branches = tree.resolve(config)
    assert {(branch.accumulate, branch.weights) for branch in branches.values()} == {(2, "there")}
    trunk = branches["trunk"]
    for change in ({"accumulate": 4}, {"weights": ""}):
        other = dataclasses.replace(trunk, name="other", **change)
        assert len(tree.groups({"trunk": trunk, "other": other})) == 2


def test_a_branch_that_lacks_a_field_or_has_another_is_refused():
    fields = tree.resolve(load_config())["trunk"].to_json()
    del fields["data_seed"]
    with pytest.raises(ConfigError, match="lacks, or should not hold, data_seed, more"):
        ResolvedBranch.from_json({**fields, "more": 1})


def test_a_branch_may_be_called_inf():
    config = load_config()
    config.tree["inf"] = Branch(3, Cooldown(), "trunk")
    branch = tree.resolve(config)["inf"]
    back = ResolvedBranch.from_json(json.loads(json.dumps(branch.to_json())))
    assert (back.name, back.optimizer.clip_norm) == ("inf", float("inf"))


def test_differences_name_every_field():
    config = load_config()
    other = dataclasses.replace(config, data=Photos(noise=2.0, size=2_000, eval_size=50), seeds=3)
    assert differences(to_json(config), to_json(other)) == [
        ("data.noise", 0.8, 2.0),
        ("seeds", 2, 3),
    ]


def test_a_length_that_nothing_is_a_part_of_is_refused():
    """It would be set on the command line in vain."""
    config = load_config()
    with pytest.raises(ConfigError, match=r"length = 200: no length of the tree is in percent"):
        tree.resolve(dataclasses.replace(config, length=200))
    tree.resolve(dataclasses.replace(config, length=200, eval_every="10%"))
