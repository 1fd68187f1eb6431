"""The figures and verdicts of 'Universal Dynamics of WSD' from numbers whose answer is known."""

import numpy as np
import pytest

from experiments.claims import Verdict
from experiments.papers.belloni import figures, measured, verdicts
from experiments.papers.belloni.verdicts import CNN, LM

RUNS, PARTS, FORK, END = 3, 5, 650, 1_000


def study(holds: bool):
    """Every figure's numbers, as the paper found them or the other way round."""
    random = np.random.default_rng(0)
    sign = 1 if holds else -1

    def runs(mean, noise=1e-3, common=0.03):
        mean = np.asarray(mean, float)
        own = random.normal(0, common, (RUNS, *[1] * mean.ndim))
        return mean + own + random.normal(0, noise, (RUNS, *mean.shape))

    def parts(curve):
        return runs(np.broadcast_to(curve, (PARTS, len(curve))))

    steps = np.arange(0, END + 1, 50)
    cooled = np.clip((steps - FORK) / (END - FORK), 0, 1)
    falls = 1.5 - 0.05 * steps / END
    alphas = np.union1d(np.linspace(-0.25, 1.25, 21), [0, 1])
    shares = np.array([0.05, 0.1, 0.2, 0.35, 0.5])
    along = np.linspace(450, END, 12)
    at = np.clip((along - FORK) / (END - FORK), 0, 1)
    losses = runs(np.stack([falls - sign * 0.3 * cooled, falls - 0.2 * steps / END]))
    excess = 0.1 - shares if holds else 0.1 + shares
    return {
        "1": measured.Losses(steps, losses[:, 0], losses[:, 1], FORK),
        "2": measured.Lines(
            alphas, parts(1.5 + sign * 0.1 * (alphas - 0.6) ** 2), parts(1.4 - sign * 0.2 * alphas)
        ),
        "3": measured.Sharpness(
            *(along, runs(50 + sign * 40 * at), np.full((RUNS, 12), 0.1)),
            *(runs(2.0 - sign), runs(2.0 + sign), FORK),
        ),
        "4": measured.Directions(
            *(along[:-1], runs(sign * np.full(11, 0.7))),
            *(along[:-1], runs(sign * np.full(11, 0.1), common=0.001), FORK),
        ),
        "5": measured.Lengths(shares, 1.2 + runs(excess, common=0.0), np.full(RUNS, 1.2)),
        "6": measured.Norms(steps[2:], runs(10 + falls[2:]), runs(10 + falls[2:]), FORK),
        "7": measured.Components(runs(0.4 + sign * 0.2), runs(0.4 + sign * 0.3)),
        "threshold": measured.Preconditioned(
            along,
            runs(500 + sign * 200 * at),
            np.where(at < 1, 12_000 / (1.001 - at), np.nan),
            FORK,
        ),
    }


@pytest.mark.parametrize("holds", [True, False])
@pytest.mark.parametrize("of", [CNN, LM], ids=lambda of: of.name)
def test_each_claim_is_judged_by_its_numbers(holds, of):
    rows = [
        row for name, numbers in study(holds).items() for row in verdicts.judged(name, numbers, of)
    ]
    assert len(rows) == 13
    wanted = Verdict.HELD if holds else Verdict.NOT_HELD
    assert {row.claim: row.finding.verdict for row in rows} == {row.claim: wanted for row in rows}
    assert {row.model for row in rows} == {of.name}
    assert all(row.finding.runs == RUNS for row in rows)


def test_a_single_run_decides_only_by_the_parts_of_its_sample():
    def first(values):
        return values[:1] if isinstance(values, np.ndarray) and len(values) == RUNS else values

    for name, numbers in study(True).items():
        alone = type(numbers)(*map(first, numbers))
        found = {row.finding.verdict for row in verdicts.judged(name, alone, CNN)}
        assert found <= ({Verdict.HELD} if name == "2" else {Verdict.NOT_TOLD_APART})


@pytest.mark.parametrize("name", measured.FIGURES)
def test_a_figure_has_the_language_model_left_and_the_cnn_right(name, tmp_path):
    numbers = {LM.name: study(True)[name], CNN.name: study(False)[name]}
    figure = figures.drawn(name, numbers)
    titles = [axis.get_title(loc="left") for part in figure.subfigs for axis in part.axes]
    assert [title for title in titles if title] == [LM.name, CNN.name]
    for part in figure.subfigs:
        assert all(axis.get_ylabel() or i for i, axis in enumerate(part.axes))
    figure.savefig(tmp_path / "f.png")


@pytest.mark.parametrize("name", measured.FIGURES)
def test_numbers_are_kept_as_they_are(name, tmp_path):
    numbers = study(True)[name]
    measured.write(tmp_path / "f.json", numbers, {"examples": 10})
    again, told = measured.read(tmp_path / "f.json", name)
    assert told == {"examples": 10}
    for one, two in zip(again, numbers, strict=True):
        np.testing.assert_array_equal(one, two)
