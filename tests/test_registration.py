"""What may be added to a workdir: a function of what is there and what is asked, without a disk."""

import dataclasses
from pathlib import Path

import pytest
from helpers import load_config

from wsdjax import tree
from wsdjax.branches import MissingNode
from wsdjax.branches.registration import There, plan
from wsdjax.config import Branch, Constant, Cooldown
from wsdjax.errors import ConfigError

TREE = {
    "trunk": Branch(steps=20, schedule=Constant()),
    "a": Branch(parent="trunk@8", steps=4, schedule=Cooldown()),
    "b": Branch(parent="trunk@8", steps=4, schedule=Cooldown("sqrt")),
    "c": Branch(parent="trunk", steps=4, schedule=Cooldown()),
}
EMPTY = There(Path("w"), {}, {}, {})


@pytest.fixture(scope="module")
def asked():
    return tree.resolve(dataclasses.replace(load_config(), tree=TREE))


def there(asked, names, saved=None, **siblings):
    return There(
        Path("w"),
        {name: asked[name] for name in names},
        {name: [name] for name in names} | siblings,
        saved or {},
    )


def planned(there, asked):
    return [(branch.name, list(trained_with)) for branch, trained_with in plan(there, asked)]


def test_parents_come_first_and_siblings_train_together(asked):
    assert planned(EMPTY, asked) == [
        ("trunk", ["trunk"]),
        ("a", ["a", "b"]),
        ("b", ["a", "b"]),
        ("c", ["c"]),
    ]


def test_what_is_there_is_not_written_and_takes_no_new_siblings(asked):
    saved = {"trunk": [8, 20]}
    names = ["trunk", "a"]
    assert planned(there(asked, names, saved), asked) == [("b", ["b"]), ("c", ["c"])]
    assert planned(there(asked, list(asked)), asked) == []


def test_what_was_cut_short_is_completed_as_it_was_begun(asked):
    begun = there(asked, ["trunk", "a"], a=["a", "b"])
    assert planned(begun, asked) == [("b", ["a", "b"]), ("c", ["c"])]
    with pytest.raises(ConfigError, match="a, b were begun in w as branches that train together"):
        plan(begun, {"c": asked["c"]})


def test_what_means_something_else_is_refused(asked):
    changed = dataclasses.replace(asked["a"], data_seed=9, end=15)
    said = r"w mean something else: .*end is 12 there, 15 now \(a\); data_seed is 0 there, 9 now"
    with pytest.raises(ConfigError, match=said):
        plan(there(asked, ["trunk", "a"]), {"a": changed})


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"parent": "stem"}, MissingNode, "no branch 'stem'; there are trunk"),
        ({"start": 25}, MissingNode, "'trunk' has the steps 1 to 20, not 25"),
        ({"start": 9}, MissingNode, "trunk@9 was not kept; .* 8, 20, the nearest is trunk@8"),
        ({"seeds": 5}, ConfigError, "seeds is 5, the parent's is 2"),
        ({"name": "TRUNK"}, ConfigError, "the directory of 'trunk'"),
    ],
)
def test_a_fork_that_cannot_be_is_refused(asked, change, error, said):
    new = dataclasses.replace(asked["a"], **{"name": "new", **change})
    with pytest.raises(error, match=said):
        plan(there(asked, ["trunk"], {"trunk": [8, 20]}), {new.name: new})


def test_a_node_that_is_still_to_come_can_be_forked(asked):
    """Of a parent that is not there yet, or has not reached it; and one that is gone only if the
    parent is past it."""
    only_a = {"a": asked["a"]}
    for saved in ([], [4], [8]):
        assert planned(there(asked, ["trunk"], {"trunk": saved}), only_a) == [("a", ["a"])]
    with pytest.raises(MissingNode, match="was not kept"):
        plan(there(asked, ["trunk"], {"trunk": [4, 12]}), only_a)


def test_other_hyperparameters_are_siblings_and_another_length_is_none(asked):
    one = asked["a"]
    optimizer = dataclasses.replace(one.optimizer, b2=0.9)
    like = dataclasses.replace(one, name="like", optimizer=optimizer)
    longer = dataclasses.replace(one, name="longer", end=14)
    found = planned(EMPTY, {"trunk": asked["trunk"], "a": one, "like": like, "longer": longer})
    assert found[1:] == [("a", ["a", "like"]), ("like", ["a", "like"]), ("longer", ["longer"])]
