"""The sampling error of a probe's loss."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.probe import sampling


@pytest.mark.parametrize("together", [1, 2, 16])
def test_the_five_parts_are_the_same_however_the_sample_is_cut(together):
    """Windows of long texts come one or two in a batch."""
    values = np.arange(16.0) ** 2
    batches = [{"x": jnp.asarray(values[i : i + together])} for i in range(0, 16, together)]
    sample = sampling.Sample(batches, {"of": 64})
    found = sampling.loss(lambda _, batch: batch["x"].mean(), {"w": jnp.ones(())}, sample)
    losses = [values[i::5].mean() for i in range(5)]
    np.testing.assert_allclose(found["losses_of_disjoint_samples"], losses, rtol=1e-6)
    assert found["loss"] == pytest.approx(values.mean(), rel=1e-6)
    error = np.std(losses, ddof=1) * np.sqrt((1 - 16 / 64) / 5)
    assert found["loss_error"] == pytest.approx(error, rel=1e-5)
