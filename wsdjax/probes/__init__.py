"""Curvature and geometry of any loss: functions of (loss_fn, params, batches).

`loss_fn(params, batch)` is the mean loss over the examples of a batch, a scalar in JAX; params
are any pytree of arrays; `batches` is a sequence of pytrees whose leaves have examples as
their leading axis. Nothing here knows a model, a config or a file.
"""

from wsdjax.probes.curvature import Sharpness, curvature_along, eigenpairs, hvp, sharpness
from wsdjax.probes.density import (
    Estimate,
    Moments,
    SpectralDensity,
    mass_by_leaf,
    moments,
    spectral_density,
)
from wsdjax.probes.noise import Covariance, GradientNoise, gradient_noise, signal_to_noise
from wsdjax.probes.objective import Hessian, gradient, loss
from wsdjax.probes.operators import Block, GaussNewton, Preconditioned, adam_preconditioner
from wsdjax.probes.paths import (
    filter_normalised,
    interpolate,
    loss_plane,
    orthonormal,
    plane_coordinates,
)
from wsdjax.probes.trajectory import (
    Distances,
    PhaseDirections,
    PrincipalComponents,
    distances,
    phase_directions,
    principal_components,
    update_alignment,
    weak_quasi_convexity,
)
from wsdjax.probes.vectors import ProbeError

__all__ = [
    "Block",
    "Covariance",
    "Distances",
    "Estimate",
    "GaussNewton",
    "GradientNoise",
    "Hessian",
    "Moments",
    "PhaseDirections",
    "Preconditioned",
    "PrincipalComponents",
    "ProbeError",
    "Sharpness",
    "SpectralDensity",
    "adam_preconditioner",
    "curvature_along",
    "distances",
    "eigenpairs",
    "filter_normalised",
    "gradient",
    "gradient_noise",
    "hvp",
    "interpolate",
    "loss",
    "loss_plane",
    "mass_by_leaf",
    "moments",
    "orthonormal",
    "phase_directions",
    "plane_coordinates",
    "principal_components",
    "sharpness",
    "signal_to_noise",
    "spectral_density",
    "update_alignment",
    "weak_quasi_convexity",
]
