"""What a machine cannot hold is refused, with the fields that decide and what there is."""

import dataclasses

import pytest
from helpers import load_config

from wsdjax import memory, tree
from wsdjax.config import RNN, Averages, Bigram, Photos, Transformer
from wsdjax.errors import ConfigError
from wsdjax.trainer import capacity
from wsdjax.training import cost


def refused(monkeypatch, memory_bytes=2**35, **changes):
    monkeypatch.setattr(memory, "of_machine", lambda: float(memory_bytes))
    experiment = dataclasses.replace(load_config(), **changes)
    try:
        capacity.check(tree.resolve(experiment))
    except ConfigError as error:
        return str(error)
    return ""


def language(**sizes):
    default = {"vocabulary": 64, "width": 32, "layers": 1, "heads": 4, "hidden": 64}
    return {"model": Transformer(**default | sizes), "data": Bigram(length=16, size=500)}


def test_what_fits_is_let_be(monkeypatch):
    assert refused(monkeypatch) == ""
    assert refused(monkeypatch, **language()) == ""


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"batch_size": 10**9}, "batch_size = 1000000000"),
        ({"seeds": 65_535}, "seeds = 65535"),
        ({"data": Photos(eval_size=2**31 - 1)}, "data.eval_size = 2147483647"),
        ({"data": Photos(size=2**31 - 1), "seeds": 3}, "data.size = 2147483647"),
        ({"averages": Averages(window=2**31 - 1)}, "averages.window = 2147483647"),
        (language(vocabulary=2**31 - 1), "model.vocabulary = 2147483647"),
        (language(width=2**29), "model.width = 536870912"),
        (language(hidden=2**31 - 1), "model.hidden = 2147483647"),
        (language(layers=2**31 - 1), "model.layers = 2147483647"),
        (language() | {"data": Bigram(length=2**31 - 1)}, "data.length = 2147483647"),
        (language() | {"data": Bigram(length=10**6)}, "data.length = 1000000"),
        ({"model": RNN(64, 2**31 - 1), "data": Bigram()}, "model.width = 2147483647"),
    ],
)
def test_what_no_machine_holds_is_refused_by_its_field(changes, field, monkeypatch):
    said = refused(monkeypatch, **changes)
    assert field in said
    assert len(said) < 400
    assert "takes at least" in said
    assert said.endswith("this machine has 32 GiB: choose smaller ones")


def test_the_rates_and_rows_of_every_update_count(monkeypatch):
    config = load_config()
    config.tree["trunk"].steps = 2**31 - 100
    said = refused(monkeypatch, tree=config.tree)
    assert said.startswith("tree.trunk.steps = 2147483548")


def test_the_bound_is_that_of_the_state_and_the_step(monkeypatch):
    """Where they are all but everything: just above them a model is let be, just below refused."""
    changes = language(width=4_096, hidden=16_384) | {"seeds": 1}
    (branch,) = {
        e.model.width: e
        for e in tree.resolve(dataclasses.replace(load_config(), **changes)).values()
    }.values()
    found = cost.of_branch(branch)
    least = found.state_bytes + capacity._KEPT_BY_XLA * found.activation_bytes
    assert "parameters, gradients and moments" in refused(monkeypatch, least * 0.99, **changes)
    assert refused(monkeypatch, least * 1.05, **changes) == ""


def test_a_device_of_its_own_memory(monkeypatch):
    """What it holds is compared with its own limit, the host's tables with the host's."""

    class Device:
        platform, device_kind = "gpu", "Tiny 1"

        def memory_stats(self):
            return {"bytes_limit": 2**20}

    monkeypatch.setattr(capacity.jax, "local_devices", lambda: [Device()])
    said = refused(monkeypatch, model=load_config().model, batch_size=1_000)
    assert said.endswith("and each Tiny 1 has 1 MiB: choose smaller ones")


def test_the_machine_has_some_memory():
    assert 2**28 < memory.of_machine() < 2**60
