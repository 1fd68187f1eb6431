"""The probes by name: a new one is a file with a `Measure` of it, and a line here."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from experiments.report.probes import figures, measures
from experiments.report.probes.measure import Measure, Values


def _eigenvalues(result: Values) -> str:
    values = ", ".join(f"{value:.5g}" for value in result["eigenvalues"])
    worst, all_converged = max(result["residuals"]), all(result["converged"])
    return f"{values} ± {worst:.1g}" + ("" if all_converged else " (not converged)")


def _span(name: str, unit: str = "") -> Callable[[Values], str]:
    return lambda r: f"{np.nanmin(r[name]):.4g} to {np.nanmax(r[name]):.4g}{unit}"


MEASURES: dict[str, Measure] = {
    "sharpness": Measure(
        measures.sharpness,
        _eigenvalues,
        figures.along_training(lambda r: r["eigenvalues"][0], r"sharpness $\lambda_1(H)$"),
        caption="Largest eigenvalue of the Hessian against updates (Belloni et al., figure 3).",
    ),
    "preconditioned": Measure(
        measures.preconditioned,
        _eigenvalues,
        figures.along_training(lambda r: r["eigenvalues"][0], r"$\lambda_1(P^{-1/2} H P^{-1/2})$"),
        caption="Largest eigenvalue of the Hessian as Adam's preconditioner P scales it; "
        "full-batch Adam is stable below (2 + 2 b1) / ((1 - b1) rate) (Cohen et al.).",
    ),
    "density": Measure(
        measures.density,
        _span("nodes"),
        figures.densities,
        caption="Density of the Hessian's eigenvalues at the last nodes that were measured; other "
        "seeds are faint.",
        bands=False,
        most=4,
    ),
    "moments": Measure(
        measures.moments,
        lambda r: "trace {value:.4g} ± {standard_error:.2g}".format(**r["trace"]),
        figures.along_training(lambda r: r["trace"]["value"], "trace of the Hessian"),
        caption="Trace of the Hessian, by Hutchinson's estimator.",
    ),
    "noise": Measure(
        measures.noise,
        lambda r: f"noise scale {r['noise_scale']:.4g} examples",
        figures.along_training(lambda r: r["noise_scale"], "gradient noise scale (examples)"),
        caption="The batch at which the gradient's signal and noise are equal (McCandlish et al.).",
    ),
    "interpolate": Measure(
        measures.interpolate,
        _span("losses"),
        figures.along_range({"losses": ""}, "loss (nats)", alphas="alphas"),
        caption="Loss along the line between two nodes.",
        along=True,
    ),
    "plane": Measure(
        measures.plane,
        _span("losses", " nats"),
        figures.planes,
        caption="Loss over the plane of the first two principal components of the nodes, and their "
        "way through it; first seed, levels logarithmic above the lowest.",
        along=True,
        bands=False,
    ),
    "components": Measure(
        measures.components,
        lambda r: ", ".join(f"{ratio:.1%}" for ratio in r["explained_variance_ratio"]),
        figures.explained,
        caption="How much of the variance of its nodes each principal component explains; dots are "
        "seeds (Belloni et al., figure 7).",
        along=True,
        sees_examples=False,
        bands=False,
    ),
    "phases": Measure(
        measures.phases,
        lambda r: (
            f"v_s explains {r['explained'][0]:.1%}, v_d {r['explained'][1]:.1%}, "
            f"cosine {r['cosine']:.2f}"
        ),
        figures.phases,
        caption="||Hv|| and curvature along v<sub>s</sub>, the first principal component of the "
        "stable phase, and v<sub>d</sub>, that of the cooldown; dots are seeds (Belloni et al., "
        "figure 3).",
        along=True,
        takes_fork=True,
        bands=False,
    ),
    "convexity": Measure(
        measures.convexity,
        _span("tau"),
        figures.along_range({"tau": ""}, r"weak quasi-convexity $\tau$", (0, 1)),
        caption="Weak quasi-convexity against the last node: of a convex loss it is at least 1 "
        "(Belloni et al., figure 4).",
        along=True,
    ),
    "alignment": Measure(
        measures.alignment,
        _span("cosines"),
        figures.along_range({"cosines": ""}, r"alignment $\cos(-\nabla L, \Delta\theta)$", (0,)),
        caption="Cosine of the negative gradient with the move to the next node.",
        along=True,
    ),
    "distances": Measure(
        measures.distances,
        lambda r: f"moved {r['moved'][-1]:.4g}, travelled {r['travelled'][-1]:.4g}",
        figures.along_range(
            {"moved": "moved", "travelled": "travelled"}, "distance in parameter space"
        ),
        caption="Distance moved from the first node, and travelled from node to node.",
        along=True,
        sees_examples=False,
    ),
}
