"""Curvature and geometry of any loss: functions of (loss_fn, params, batches).

`loss_fn(params, batch)` is the mean loss over the examples of a batch, a scalar in JAX; params
are any pytree of arrays; `batches` is a sequence of pytrees whose leaves have examples as
their leading axis. Nothing here knows a model, a config or a file.

What makes no sense, or is not finite, is a `ProbeError` that says what was wrong and where: trees
that do not match, leaves that are no floating-point numbers, directions of zero norm, no batch.
"""

from wsdjax.probes.density import (
    Estimate,
    Moments,
    SpectralDensity,
    mass_by_leaf,
    moments,
    spectral_density,
)
from wsdjax.probes.eigenpairs import Sharpness, eigenpairs
from wsdjax.probes.hessian import Hessian, curvature_along, fits, hvp, sharpness
from wsdjax.probes.noise import Covariance, GradientNoise, gradient_noise, signal_to_noise
from wsdjax.probes.objective import gradient, loss
from wsdjax.probes.operators import Block, GaussNewton, Preconditioned, adam_preconditioner
from wsdjax.probes.paths import (
    filter_normalised,
    interpolate,
    loss_plane,
    orthonormal,
    plane_coordinates,
)
from wsdjax.probes.principal import (
    PhaseDirections,
    PrincipalComponents,
    phase_directions,
    principal_components,
)
from wsdjax.probes.trajectory import (
    Distances,
    distances,
    update_alignment,
    weak_quasi_convexity,
)
from wsdjax.probes.vectors import ProbeError
