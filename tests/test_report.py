"""What a report says, against the rows and against plain arithmetic."""

import dataclasses
import html
import io
import json
import re
import shutil
import subprocess
import sys
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from helpers import call, grow, load_config, with_tree
from matplotlib.figure import Figure

from experiments.report import style, tables
from experiments.report.bound import overlays
from experiments.report.naming import schedule_name
from experiments.report.reading import Run, experiment_of, running_mean
from experiments.report.write import write_report
from wsdjax import plans, theory, tree
from wsdjax.branches import BranchStore
from wsdjax.config import RNN, Bigram, Branch, Constant, Cooldown, Overrides, Rewarm, Text
from wsdjax.config.json import to_json
from wsdjax.files import DamagedFile, read_json, write_json


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Two budgets by WSD from one trunk, and by WSD-S in one run."""
    branches = plans.cooldown_lengths((12, 24), 2, 0.25) | plans.wsd_s((12, 24), 2, 3e-4, 0.25)
    config = with_tree(
        branches,
        compare={"WSD": ("wsd_1", "wsd_2"), "WSD-S": ("wsd_s_1", "wsd_s_2")},
        eval_every=5,
        batch_size=4,
    )
    workdir = tmp_path_factory.mktemp("compared")
    grow(workdir, config)
    (workdir / "config.json").write_text(json.dumps(to_json(config)))
    return Run(workdir)


def test_the_table_of_budgets_is_arithmetic_on_the_rows(compared):
    """The last evaluation of each branch; a shared trunk counted once: 18 + 3 + 6, and 24."""
    header, wsd, wsd_s = tables.budget_table(compared)
    assert header[0] == "method"
    assert (wsd[0], wsd[-1]) == ("WSD", "27")
    assert (wsd_s[0], wsd_s[-1]) == ("WSD-S", "24")
    for row, names in ((wsd, ("wsd_1", "wsd_2")), (wsd_s, ("wsd_s_1", "wsd_s_2"))):
        for cell, name, end in zip(row[1:3], names, (12, 24), strict=True):
            last = compared.store.metrics(name).evaluations["eval_loss"][-1]
            assert cell == f"{last.mean():.4f} ± {last.std(ddof=1):.4f} ({end})"


def test_every_branch_that_decays_has_a_row(compared):
    """Those that others were forked from too; forks inside a branch by their step."""
    lineages = [" > ".join(end.lineage) for end in tables.final_values(compared)]
    assert lineages[:2] == ["wsd_trunk@9 > wsd_1", "wsd_trunk > wsd_2"]
    assert lineages[2] == "wsd_s_stable_1 > wsd_s_1"
    assert lineages[3].startswith("wsd_s_stable_1 > wsd_s_1 > wsd_s_stable_2")


def test_schedules_are_called_what_the_field_calls_them(tmp_path):
    branches = (
        plans.wsd(30, 2, 10, "sqrt")
        | plans.cosine(30, 2)
        | plans.wsd_s((10, 20), 2, 3e-4)
        | plans.cyclic_cosine((10, 20), 2)
        | plans.inverse_sqrt(30, 2, 10)
        | plans.infinite(2, 8, 10, 5, 1e-3, 1e-4)
        | {"rewarmed": Branch(parent="cosine", steps=9, schedule=Rewarm(2))}
        | {"b2": Branch(10, Cooldown(), "trunk@15", Overrides(b2=0.5))}
    )
    store = BranchStore(tmp_path)
    store.register(tree.resolve(dataclasses.replace(load_config(), tree=branches)))
    run = Run(tmp_path)
    assert {name: schedule_name(run, name) for name in run.branches} == {
        "trunk": "constant rate",
        "decay": "WSD, sqrt cooldown",
        "cosine": "warmup-cosine",
        "wsd_s_stable_1": "constant rate",
        "wsd_s_1": "WSD, inverse cooldown",
        "wsd_s_stable_2": "constant > cooldown > constant",
        "wsd_s_2": "WSD-S, inverse cooldown",
        "cyclic_1": "warmup-cosine",
        "cyclic_2": "cyclic cosine",
        "rsqrt_trunk": "inverse square root",
        "rsqrt_decay": "inverse square root > cooldown, linear cooldown",
        "fall": "warmup-cosine",
        "held": "warmup-cosine > held",
        "anneal": "infinite, exponential cooldown",
        "rewarmed": "re-warmed cosine",
        "b2": "WSD, linear cooldown",
    }


NASTY = (r"$\frac{$", "$x$ and $y$", "a\\$b", "_hidden", "<script>&", "\x1b[2J", "100%", "ω\n" * 90)


@pytest.mark.parametrize("text", NASTY)
def test_text_from_outside_is_drawn_letter_by_letter(text):
    """Beside formulas of ours too; and it is in the legend."""
    figure = Figure()
    axis = figure.subplots()
    for label in (style.plain(text), f"{style.plain(text)}: $v_s$"):
        axis.plot([0, 1], label=label)
        axis.set_title(label)
        figure.savefig(drawn := io.StringIO(), format="svg")
        ElementTree.fromstring(drawn.getvalue())  # which no control character is in
    assert len(style.once_each(axis)) == 2
    if text.isprintable():
        with matplotlib.rc_context(style.STYLE):
            axis.set_title(style.plain(text))
            figure.savefig(drawn := io.StringIO(), format="svg")
        assert text in "".join(ElementTree.fromstring(drawn.getvalue()).itertext())


def test_names_from_outside_harm_no_report(compared, tmp_path):
    """A data set's directory, a row of the comparison and a branch that could be formulas, tags
    or hidden."""
    workdir = shutil.copytree(compared.workdir, tmp_path / "<b>$^{$")
    file = workdir / "branches" / "wsd_2" / "branch.json"
    record = read_json(file, "")
    record["branch"]["data"] = to_json(Text(r"$\frac{$<script>"))
    write_json(file, record)
    config = read_json(workdir / "config.json", "")
    config["compare"] = {r"_$\frac{$<i>": ["wsd_1"]}
    write_json(workdir / "config.json", config)
    write_report(workdir)
    page = (workdir / "report.html").read_text()
    assert not re.search("<script|<i>|<b>", page)
    assert html.escape(r"_$\frac{$<i>") in page


def test_a_running_mean_has_fewer_rows_at_the_start():
    values = np.array([[1.0, 0.0], [2.0, 4.0], [6.0, 2.0], [4.0, 0.0]])
    expected = [[1, 0], [1.5, 2], [4, 3], [5, 1]]
    np.testing.assert_allclose(running_mean(values, 2), expected)
    np.testing.assert_allclose(running_mean(values, 9)[-1], values.mean(0))


def test_the_overlay_is_the_bound_on_the_rows(tmp_path):
    """For a run of 40 updates: its correlation and its line by hand."""
    config = with_tree({"trunk": Branch(steps=40, schedule=Constant(4))}, eval_every=40)
    run = Run(grow(tmp_path, config).workdir)
    (overlay,) = overlays(run)
    rows = run.table("trunk").updates
    norms, loss = rows["grad_norm"].mean(1), rows["loss"].mean(1)
    bound = theory.convex_bound(rows["rate"], norms, theory.implied_distance(rows["rate"], norms))
    assert overlay.steps.tolist() == [*range(5, 41)]
    np.testing.assert_allclose(overlay.loss, loss[4:])
    assert overlay.correlation == pytest.approx(np.corrcoef(bound[4:], loss[4:])[0, 1])
    slope, offset = np.polyfit(bound[4:], loss[4:], 1)
    np.testing.assert_allclose(overlay.fitted, offset + slope * bound[4:])


def test_the_entropy_of_a_synthetic_language_is_said(tmp_path):
    """Of one whose every token is followed by one of four alike: ln 4."""
    language = Bigram(ambiguous=1.0, choices=4)
    config = dataclasses.replace(load_config(), model=RNN(64, 8), data=language)
    store = BranchStore(tmp_path)
    store.register(tree.resolve(config))
    assert "Entropy of the language, nats a token: 1.3863." in tables.notes(Run(tmp_path), [])


@pytest.mark.parametrize(
    "content",
    ["", "null", "[]", '{"type": "Experiment", "tree"', '{"type": "Branch"}', '{"compare": 3}'],
)
def test_a_damaged_config_is_named(tmp_path, content):
    store = BranchStore(tmp_path)
    store.register(tree.resolve(load_config()))
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(DamagedFile, match=r"config\.json.*delete it and give the command"):
        Run(tmp_path)


def test_a_config_with_fields_of_another_kind_is_named(tmp_path):
    store = BranchStore(tmp_path)
    store.register(tree.resolve(load_config()))
    content = to_json(load_config())
    for field in ("optimizer", "compare", "tree", "eval_every"):
        (tmp_path / "config.json").write_text(json.dumps(content | {field: [1]}))
        with pytest.raises(DamagedFile, match=r"config\.json: is no experiment"):
            experiment_of(tmp_path)


def test_a_report_of_no_run(tmp_path):
    (tmp_path / "branches").mkdir()
    code, _, err = call("experiments.report", f"--workdir={tmp_path}")
    assert (code, err.count("\n")) == (2, 1)
    assert "no run is there" in err


def test_two_runs_are_drawn_beside_each_other(compared, tmp_path):
    other = tmp_path / "other"
    grow(other, with_tree(plans.wsd(12, 2, 4), batch_size=4))
    file = tmp_path / "both.html"
    runs = (f"--workdir={compared.workdir}", f"--workdir={other}")
    code, out, err = call("experiments.report", *runs, f"--out={file}")
    assert code == 0, err
    assert str(file) in out
    page = file.read_text()
    assert page.count("<h1>") == 2
    assert page.count('<figure id="loss">') == 2
    assert "WSD-S" in page
    code, _, err = call("experiments.report", runs[0], f"--out={file}")
    assert code == 2
    assert "give --workdir more than once" in err


def test_what_draws_is_not_imported_before_there_is_something_to_draw():
    """It takes half a second, for which the first update would wait."""
    code = "import sys, experiments.launch; print('matplotlib' in sys.modules)"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "False\n"
