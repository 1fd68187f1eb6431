"""The last-iterate bound of subgradient descent, which convex optimisation gives for a schedule.

Schaipp, Hägele, Taylor, Simsekli, Bach, 'The Surprising Agreement Between Convex Optimization
Theory and Learning-Rate Scheduling for Large Model Training'; Theorem 10 of Defazio,
Cutkosky, Mehta, Mishchenko, arXiv 2310.07831. For rates eta_t, gradient norms g_t and the
distance D from the start to a minimum, f(x_T) - f* is at most

    Omega_T = D^2 / (2 S) + sum_t eta_t^2 g_t^2 / (2 S)
              + 1/2 sum_{k<T} (eta_k / sum_{t>k} eta_t)
                              (sum_{t>=k} eta_t^2 g_t^2 / sum_{t>=k} eta_t),

with S = sum_t eta_t and every sum up to T. NumPy in float64, whether or not JAX's x64 is on.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class BestBaseRate(NamedTuple):
    """The factor that minimises the bound at the last step, and the bound there."""

    gamma: float
    bound: float


def convex_bound(
    learning_rates: ArrayLike, grad_norms: ArrayLike, distance: float, at: ArrayLike | None = None
) -> np.ndarray:
    """Omega_T at every T = 1, ..., len(learning_rates).

    Args:
      learning_rates: eta_1, ..., eta_T, at least 0. An update of rate 0 moves nothing and
        leaves the bound as it is; before the first that moves it is infinite.
      grad_norms: g_1, ..., g_T, or one number for all.
      distance: D.
      at: the T that are wanted, if not all; each costs O(T).

    Returns:
      float64 [T], or as many as are wanted; in the units of the loss if the rates are those of
      subgradient descent.

    Raises:
      ValueError: for arrays that do not match, or a negative or non-finite number.
    """
    rates, norms = _checked(learning_rates, grad_norms)
    if not (np.isfinite(distance) and distance >= 0):
        raise ValueError(f"distance must be finite and >= 0, got {distance}")
    distance_term, gradient_term = _terms(rates, norms, at)
    return distance**2 * distance_term + gradient_term


def best_base_rate(
    learning_rates: ArrayLike, grad_norms: ArrayLike, distance: float
) -> BestBaseRate:
    """gamma*, by which the rates would have to be multiplied for the least bound at the end.

    At rates gamma * eta the bound is A / gamma + gamma B, A being its term in D; hence
    gamma* = sqrt(A / B), where it is 2 sqrt(A B) (Schaipp et al.).

    Raises:
      ValueError: as `convex_bound`, or if no rate or no gradient norm is above 0.
    """
    a, b = _at_the_end(learning_rates, grad_norms, distance)
    return BestBaseRate(float(np.sqrt(a / b)), float(2 * np.sqrt(a * b)))


def implied_distance(learning_rates: ArrayLike, grad_norms: ArrayLike) -> float:
    """The distance D for which these rates are the best base rate: gamma* = 1.

    A run tells its rates and its gradient norms and not D; for one whose rate was tuned, this
    is the D that the theory would read off it. Nothing of the losses enters.
    """
    a, b = _at_the_end(learning_rates, grad_norms, 1.0)
    return float(np.sqrt(b / a))


def _at_the_end(
    learning_rates: ArrayLike, grad_norms: ArrayLike, distance: float
) -> tuple[float, float]:
    """The terms in D and in g of the last bound."""
    rates, norms = _checked(learning_rates, grad_norms)
    (a,), (b,) = _terms(rates, norms, [len(rates)])
    if not (np.isfinite(a := distance**2 * a) and b > 0):
        raise ValueError("no rate or no gradient norm is above 0: there is no best base rate")
    return a, b


def _checked(learning_rates: ArrayLike, grad_norms: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    rates = np.asarray(learning_rates, np.float64)
    norms = np.asarray(grad_norms, np.float64)
    if rates.ndim != 1 or not rates.size or norms.shape not in ((), rates.shape):
        raise ValueError(
            f"learning_rates must be [T], T >= 1, and grad_norms [T] or one number; "
            f"got {rates.shape} and {norms.shape}"
        )
    for name, values in (("learning_rates", rates), ("grad_norms", norms)):
        if not (np.isfinite(values).all() and (values >= 0).all()):
            raise ValueError(f"{name} must be finite and >= 0")
    return rates, np.broadcast_to(norms, rates.shape)


def _terms(
    rates: np.ndarray, norms: np.ndarray, at: ArrayLike | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The factor of D^2 and the term in g of the bound, at every T or at some."""
    wanted = np.arange(1, len(rates) + 1) if at is None else np.asarray(at, int)
    if wanted.size and not (wanted.min() >= 1 and wanted.max() <= len(rates)):
        raise ValueError(f"at must lie in 1, ..., {len(rates)}")
    moves = rates > 0
    eta, weighted = rates[moves], (rates * norms)[moves] ** 2
    # An update of rate 0 has the bound of the last one that moved.
    moved, back = np.unique(np.cumsum(moves)[wanted - 1], return_inverse=True)
    distance_term, gradient_term = np.full(len(moved), np.inf), np.full(len(moved), np.inf)
    for i, T in enumerate(moved):
        if T == 0:
            continue
        # Sums from k to T, added up from the end: as differences of sums from the start, the
        # small ones at the end of a decay would be lost in the rounding of the large.
        tail_eta = np.cumsum(eta[:T][::-1])
        tail_weighted = np.cumsum(weighted[:T][::-1])
        last_iterate = eta[: T - 1][::-1] / tail_eta[:-1] * (tail_weighted[1:] / tail_eta[1:])
        distance_term[i] = 1 / (2 * tail_eta[-1])
        gradient_term[i] = (tail_weighted[-1] / tail_eta[-1] + last_iterate.sum()) / 2
    return distance_term[back], gradient_term[back]
