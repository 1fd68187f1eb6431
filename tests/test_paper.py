"""The study of a paper as one command, from nothing to the page, at a size that is no result."""

import json

import pytest
from helpers import call

from experiments.papers.belloni import measure, measured, trees
from wsdjax import config
from wsdjax.config import AdamW


def _cnn(data):
    return trees._experiment(
        100,
        model=config.CNN(widths=(4,)),
        data=data or config.Photos(eval_size=20),
        optimizer=AdamW(),
        batch_size=4,
    )


def _lm(data):
    return trees._experiment(
        100,
        model=config.RNN(16, width=8, layers=1),
        data=data or config.Bigram(vocabulary=16, length=8, eval_size=20),
        optimizer=AdamW(b2=0.95),
        batch_size=4,
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A workdir, and a function that gives the command in it."""
    workdir = tmp_path_factory.mktemp("study") / "belloni"
    examples = {"CNN": 16, "language model": 16}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(trees.BUDGETS, "laptop", trees.Budget(2, _cnn, _lm, examples))
        yield (
            workdir,
            lambda *flags: call("experiments.paper", "belloni", f"--workdir={workdir}", *flags),
        )


def test_the_cost_is_told_and_nothing_written(study):
    workdir, give = study
    code, _, err = give("--dry_run")
    assert code == 0
    assert "cnn: 7 branches: 315 updates of 4 images" in err
    assert "lm: 7 branches: 315 updates of 4 x 8 tokens" in err
    assert not workdir.exists()


def test_stopped_and_given_again_it_goes_on_to_the_same_page(study):
    workdir, give = study
    with pytest.MonkeyPatch.context() as patch:

        def stopped(of):
            raise KeyboardInterrupt

        patch.setitem(measure.MEASURES, "3", stopped)
        code, _, err = give()
        assert code == 130
        assert "goes on with what is missing" in err
        assert (workdir / "figures" / "figure2.svg").exists()
        assert not (workdir / "numbers" / "cnn-3.json").exists()
    code, out, err = give()
    assert code == 0, err
    files = {path.name for path in (workdir / "figures").iterdir()}
    names = [*(f"figure{i}" for i in range(1, 8)), "threshold"]
    assert files == {f"{name}.{kind}" for name in names for kind in ("png", "svg", "pdf")}
    claims = json.loads((workdir / "claims.json").read_text())
    fields = {"paper", "figure", "model", "claim", "unit", "value", "interval", "runs", "verdict"}
    assert len(claims) == 26
    assert all(claim.keys() == fields and claim["runs"] == 2 for claim in claims)
    page = (workdir / "index.html").read_text()
    assert page.count("<figure") == 8
    assert all(claim["claim"] in out for claim in claims)
    # What is measured again comes to the same.
    svgs = {path: path.read_bytes() for path in (workdir / "figures").glob("*.svg")}
    (workdir / "claims.json").unlink()
    for name in ("cnn-3", "lm-4"):
        (workdir / "numbers" / f"{name}.json").unlink()
    other = workdir / "numbers" / "lm-5.json"
    numbers, told = measured.read(other, "5")
    measured.write(other, numbers._replace(wsd=numbers.wsd + 1), told | {"study": "of other trees"})
    damaged = workdir / "numbers" / "cnn-2.json"
    damaged.write_text(damaged.read_text().replace("0.25", "0.26", 1))
    code, _, err = give()
    assert code == 0
    assert "measured again" in err
    assert json.loads((workdir / "claims.json").read_text()) == claims
    assert svgs == {path: path.read_bytes() for path in svgs}


def test_two_sides_of_an_update_are_kept(study):
    """The cosine is of one update, which the kept iterates are the two ends of."""
    numbers, _ = measured.read(study[0] / "numbers" / "cnn-4.json", "4")
    assert len(numbers.update_steps) == 2 * trees.SINGLE
    assert numbers.update_steps.max() <= 98
    assert (abs(numbers.cosines) <= 1).all()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--only=8"], "--only=8: no such figure; they are 1, 2, 3, 4, 5, 6, 7, threshold"),
        (["--lm=text"], "--lm=text: give stdlib, or text:DIR of prepared text"),
        (["--budget=full"], "--lm=text:DIR"),
        (["--budget=huge"], "invalid choice"),
        (["--seeds=0"], "0 must be between 1 and 1000"),
        (["wen"], "unexpected argument"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(study, flags, said):
    code, _, err = study[1](*flags)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1


def test_the_paper_is_named_first():
    code, _, err = call("experiments.paper", "wen")
    assert code == 2
    assert "name the paper first: belloni" in err
