"""The measures of `experiments.probe`: at a node of a run, or along several of them.

Each is a function of `Nodes`, and of the settings that its results depend on, that returns plain
results.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import wsdjax.probes
from experiments.report.probes.measure import Nodes, Values
from wsdjax.models import unstacked
from wsdjax.probes import mass_by_leaf


def sharpness(node: Nodes, k: int, tol: float, seed: int = 0) -> Values:
    """The k largest eigenvalues of the Hessian, certified."""
    hessian = _hessian(node)
    return _eigenvalues(node, hessian, k=k, tol=tol, seed=seed, towards=hessian.gradient)


def preconditioned(node: Nodes, k: int, tol: float, seed: int = 0) -> Values:
    """Those of P^-1/2 H P^-1/2 for Adam's P.

    It is what Adam sees (Cohen et al.).
    """
    scale = node.preconditioner()
    operator = wsdjax.probes.Preconditioned(_hessian(node), scale)
    return _eigenvalues(node, operator, k=k, tol=tol, seed=seed)


def _hessian(node: Nodes) -> wsdjax.probes.Hessian:
    of = node.loss_fn, node.params, node.batches
    return wsdjax.probes.Hessian(*of, at_a_time=node.at_a_time)


def _eigenvalues(node: Nodes, operator: Callable, **options: Any) -> Values:
    def tell(progress):
        node.tell(
            f"{progress.products} products, {progress.estimate:.5g} ± {progress.residual:.1g}"
        )

    found = wsdjax.probes.eigenpairs(operator, node.params, on_progress=tell, **options)
    first = jax.tree.map(lambda rows: rows[0], found.eigenvectors)
    result = found._asdict() | {"mass_of_first": _by_name(mass_by_leaf(unstacked(first)))}
    del result["eigenvectors"]
    return result


def density(node: Nodes, probes: int = 4, depth: int = 60, seed: int = 0) -> Values:
    """The whole spectrum, by stochastic Lanczos quadrature."""
    of = (node.loss_fn, node.params, node.batches)
    found = wsdjax.probes.spectral_density(
        *of, probes=probes, depth=depth, seed=seed, at_a_time=node.at_a_time
    )
    return found._asdict()


def moments(node: Nodes, probes: int = 32, seed: int = 0) -> Values:
    """Trace and Frobenius norm of the Hessian, trace by layer."""
    of = (node.loss_fn, node.params, node.batches)
    found = wsdjax.probes.moments(*of, probes, seed, at_a_time=node.at_a_time, apart=unstacked)
    return {
        "trace": found.trace._asdict(),
        "frobenius_norm": found.frobenius_norm._asdict(),
        "trace_by_leaf": _by_name(found.trace_by_leaf),
    }


def noise(node: Nodes, tol: float, seed: int = 0) -> Values:
    """Trace and top eigenvalue of the gradient's covariance, noise scale."""
    of = (node.loss_fn, node.params, node.batches)
    return wsdjax.probes.gradient_noise(*of, tol, seed, node.at_a_time)._asdict()


def _by_name(tree: Any) -> Values:
    """Values of leaves by their names; an `Estimate` is a leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(
        tree, is_leaf=lambda x: isinstance(x, wsdjax.probes.Estimate)
    )
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (
            leaf._asdict() if isinstance(leaf, wsdjax.probes.Estimate) else leaf
        )
        for path, leaf in leaves
    }


def interpolate(path: Nodes, points: int) -> Values:
    """The loss from its first node to its last.

    It goes a quarter of the way beyond both.
    """
    alphas = np.union1d(np.linspace(-0.25, 1.25, points), [0, 1])
    ends = path.iterates[0], path.iterates[-1]
    losses = wsdjax.probes.interpolate(
        path.loss_fn, *ends, alphas, path.batches, file=path.file, at_a_time=path.at_a_time
    )
    return {"alphas": alphas, "losses": losses}


def plane(path: Nodes, points: int) -> Values:
    """The loss over its first two principal components, and the way through.

    It goes through the last node and a quarter beyond the trajectory on each side (Li et al.).
    """
    found = wsdjax.probes.principal_components(path.iterates, k=2)
    axis_1, axis_2 = (jax.tree.map(lambda rows, i=i: rows[i], found.directions) for i in (0, 1))
    last = path.iterates[-1]
    way = wsdjax.probes.plane_coordinates(path.iterates, last, axis_1, axis_2)
    low, high = way.min(0), way.max(0)
    margin = (high - low) / 4
    first, second = np.linspace(low - margin, high + margin, points).T
    over = (path.loss_fn, last, axis_1, axis_2, first, second, path.batches)
    losses = wsdjax.probes.loss_plane(*over, file=path.file, at_a_time=path.at_a_time)
    return {
        "losses": losses,
        "coords_1": first,
        "coords_2": second,
        "trajectory": way,
        "explained_variance_ratio": found.explained_variance_ratio,
    }


def components(path: Nodes, k: int) -> Values:
    """How much of its variance the first k explain."""
    found = wsdjax.probes.principal_components(path.iterates, k=k)
    return {"explained_variance_ratio": found.explained_variance_ratio}


def phases(path: Nodes) -> Values:
    """v_s and v_d, and the curvature along them; a range over the branch's fork.

    Curvature and its signal to noise are at the fork and at the last node (Belloni et al.,
    figures 3 and 7).
    """
    at = path.steps.index(path.fork) if path.fork in path.steps else -1
    if not 2 <= at < len(path.steps) - 2:
        raise wsdjax.probes.ProbeError(
            f"the two phases meet at the fork, {path.fork}: give a range with that node, two "
            "before and two after, since two nodes have but one direction; there are "
            f"{', '.join(map(str, path.steps))}"
        )
    found = wsdjax.probes.phase_directions(path.iterates[: at + 1], path.iterates[at:])
    rows = []
    for step, params in ((path.fork, path.iterates[at]), (path.steps[-1], path.iterates[-1])):
        for name, direction in (("v_s", found.stable), ("v_d", found.decay)):
            path.tell(f"curvature along {name} at {step}")
            of = (path.loss_fn, params, direction, path.batches, path.at_a_time)
            size, along = wsdjax.probes.curvature_along(*of)
            rows.append(
                {
                    "direction": name,
                    "step": step,
                    "norm_of_product": size,
                    "quotient": along,
                    "signal_to_noise": wsdjax.probes.signal_to_noise(*of),
                }
            )
    return {"explained": found.explained, "cosine": found.cosine, "along": rows}


def convexity(path: Nodes) -> Values:
    """Weak quasi-convexity against its last node."""
    solution = path.iterates[-1]
    tau = wsdjax.probes.weak_quasi_convexity(
        path.loss_fn, path.iterates[:-1], solution, path.batches, path.at_a_time
    )
    return {"tau": tau}


def alignment(path: Nodes) -> Values:
    """Cosine of each move with the negative gradient."""
    of = (path.loss_fn, path.iterates, path.batches, path.at_a_time)
    return {"cosines": wsdjax.probes.update_alignment(*of)}


def distances(path: Nodes) -> Values:
    """Norms, distance travelled and moved."""
    return wsdjax.probes.distances(path.iterates)._asdict()
