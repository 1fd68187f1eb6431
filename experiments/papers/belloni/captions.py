"""What is said of the study and of each figure: what was measured, and what the paper found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

TITLE = "Universal Dynamics of Warmup-Stable-Decay"
QUESTION = (
    "Belloni, Noci and Orvieto train a language model and a small CNN by Warmup-Stable-Decay (WSD) "
    "and find the same signals in both. Do runs of one's own show them?"
)


class Caption(NamedTuple):
    heading: str
    measured: str
    found: str
    """By the paper."""
    sees_examples: bool = False
    """Whether it rests on the sample, and not on what training wrote."""


CAPTIONS: dict[str, Caption] = {
    "1": Caption(
        "Figure 1: the loss under WSD and warmup-cosine",
        "Held-out loss along training; the dashed line is T<sub>c</sub>, the start of the cooldown "
        "(20% of the budget for the language model, 35% for the CNN).",
        "WSD stays above cosine until the cooldown, falls steeply in it, and ends at cosine's loss "
        "or below.",
    ),
    "2": Caption(
        "Figure 2: the loss on lines between iterates",
        "Left: from 80% of the stable phase (0) to its end (1); right: from the start of the "
        "cooldown to its end. Bars are the sampling error, of eight disjoint parts of the sample.",
        "A convex valley in the stable phase; monotone descent in the cooldown.",
        sees_examples=True,
    ),
    "3": Caption(
        "Figure 3: curvature",
        "Left: the largest eigenvalue of the Hessian along training; black bars are residuals. "
        "Right: ||Hv|| at T<sub>c</sub> for v<sub>s</sub>, the first principal component of the "
        "last 20% of the stable phase, and v<sub>d</sub>, that of the first 20% of the cooldown.",
        "Sharpness rises in the cooldown, and curvature is larger along v<sub>d</sub>.",
        sees_examples=True,
    ),
    "4": Caption(
        "Figure 4: weak quasi-convexity, and the direction of updates",
        "Left: &tau;<sub>i</sub> = &lang;&nabla;L(x<sub>i</sub>), x<sub>i</sub> &minus; "
        "x*&rang; / (L(x<sub>i</sub>) &minus; L(x*)), x* the last iterate. Right: the cosine of "
        "&minus;&nabla;L(x<sub>i</sub>) with the one update that follows.",
        "&tau; is above zero throughout, and updates are aligned with the gradient.",
        sees_examples=True,
    ),
    "5": Caption(
        "Figure 5: how long a cooldown matches cosine",
        "Held-out loss at the end of cooldowns of 5 to 50% of one budget, forked from one trunk, "
        "less that of cosine in the same run; a match at 5% may be at any shorter one.",
        "The CNN needs about 35% of the budget to match cosine, the language model 20%.",
    ),
    "6": Caption(
        "Figure 6: the norm of the parameters",
        "All parameters, after the warmup.",
        "The norm grows in the stable phase, and stays nearly as it is in the cooldown.",
    ),
    "7": Caption(
        "Figure 7: one dominant direction a phase",
        "The first principal component's share of the variance of the iterates of the last 20% of "
        "the stable phase, and of the first 20% of the cooldown.",
        "At least about 40%, the dotted line.",
    ),
    "threshold": Caption(
        "From another side: Adam's preconditioned sharpness against its threshold of stability",
        "The largest eigenvalue of P<sup>&minus;1/2</sup> H P<sup>&minus;1/2</sup>, P of Adam's "
        "second moments, beside (2 + 2&beta;<sub>1</sub>) / ((1 &minus; &beta;<sub>1</sub>) "
        "&eta;) for the rate &eta; of the update before; it goes to infinity as the rate goes to "
        "zero.",
        "This is not in the paper: arXiv 2601.16979 saw it at the threshold in the plateau, and "
        "rising in the decay.",
        sees_examples=True,
    ),
}


def caption(figure: str, runs: int, told: Mapping[str, Mapping[str, Any]]) -> str:
    """In HTML, with the runs and the examples that it rests on.

    Args:
      figure: its key.
      runs: of each architecture.
      told: what is kept with the numbers, by the name of the architecture.
    """
    said = CAPTIONS[figure]
    on = f"{runs} run{'s' if runs > 1 else ''} of each"
    if said.sees_examples:
        samples = (f"{name} {facts['examples']:,}" for name, facts in told.items())
        on += f", on examples of the training set: {', '.join(samples)}"
    paper = said.found if figure == "threshold" else f"The paper: {said.found}"
    return f"{said.measured} {on[0].upper()}{on[1:]}. {paper}"
