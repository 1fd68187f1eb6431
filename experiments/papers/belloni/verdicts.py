"""The paper's claims, judged by the numbers of one architecture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from experiments import claims
from experiments.claims import Claim, Finding
from experiments.papers.belloni.measured import (
    Components,
    Directions,
    Lengths,
    Lines,
    Losses,
    Preconditioned,
    Sharpness,
)

PAPER = "Belloni, Noci and Orvieto"
OTHER_SIDE = "arXiv 2601.16979"
COMPONENT = 0.4
"""The share of the variance that one direction is said to have, at least about."""


class Architecture(NamedTuple):
    name: str
    """As the tables have it."""
    matching: float
    """The cooldown, as a share of the budget, that the paper found to match cosine."""


CNN, LM = Architecture("CNN", 0.35), Architecture("language model", 0.20)


def judged(figure: str, numbers: Any, of: Architecture) -> list[Claim]:
    """The claims that rest on one figure."""
    paper, number = (PAPER, int(figure)) if figure.isdigit() else (OTHER_SIDE, None)
    rows = _JUDGES[figure](numbers, of) if figure in _JUDGES else ()
    return [Claim(paper, number, of.name, said, unit, found) for said, unit, found in rows]


Rows = Iterator[tuple[str, str, Finding]]


def _losses(found: Losses, of: Architecture) -> Rows:
    # From the last evaluation before the cooldown, which need not be at its very start.
    at = int(np.searchsorted(found.steps, found.fork, side="right")) - 1
    begin = 2 * found.steps[at] - found.steps[-1]
    before = np.array([np.interp(begin, found.steps, run) for run in found.wsd])
    fall = (found.wsd[:, at] - found.wsd[:, -1]) - (before - found.wsd[:, at])
    yield (
        "the loss falls further in the cooldown than in as many updates before it",
        "nats",
        (claims.above(fall)),
    )
    yield (
        "WSD ends at or below cosine",
        "nats",
        claims.below(found.wsd[:, -1] - found.cosine[:, -1]),
    )


def _lines(found: Lines, of: Architecture) -> Rows:
    inside = (found.alphas >= 0) & (found.alphas <= 1)
    alphas = found.alphas[inside]
    stable, decay = found.stable[..., inside], found.decay[..., inside]
    yield (
        "a convex valley between iterates of the stable phase",
        "nats",
        (claims.convex(alphas, stable)),
    )
    yield (
        "monotone descent from the cooldown's start to its end",
        "nats",
        (claims.descending(alphas, decay)),
    )


def _sharpness(found: Sharpness, of: Architecture) -> Rows:
    at = int(np.searchsorted(found.steps, found.fork))
    rise = found.eigenvalues[:, -1] - found.eigenvalues[:, at]
    yield "sharpness rises over the cooldown", "", claims.above(rise)
    more = found.along_decay - found.along_stable
    yield "curvature is larger along v_d than along v_s at its start", "", claims.above(more)


def _directions(found: Directions, of: Architecture) -> Rows:
    yield (
        "weak quasi-convexity: the lowest tau of a run is above 0",
        "",
        (claims.above(found.tau.min(1))),
    )
    cooling = found.update_steps >= found.fork
    for phase, chosen in (("the stable phase", ~cooling), ("the cooldown", cooling)):
        if chosen.any():
            yield (
                f"updates of {phase} point down the gradient",
                "cosine",
                (claims.above(found.cosines[:, chosen].mean(1))),
            )


def _lengths(found: Lengths, of: Architecture) -> Rows:
    excess = found.wsd - found.cosine[:, None]
    shortest = claims.crossing(found.shares, excess)
    yield (
        f"a cooldown of about {of.matching:.0%} of the budget matches cosine",
        "share",
        (claims.at_most(shortest, of.matching)),
    )


def _components(found: Components, of: Architecture) -> Rows:
    for phase, shares in (("the stable phase", found.stable), ("the cooldown", found.decay)):
        yield (
            f"one direction has about {COMPONENT:.0%} of the variance of {phase} or more",
            ("share"),
            claims.above(shares, COMPONENT),
        )


def _preconditioned(found: Preconditioned, of: Architecture) -> Rows:
    at = int(np.searchsorted(found.steps, found.fork))
    rise = found.eigenvalues[:, -1] - found.eigenvalues[:, at]
    yield (
        "Adam's preconditioned sharpness rises over the cooldown",
        "",
        (claims.above(rise)),
    )


_JUDGES: dict[str, Callable[[Any, Architecture], Rows]] = {
    "1": _losses,
    "2": _lines,
    "3": _sharpness,
    "4": _directions,
    "5": _lengths,
    "7": _components,
    "threshold": _preconditioned,
}
