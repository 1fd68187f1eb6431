"""Several devices compute what one does, and what they saved is read on any number."""

import jax
import numpy as np
import pytest
from helpers import TINY, finish, grow, load_config, start

from wsdjax.branches import BranchStore
from wsdjax.placement import mesh

pytestmark = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="the devices are the CPU's, simulated"
)


def test_four_devices_train_as_one_does(finished, tmp_path):
    """Two along the replicates, two along the batch; equal over the first updates."""
    process = start(
        "experiments.run",
        f"--config={TINY}",
        f"--workdir={tmp_path}/w",
        XLA_FLAGS="--xla_force_host_platform_device_count=4",
    )
    code, _, err = finish(process)
    assert code == 0, err
    four, one = BranchStore(tmp_path / "w"), BranchStore(finished)
    assert "4 x cpu" in (four.directory("trunk") / "branch.json").read_text()
    for name in ("loss", "grad_norm"):
        losses = [store.metrics("decay").updates[name][:6] for store in (four, one)]
        np.testing.assert_allclose(*losses, rtol=2e-5)
    assert four.restore("decay").params["conv1"]["kernel"].shape == (2, 3, 3, 3, 4)


def test_siblings_of_one_seed_train_on_two_devices(tmp_path):
    """The parent's one replicate cannot be divided by two devices; the siblings' two can."""
    config = tmp_path / "siblings.py"
    config.write_text(
        TINY.read_text()
        .replace("tree=plans.wsd(36, 4, 12) | plans.cosine(36, 4)", "tree=TREE")
        .replace("seeds=2", "seeds=1")
        .replace("def get", SIBLINGS + "def get")
    )
    arguments = ("experiments.run", f"--config={config}", f"--workdir={tmp_path}/w")
    flags = "--xla_force_host_platform_device_count=2"
    code, _, err = finish(start(*arguments, XLA_FLAGS=flags), timeout=120)
    assert code == 0, err
    two, one = BranchStore(tmp_path / "w"), grow(tmp_path / "one", load_config(config))
    assert two.siblings("a") == ["a", "b"]
    for name in ("trunk", "a", "b"):
        assert "2 x cpu" in (two.directory(name) / "branch.json").read_text()
        assert two.is_done(name)
        losses, expected = (store.metrics(name) for store in (two, one))
        np.testing.assert_array_equal(losses.updates["rate"], expected.updates["rate"])
        for key in ("loss", "grad_norm"):
            np.testing.assert_allclose(losses.updates[key], expected.updates[key], rtol=2e-4)
        params, alone = (store.restore(name).params for store in (two, one))
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), params, alone)
    ends = [two.restore(name).params["fc1"]["kernel"] for name in ("a", "b")]
    assert not np.allclose(*ends, atol=1e-5)


SIBLINGS = """
from wsdjax.config import Branch, Constant, Cooldown

TREE = {
    "trunk": Branch(steps=6, schedule=Constant()),
    "a": Branch(parent="trunk", steps=6, schedule=Cooldown()),
    "b": Branch(parent="trunk", steps=6, schedule=Cooldown("sqrt")),
}


"""


def test_a_batch_that_cannot_be_divided_is_refused(monkeypatch):
    monkeypatch.setattr(mesh.jax, "device_count", lambda: 4)
    with pytest.raises(ValueError, match="batch_size = 7: must be a multiple of 2"):
        mesh.shardings(2, 7)
    with pytest.raises(
        ValueError, match=r"a multiple of 8.*leave 2 for each batch in 4 micro-batches"
    ):
        mesh.shardings(2, 12, 4)
