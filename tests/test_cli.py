"""The command line: what it prints, what it refuses, and that it refuses early."""

import json
import logging
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from helpers import (
    NO_CACHE,
    ROOT,
    TINY,
    call,
    command,
    files,
    finish,
    flip_a_byte,
    load_config,
    run_script,
    same,
    start,
)

from experiments.cli import overrides
from wsdjax.branches import BranchStore, metrics
from wsdjax.branches.metrics import JsonLines
from wsdjax.config import validate

MISTAKES = {
    "a mistyped field": (["--config.optimizer.peak_valu=1"], "peak_valu"),
    "a wrong type": (["--config.batch_size=many"], "batch_size"),
    "a value out of range": (
        ["--config.optimizer.b1=1.5"],
        "optimizer.b1 = 1.5: must be >= 0 and < 1",
    ),
    "a warmup longer than the run": (
        ["--config.tree.trunk.schedule.warmup_steps=99"],
        "tree.trunk.schedule",
    ),
    "an unknown shape": (["--config.tree.decay.schedule.shape=linea"], "linear, cosine"),
    "an unknown parent": (["--config.tree.decay.parent=trunc"], "'trunc' does not exist"),
    "an unknown branch": (["--config.tree.deca.steps=3"], "deca"),
    "a stray argument": (["tiny"], "unexpected argument 'tiny'"),
    "an unknown flag": (["--wokdir=x"], "wokdir"),
    "a directory twice": (["--workdir=x"], "--workdir is given more than once"),
    "a switch and its opposite": (
        ["--dry_run", "--nodry_run"],
        "--dry_run is given more than once",
    ),
    "a field twice": (
        ["--config.batch_size=8", "--config.batch_size", "4"],
        "--config.batch_size is given more than once",
    ),
    "an unknown field in the file": (
        ["--config=tests/configs/mistaken.py"],
        "mistaken.py, line 7: Branch has no field 'stepz', did you mean 'steps'?",
    ),
    "a file of no name": (["--config=" + "x" * 5_000], "there is no such file"),
    "a directory": (["--config=tests"], "--config=tests: there is no such file"),
    "no UTF-8": (["--config.weights=\udc80"], "is not UTF-8"),
    "more updates than are counted": (
        ["--config.tree.trunk.steps=1000000000000"],
        "tree.trunk.steps = 1000000000000: comes to 1000000000000 updates, must be >= 1 and",
    ),
    "more than the machine holds": (
        ["--config.model.classes=2000000000"],
        "model.classes = 2000000000, model.widths = 4, seeds = 2: training trunk takes at least",
    ),
    "checkpoints that cannot be written": (
        ["--checkpoint_dir=/proc/x"],
        "/proc/x cannot be written",
    ),
    "a batch larger than the set": (["--config.batch_size=4000"], "batch_size = 4000"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_in_a_line_or_two_and_nothing_is_written(mistake, tmp_path):
    arguments, named = MISTAKES[mistake]
    workdir = tmp_path / "w"
    own = any(argument.startswith("--config=") for argument in arguments)
    config = [] if own else [f"--config={TINY}"]
    code, out, err = call("experiments.run", *config, f"--workdir={workdir}", *arguments)
    assert code == 2, err
    assert named in err
    assert len(err.strip().splitlines()) <= 2, err
    assert len(err) < 500, err
    assert out == ""
    assert not workdir.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("experiments.report", "--out=a", "--out=b"),
        ("experiments.branch", "list", "--workdir=a", "--workdir=a"),
        ("experiments.probe", "--probe=noise", "--workdir=a", "--probe=sharpness"),
        ("experiments.bench", "curvature", "--batch=3", "--batch", "4"),
        ("experiments.prepare", "text", "--input", "a", "--out", "b", "--out", "c"),
        ("experiments.prepare", "cifar10", "--directory=a", "--archive=c", "--directory=b"),
    ],
)
def test_a_flag_that_is_given_twice_is_refused(arguments, tmp_path):
    """Where the last would be taken without a word."""
    code, _, err = call(*arguments)
    assert code == 2
    assert re.search(r"--(workdir|probe|batch|out|directory) is given more than once", err)
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("experiments.run", "--config=tests/configs/tiny.py", "--dry_run"), 0, "72 updates"),
        (("experiments.branch", "show", "decay", "--workdir=W"), 0, "lineage       trunk@24"),
        (("experiments.probe", "--workdir=W", "--node=decay", "--probe=x"), 2, "the probes are"),
        (("experiments.report", "--workdir=W"), 0, "Report:  "),
        (("experiments.prepare", "text", "--out=x"), 2, "give --input and --tokenizer"),
        (("experiments.bench",), 2, "name the benchmark first: all or train or "),
    ],
)
def test_each_command_is_a_module_that_ends_with_its_exit_code(arguments, code, said, finished):
    arguments = [argument.replace("=W", f"={finished}") for argument in arguments]
    found, out, err = finish(start(*arguments))
    assert found == code, err
    assert said in out + err


def test_a_command_may_be_called_again_and_says_everything_once(finished, tmp_path):
    """With other flags; what the library logs is neither repeated nor left to be logged later."""
    logger = logging.getLogger("wsdjax")
    before = list(logger.handlers), logger.level, logger.propagate
    workdir = shutil.copytree(finished, tmp_path / "w")
    for _ in range(2):
        flip_a_byte(workdir / "branches/cosine/checkpoints/36")
        code, _, err = call("experiments.run", f"--config={TINY}", f"--workdir={workdir}")
        assert code == 0, err
        assert err.count("cosine/checkpoints/36 is damaged") == 1
        code, out, _ = call("experiments.branch", "list", f"--workdir={workdir}")
        assert (code, out.count("cosine")) == (0, 1)
        assert call("experiments.run", f"--config={TINY}", "--config.seeds=0")[0] == 2
    assert (list(logger.handlers), logger.level, logger.propagate) == before


def test_a_config_file_is_executed_once(tmp_path):
    """To explain a mistake too."""
    config, log = tmp_path / "c.py", tmp_path / "log"
    config.write_text(f"open({str(log)!r}, 'a').write('x')\n{TINY.read_text()}")
    for mistake in ("--config.sed=3", "--config.seeds=many", "wrong", "--config.tree.trunk=1"):
        log.write_text("")
        code, _, err = call("experiments.run", f"--config={config}", mistake)
        assert (code, len(err.splitlines())) == (2, 1)
        assert log.read_text() == "x"


@pytest.mark.parametrize(
    ("flags", "path", "value"),
    [
        (["--config.seeds=3"], "seeds", 3),
        (["--config.seeds", "3"], "seeds", 3),
        (["--config.optimizer.peak_value=1"], "optimizer.peak_value", 1.0),
        (["--config.optimizer.clip_norm=inf"], "optimizer.clip_norm", float("inf")),
        (["--config.model.widths=(8, 4)"], "model.widths", (8, 4)),
        (["--config.model.widths=8"], "model.widths", (8,)),
        (["--config.tensorboard"], "tensorboard", True),
        (["--config.tensorboard=false"], "tensorboard", False),
        (["--noconfig.tensorboard"], "tensorboard", False),
        (["--config.tree.trunk.steps=50%", "--config.length=60"], "tree.trunk.steps", "50%"),
        (["--config.snapshot_every=none"], "snapshot_every", None),
        (["--config.snapshot_every=6"], "snapshot_every", 6),
        (["--config.tree.trunk.averages.ema=0.5"], "tree.trunk.averages.ema", 0.5),
        (["--config.tree.trunk.data_seed=7"], "tree.trunk.data_seed", 7),
        (["--config.tree.decay.parent=trunk@20"], "tree.decay.parent", "trunk@20"),
    ],
)
def test_a_flag_sets_a_field_by_its_type(flags, path, value):
    experiment, rest = overrides.experiment(str(TINY), [*flags, "--dry_run"])
    assert rest == ["--dry_run"]
    validate(experiment)
    for name in path.split("."):
        experiment = experiment[name] if isinstance(experiment, dict) else getattr(experiment, name)
    assert (experiment, type(experiment)) == (value, type(value))


def test_an_unknown_data_set(tmp_path):
    """A config file's own mistakes are found too: values set there are checked by nobody else."""
    config = tmp_path / "c.py"
    config.write_text(
        TINY.read_text().replace(
            "data=Photos(noise=0.8, size=2_000, eval_size=50)", 'data="imagenet"'
        )
    )
    code, _, err = call("experiments.run", f"--config={config}", f"--workdir={tmp_path}/w")
    allowed = "Photos, Cifar10, Text, Stdlib, Bigram"
    assert (code, err.strip()) == (2, f"error: data = 'imagenet': must be one of {allowed}")


@pytest.mark.parametrize("given", [("--config=quickstart",), ("--config", "quickstart")])
def test_a_config_that_is_not_there(given):
    """The error names those that are: a name alone is a likely mistake."""
    code, _, err = call("experiments.run", *given)
    assert code == 2
    assert err.startswith("error: --config=quickstart: there is no such file; ours are experiments")
    assert "quickstart" in err.partition(";")[2]
    assert len(err.strip().splitlines()) == 1, err


def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    arguments = ("experiments.run", f"--config={TINY}", f"--workdir={tmp_path}/file/w")
    code, _, err = call(*arguments)
    assert code == 2
    assert "file/w cannot be written (Not a directory): choose another --workdir" in err
    assert len(err.strip().splitlines()) == 1, err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def get_config(:", "SyntaxError: invalid syntax (c.py, line 1)"),
        (
            "def get_config():\n    raise RuntimeError('no such thing')",
            "RuntimeError: no such thing",
        ),
        ("def get_config():\n    raise RuntimeError", "c.py, line 2: RuntimeError"),
        ("import sys\nsys.exit(3)", "c.py, line 2: SystemExit: 3"),
        (
            "from wsdjax import plans\nplans.wsd_s((), 3, 1e-4)",
            "c.py, line 2: budgets = (): must hold one",
        ),
        ("def get_config():\n    return get_config()", "c.py, line 2: RecursionError"),
        ("x = 1", "no attribute 'get_config'"),
        ("def get_config():\n    return 3", "get_config() must return an Experiment, not int"),
    ],
)
def test_a_config_file_that_fails(text, said, tmp_path):
    (tmp_path / "c.py").write_text(text)
    arguments = ("experiments.run", f"--config={tmp_path}/c.py", f"--workdir={tmp_path}/w")
    code, _, err = call(*arguments)
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1, err
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_an_interrupt_saves_and_says_how_to_go_on(number, expected, tmp_path):
    """And ends without a crash of what is torn down; by SIGTERM a machine is taken away."""
    process = interrupted(tmp_path, number)
    code, _, err = finish(process)
    assert code == expected
    assert "Stopping after this update; once more stops at once." in err
    stopped = re.search(r"Stopped: trunk is saved at update (\d+) of 24. The same command", err)
    assert BranchStore(tmp_path / "w").steps("trunk")[-1] == int(stopped[1])
    assert "Traceback" not in err
    assert "stopped" in json.loads((tmp_path / "w/status.json").read_text())["status"]


def test_two_interrupts_stop_at_once(tmp_path):
    process = interrupted(tmp_path, signal.SIGINT, **NO_CACHE)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130
    assert err.strip().endswith("The same command goes on from the newest checkpoint.") or (
        "is saved at update" in err  # the first was already being answered
    )
    assert "Traceback" not in err


def interrupted(tmp_path, number, **environment):
    """A run that has been sent a signal as soon as it listens."""
    process = start("experiments.run", f"--config={TINY}", f"--workdir={tmp_path}/w", **environment)
    status = tmp_path / "w/status.json"
    while not (status.exists() and "running" in status.read_text()):
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.5)
    process.send_signal(number)
    return process


def test_a_second_process_on_the_same_workdir_is_refused(finished):
    with BranchStore(finished).lock():
        code, _, err = call("experiments.run", f"--config={TINY}", f"--workdir={finished}")
    assert code == 2
    assert "another process is training in" in err


def test_a_finished_workdir_says_so_and_does_nothing(finished):
    before = files(finished)
    code, out, err = call("experiments.run", f"--config={TINY}", f"--workdir={finished}")
    assert (code, err) == (0, "")
    assert "Nothing is missing" in out
    assert files(finished) == before


def test_divergence_ends_the_command_with_an_error(tmp_path):
    arguments = ["--config.optimizer.peak_value=1e30", f"--workdir={tmp_path}/w"]
    code, _, err = call("experiments.run", f"--config={TINY}", *arguments)
    assert code == 1
    assert re.search(r"error: not finite at update \d: trunk seed 0, trunk seed 1", err)
    assert "diverged" in json.loads((tmp_path / "w/status.json").read_text())["status"]


def test_a_report_of_what_diverged(finished, tmp_path):
    """Rows that are not finite are drawn around."""
    workdir = shutil.copytree(finished, tmp_path / "tiny")
    for branch in ("decay", "cosine"):
        path = workdir / "branches" / branch / "metrics.jsonl"
        rows = metrics.read(path).rows
        row = next(row for row in reversed(rows) if "loss" in row)
        row |= {"loss": [None, 2.0], "grad_norm": [None, None]}
        shutil.rmtree(path.parent / "checkpoints")  # whose records know of other rows
        fork = rows[0]["step"] - 1
        again = JsonLines(path, fork, fork)
        for row in rows:
            again.write(row)
        again.close()
    code, out, err = call("experiments.report", f"--workdir={workdir}")
    assert (code, err) == (0, "")
    assert "Correlation" not in out


def test_a_comparison_that_is_added_is_drawn(finished, tmp_path):
    """A finished run is not trained again, and its report has the new table."""
    workdir = shutil.copytree(finished, tmp_path / "w")
    config = tmp_path / "c.py"
    both = 'compare={"WSD": ("decay",), "cosine": ("cosine",)},'
    config.write_text(TINY.read_text().replace("eval_every=7,", f"eval_every=99, {both}"))
    arguments = ("experiments.run", f"--config={config}", f"--workdir={workdir}")
    code, out, _ = call(*arguments)
    assert code == 0
    assert re.search(r"WSD +\d\.\d{4} ± \d\.\d{4} \(36\) +36\n", out)
    written = json.loads((workdir / "config.json").read_text())
    assert written["eval_every"] == 7  # as it was watched
    assert set(written["compare"]) == {"WSD", "cosine"}
    assert "Nothing is missing" in call(*arguments)[1]
    config.write_text(config.read_text().replace('("cosine",)', '("sine",)'))
    code, _, err = call(*arguments)
    assert code == 2
    assert "compare.cosine: there is no branch 'sine'" in err


def test_what_a_run_leaves(finished):
    """The final table on the screen; figures, a page and plain files in the workdir."""
    out = (finished.parent / "out").read_text()
    assert re.search(r"trunk > decay +36 +0\.00e\+00 +\d\.\d{4} ± \d\.\d{4}", out)
    assert "stand in for CIFAR-10" in out
    names = {path.relative_to(finished).as_posix() for path in finished.rglob("*")}
    assert {
        "config.json",
        "status.json",
        "report.html",
        "figures/loss.png",
        "figures/loss.svg",
        "figures/parameter_norm.png",
        "figures/parameter_norm.svg",
        "figures/convex_bound.svg",
        "results.json",
        "branches/decay/branch.json",
        "branches/decay/metrics.jsonl",
    } <= names
    page = (finished / "report.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 3
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert json.loads((finished / "status.json").read_text())["status"] == "done"


def test_the_report_is_drawn_from_the_files_alone(finished, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "tiny")
    for name in ("report.html", "figures"):
        path = workdir / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for branch in ("trunk", "decay", "cosine"):
        shutil.rmtree(workdir / "branches" / branch / "checkpoints")
    code, out, err = call("experiments.report", f"--workdir={workdir}")
    assert code == 0, err
    assert (workdir / "report.html").read_text() == (finished / "report.html").read_text()
    assert out.splitlines()[:6] == (finished.parent / "out").read_text().splitlines()[:6]


def test_a_half_trained_run_has_a_report(finished, tmp_path):
    """What has not begun is left out."""
    workdir = shutil.copytree(finished, tmp_path / "tiny")
    for branch in ("trunk", "decay", "cosine"):
        shutil.rmtree(workdir / "branches" / branch / "checkpoints")
    (workdir / "branches/cosine/metrics.jsonl").unlink()
    (workdir / "branches/decay/metrics.jsonl").write_text("")
    code, out, err = call("experiments.report", f"--workdir={workdir}")
    assert code == 0, err
    assert "warmup-cosine" not in out
    assert "Not finished: decay (not begun), cosine (not begun)." in out
    (workdir / "branches/trunk/metrics.jsonl").unlink()
    code, _, err = call("experiments.report", f"--workdir={workdir}")
    assert code == 0, err


def test_a_damaged_end_is_noticed_and_made_again(finished, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "w")
    flip_a_byte(workdir / "branches/cosine/checkpoints/36")
    code, _, err = call("experiments.run", f"--config={TINY}", f"--workdir={workdir}")
    assert code == 0, err
    assert "cosine/checkpoints/36 is damaged" in err
    assert same(BranchStore(workdir).restore("cosine"), BranchStore(finished).restore("cosine"))


def test_a_page_that_was_not_drawn_again_is_drawn(finished, tmp_path):
    """A new branch takes the old page away, and a finished run without a page draws it."""
    workdir = shutil.copytree(finished, tmp_path / "w")
    (workdir / "report.html").unlink()
    code, _, err = call("experiments.run", f"--config={TINY}", f"--workdir={workdir}")
    assert (code, err) == (0, "")
    assert (workdir / "report.html").exists()


def test_a_report_of_nothing(tmp_path):
    code, _, err = call("experiments.report", f"--workdir={tmp_path}")
    assert code == 2
    assert "no run is there" in err


def test_the_readmes_python_lines_run(finished, tmp_path):
    """The interactive way, as the README prints it, in a directory where a run has been."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "quickstart").symlink_to(finished)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert blocks
    run_script("\n".join(blocks), cwd=tmp_path)


def test_every_config_resolves():
    """Each file in experiments/configs declares a tree that is valid."""
    for config in sorted((ROOT / "experiments" / "configs").glob("*.py")):
        from wsdjax.config import validate
        from wsdjax.tree import resolve

        experiment = load_config(config)
        validate(experiment)
        assert resolve(experiment), config


def test_a_bar_is_shown_on_a_terminal(tmp_path):
    """On a terminal the bar shows the step, of how many, loss, rate and images a second."""
    run = command("experiments.run", f"--config={TINY}", f"--workdir={tmp_path}/w")
    script = subprocess.run(
        ["script", "-qec", f"stty cols 120 rows 40; {shlex.join(run)}", "/dev/null"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert script.returncode == 0
    assert re.search(r"cosine: 100%\|.*\| 36/36 \[.*loss \d\.\d+, rate .*images/s\]", script.stdout)


def test_rows_go_to_tensorboard_too_when_asked(tmp_path):
    from tensorboardX import SummaryWriter  # noqa: F401

    arguments = (f"--config={TINY}", f"--workdir={tmp_path}/w", "--config.tensorboard")
    code, _, err = call("experiments.run", *arguments)
    assert code == 0, err
    assert list(Path(tmp_path / "w/branches/decay/tensorboard").glob("events.*"))
