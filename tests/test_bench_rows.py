"""The rows of experiments.bench: turns, goals, time, the record; and peers do the same work."""

import argparse
import dataclasses
import json
import types

import numpy as np
import pytest

from experiments.bench import __main__ as main
from experiments.bench import growth, lm, measure, running
from experiments.bench.ours import Step, Stopwatch, branch_of
from experiments.bench.rows import Line, Row
from wsdjax import families
from wsdjax.config import CNN, AdamW, Bigram, Branch, Constant, Experiment, Photos

TREE = {"trunk": Branch(10, Constant())}


class Clock:
    """Seconds that pass when somebody works."""

    def __init__(self, monkeypatch, *modules):
        self.now = 0.0
        fake = types.SimpleNamespace(perf_counter=lambda: self.now, monotonic=lambda: self.now)
        for module in modules:
            monkeypatch.setattr(module, "time", fake)


def test_every_work_is_timed_in_every_turn_in_both_orders(monkeypatch):
    """A work is repeated until its turn is long enough, and its first run is in no turn."""
    clock, calls = Clock(monkeypatch, measure), []

    def work(name, seconds):
        def run(count):
            calls.append((name, count))
            clock.now += count * seconds

        return run

    found = measure.in_turns({"a": work("a", 0.05), "b": work("b", 1.0)}, seconds=3.5)
    assert calls[:2] == [("a", 1), ("b", 1)]
    assert calls[2:] == [("a", 4), ("b", 1), ("b", 1), ("a", 4), ("a", 4), ("b", 1)]
    np.testing.assert_allclose(found["a"], [0.05] * 3)
    np.testing.assert_allclose(found["b"], [1.0] * 3)


def test_a_peer_is_as_fast_as_its_time_in_ours(monkeypatch):
    clock = Clock(monkeypatch, measure)
    monkeypatch.setattr(measure, "timed", lambda: 0.0)

    def work(seconds):
        def run(count):
            clock.now += count * seconds

        return run

    def absent():
        raise ImportError("No module named 'absent'")

    peers = {"absent": absent, "slow": lambda: work(3.0)}
    missing, slow = measure.contest(work(2.0), peers)
    assert missing.why == "not installed: No module named 'absent'"
    assert slow.values == [1.5] * 3
    _, alone = measure.contest(work(2.0), {"absent": absent})
    assert (alone.against, alone.unit, alone.values) == ("alone", "seconds", [2.0] * 3)
    assert alone.summary(row("a.b", 1, None))["met"] == "-"
    for goal, met in (
        (1.4, "yes"),
        (1.5, "yes"),
        (1.6, "not told"),
        (3.0, "not told"),
        (3.1, "no"),
    ):
        told = Line("peer", [1.0, 2.0, 4.0]).summary(
            row("a.b", 1, None)._replace(goal=(goal, goal))
        )
        assert (told["quartiles"], told["met"]) == ([1.5, 3.0], met)
    over = measure.overhead(work(2.1), work(2.0), "the step")
    np.testing.assert_allclose(over.values, 1.05)


def test_an_exponent_is_that_of_the_sizes(monkeypatch):
    clock = Clock(monkeypatch, measure)

    def work(size):
        def run(count):
            clock.now += count * size**2

        return run

    line = growth.fitted({size: work(size) for size in (1, 2, 4)}, "time ~ size^p")
    np.testing.assert_allclose(line.values, 2)
    assert line.also["seconds"] == {"1": 1.0, "2": 4.0, "4": 16.0}
    assert line.summary(row("a.b", 1, None))["goal"] == "<= 2"


def row(name, seconds, measure):
    return Row(name, "work", (2.0, 2.0), (seconds, seconds), measure)


def test_a_row_is_begun_only_if_its_time_is_left(monkeypatch, tmp_path, capsys):
    """The record is whole after every line; a row that fails is told and ends nothing."""
    clock, out = Clock(monkeypatch, running), tmp_path / "bench.json"
    written = []

    def quick(given):
        yield Line("peer", [1.0, 2.0, 4.0])
        written.append(json.loads(out.read_text())["rows"])
        clock.now += 200  # twice what it was thought to take

    def broken(given):
        raise ValueError("no such thing")
        yield

    rows = [
        row("a.quick", 100, quick),
        row("a.slow", 200, quick),  # of which as much as 400 are to be expected, and 300 are left
        row("a.broken", 10, broken),
    ]
    given = argparse.Namespace(minutes=500 / 60, out=out)
    assert running.run(rows, given) == 1
    assert [each["against"] for each in written[0]] == ["peer"]
    result = json.loads(out.read_text())
    quick, slow, failed = result["rows"]
    assert (quick["median"], quick["quartiles"], quick["met"]) == (2.0, [1.5, 3.0], "not told")
    assert slow["why"] == "not reached: no time"
    assert failed["why"] == "failed: ValueError: no such thing"
    assert result["seconds"] == {"a.quick": 200, "a.broken": 0}
    assert "not reached: no time" in capsys.readouterr().out


def test_the_loop_is_timed_once_it_is_under_way(monkeypatch):
    """Whether each row is read by itself, or those of several updates together."""
    from experiments.bench import ours

    clock, watch = Clock(monkeypatch, ours), Stopwatch()
    watch.start("run", 0, 40, 1, "images")
    for step, now in [(1, 50.0), (5, 54.0), (15, 64.0), (25, 74.0), (40, 89.0)]:
        clock.now = now
        watch.update(step, 0.0, 0.0)
    assert watch.seconds_an_update == 1.0
    watch.start("run", 10, 20, 1, "images")
    clock.now += 20
    watch.update(20, 0.0, 0.0)
    assert watch.seconds == 40 * 1.0 + 20


def test_all_rows_have_their_place_in_the_order():
    assert sorted(main.ORDER) == sorted(main.ROWS)
    assert f"one of {', '.join(main.SECTIONS)}\n" in main.__doc__


def test_without_out_the_record_is_beside_the_command(monkeypatch, tmp_path, capsys):
    """Nothing that was measured is lost."""
    monkeypatch.chdir(tmp_path)
    assert main.main(["growth", "--minutes=0"]) == 0
    assert "into bench.json" in capsys.readouterr().out
    rows = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert {row["why"] for row in rows} == {"not reached: no time"}


SMALL = Experiment(
    model=CNN((4, 4)),
    data=Photos(size=100, eval_size=20),
    optimizer=AdamW(peak_value=1e-2, weight_decay=0.5),
    batch_size=8,
    tree=TREE,
)
LANGUAGE = Experiment(
    model=families.plainlm(vocabulary=64, width=16, layers=2, heads=2, hidden=24),
    data=Bigram(length=12),
    optimizer=AdamW(peak_value=1e-2, b2=0.95, weight_decay=0.5, clip_norm=0.3),
    batch_size=4,
    accumulate=2,
    tree=TREE,
)
PYTHIA = families.pythia(vocabulary=64, width=16, layers=2, heads=2, hidden=24, rotary_fraction=0.5)


@pytest.mark.parametrize("model", [None, LANGUAGE.model, PYTHIA], ids=["cnn", "llama", "neox"])
def test_updates_in_torch_are_ours(model):
    """From the same weights, four updates on one batch: the same losses, to rounding."""
    pytest.importorskip("torch")
    if model is PYTHIA:
        pytest.importorskip("transformers")
    experiment = SMALL if model is None else dataclasses.replace(LANGUAGE, model=model)
    step = Step(branch_of(experiment))
    work, _ = lm.in_torch(step)
    ours, theirs = np.concatenate(step(4)), work(4)
    np.testing.assert_allclose(theirs, ours, rtol=2e-5)
    assert abs(ours[-1] - ours[0]) > 1e-2
