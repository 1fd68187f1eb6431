"""The folder tpu/, against stubs of gcloud, srun and scontrol; nothing here reaches a network."""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import yaml
from helpers import ROOT, TINY, load_config

from wsdjax import tree
from wsdjax.branches import BranchStore
from wsdjax.branches.metrics import JsonLines
from wsdjax.config import describe_all

TPU = ROOT / "tpu"
VERBS = ["create", "setup", "run", "watch", "status", "log", "stop", "copy", "delete"]
SCRIPTS = [TPU / "pod", TPU / "install", TPU / "env.sh", TPU / "slurm.sbatch"]

# A stub notes its arguments, and answers what a scenario says. One that asks a scenario's list gets
# its first line, which goes, until it is the last.
STUB = f"""#!{sys.executable} -S
import json, os, pathlib, re, sys
here = pathlib.Path(os.environ["STUB"])
name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
with open(here / "log", "a") as log:
    log.write(json.dumps([name, *words]) + "\\n")
line, scenario = " ".join(words), json.loads((here / "scenario").read_text())
for pattern, answers in scenario.items():
    if re.search(pattern, f"{{name}} {{line}}"):
        code, said = answers[0]
        if len(answers) > 1:
            del answers[0]
            (here / "scenario").write_text(json.dumps(scenario))
        if said:
            print(said)
        sys.exit(code)
"""
STATE, STATUS = r"gcloud .*queued-resources list", r"host\.py status"


class Stubs:
    def __init__(self, directory: Path, *names: str):
        self.directory, self.bin = directory, directory / "bin"
        self.bin.mkdir()
        for name in names:
            (self.bin / name).write_text(STUB)
            (self.bin / name).chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            "STUB": str(directory),
            "TMPDIR": str(directory),
        }
        self.plays({})

    def plays(self, scenario: dict[str, list]) -> None:
        """Patterns of command lines with the answers, each (exit code, output), one after
        another."""
        (self.directory / "scenario").write_text(json.dumps(scenario))

    def run(self, *command: object, cwd: Path = ROOT, **more: str):
        return subprocess.run(
            list(map(str, command)),
            cwd=cwd,
            env=self.environment | more,
            text=True,
            capture_output=True,
            timeout=60,
        )

    def calls(self) -> list[list[str]]:
        log = self.directory / "log"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def did(self) -> list[str]:
        """What was done, in words; looking left out."""
        known = {
            "queued-resources create": "create",
            "queued-resources delete": "delete",
            "tpu-vm scp": "scp",
            "tpu/install": "install",
            "host.py start": "start",
            "host.py clear": "clear",
        }
        lines = map(" ".join, self.calls())
        return [word for line in lines for part, word in known.items() if part in line]


def settings(directory: Path, **values: str) -> Path:
    """An env.sh with these values; filled in where the one in tpu/ is to be."""
    text = (TPU / "env.sh").read_text()
    filled = {
        "PROJECT": "my-project",
        "ZONE": "us-west4-a",
        "BUCKET": "gs://my-bucket",
        "POLL_SECONDS": "0",
    }
    for name, value in (filled | values).items():
        quoted = value if value.startswith("(") else shlex.quote(value)
        text, found = re.subn(rf"(?m)^{name}=.*$", lambda _, n=name, q=quoted: f"{n}={q}", text)
        assert found == 1, name
    path = directory / "env.sh"
    path.write_text(text)
    return path


@pytest.fixture
def pod(tmp_path):
    """The command tpu/pod with its settings, against a stub."""
    stubs = Stubs(tmp_path, "gcloud")

    def run(*words: str, **values: str):
        return stubs.run(TPU / "pod", *words, TPU_ENV=str(settings(tmp_path, **values)))

    run.stubs = stubs
    return run


def said(state: str, *rest: str) -> list:
    return [(0, word) for word in (state, *rest)]


def test_watch_sees_a_run_through_a_preemption_to_its_end(pod):
    pod.stubs.plays(
        {
            STATE: said(
                *("", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE", "ACTIVE"),
                *("SUSPENDING", "SUSPENDED", "ACCEPTED", "ACTIVE"),
            ),
            STATUS: said(
                *("h: absent", "h: running", "h: absent", "h: running"),
                *("h: exited 75", "h: running", "h: lost", "h: running", "h: exited 0"),
            ),
        }
    )
    done = pod("watch")
    assert done.returncode == 0, done.stderr
    up = ["scp", "install", "start"]
    renewed = ["delete", "create", *up]
    again = ["clear", "start"]
    assert pod.stubs.did() == ["create", *up, *renewed, *again, *again]
    assert "All is trained" in done.stderr
    # Asked for in the same way both times, and gone by the right name.
    first, second = (call for call in pod.stubs.calls() if "create" in call)
    assert first == second
    assert {"--spot", "--node-id=wsdjax", "--accelerator-type=v5litepod-16"} <= {*first}


def test_a_preempted_host_that_does_not_answer_is_replaced(pod):
    pod.stubs.plays(
        {
            STATE: said("ACTIVE"),
            STATUS: [(255, ""), (0, "h: absent"), (0, "h: running"), (0, "h: exited 0")],
            "tpu-vm describe": said("PREEMPTED"),
        }
    )
    assert pod("watch").returncode == 0
    assert pod.stubs.did() == ["delete", "create", "scp", "install", "start"]


@pytest.mark.parametrize("refused", ["queued-resources create", STATE, "tpu/install", STATUS])
def test_watch_gives_up_after_eight_tries(pod, refused):
    refusal = {refused: [(1, "Quota exceeded")]}
    usual = {STATE: said("ACTIVE"), STATUS: said("h: absent")}
    if refused == "queued-resources create":
        usual = {STATE: said("")}
    if refused == STATUS:
        refusal["tpu-vm describe"] = said("READY")
    pod.stubs.plays(refusal | {key: usual[key] for key in usual if key != refused})
    done = pod("watch")
    assert done.returncode == 75
    assert done.stderr.count("of 8)") == 8
    assert "given up after eight tries. Nothing was deleted" in done.stderr
    assert "start" not in pod.stubs.did()
    assert "delete" not in pod.stubs.did()


def test_a_quota_that_is_refused_once_is_asked_for_again(pod):
    pod.stubs.plays(
        {
            "queued-resources create": [(1, ""), (0, "")],
            STATE: said("", "", "ACTIVE"),
            STATUS: said("h: absent", "h: running", "h: exited 0"),
        }
    )
    assert pod("watch").returncode == 0
    assert pod.stubs.did() == ["create", "create", "scp", "install", "start"]


@pytest.mark.parametrize(("ended", "code"), [(1, 1), (2, 2), (130, 130)])
def test_watch_ends_with_a_run_that_would_end_the_same_way_again(pod, ended, code):
    pod.stubs.plays({STATE: said("ACTIVE"), STATUS: said(f"h: exited {ended}")})
    done = pod("watch")
    assert done.returncode == code
    assert pod.stubs.did() == []
    assert f"the run ended with {ended}" in done.stderr


def test_an_error_because_a_host_was_taken_away_is_no_end(pod):
    pod.stubs.plays(
        {
            STATE: said("ACTIVE", "SUSPENDING", "SUSPENDED", "ACTIVE"),
            STATUS: said("h: exited 1", "h: absent", "h: running", "h: exited 0"),
        }
    )
    assert pod("watch").returncode == 0
    assert pod.stubs.did() == ["delete", "create", "scp", "install", "start"]


def test_a_run_that_crashes_is_started_three_times_more(pod):
    pod.stubs.plays(
        {STATE: said("ACTIVE"), STATUS: said(*["h: exited 139", "h: running"] * 4, "h: exited 139")}
    )
    done = pod("watch")
    assert done.returncode == 1
    assert pod.stubs.did() == ["clear", "start"] * 3


def test_create_waits_and_tells_what_became_of_the_request(pod):
    pod.stubs.plays({STATE: said("", "WAITING_FOR_RESOURCES", "ACTIVE")})
    done = pod("create", SPOT="false", CREATE_FLAGS="(--reserved --network='my net')")
    assert done.returncode == 0, done.stderr
    request = pod.stubs.calls()[0]
    assert "--spot" not in request
    assert {"--reserved", "--network=my net"} <= {*request}
    pod.stubs.plays({STATE: said("WAITING_FOR_RESOURCES", "FAILED")})
    done = pod("create")
    assert done.returncode == 2
    assert "the request for wsdjax is FAILED. Why: gcloud compute tpus" in done.stderr
    pod.stubs.plays({"create": [(1, "Quota exceeded")]})
    assert pod("create").returncode == 1


def test_setup_that_fails_on_one_host_fails(pod):
    pod.stubs.plays({"tpu/install": [(1, "")]})
    done = pod("setup")
    assert done.returncode == 1
    assert "setup failed on at least one host" in done.stderr
    assert pod.stubs.did() == ["scp", "install"]


@pytest.mark.parametrize("verb", [*VERBS, "copy --checkpoints", "run -- python -m x.y"])
def test_a_dry_run_prints_commands_and_runs_none(pod, verb):
    words = verb.split()
    done = pod(words[0], "--dry-run", *words[1:])
    assert done.returncode == 0, done.stderr
    assert pod.stubs.calls() == []
    assert not list(pod.stubs.directory.glob("*.tar.gz"))
    lines = [line for line in done.stdout.splitlines() if not line.startswith("#")]
    assert lines
    for line in lines:
        name, *flags = shlex.split(line)
        assert name in ("gcloud", "git", "mkdir", "tar")
        if name == "gcloud":
            assert "--project=my-project" in flags
            assert flags[0] == "storage" or "--zone=us-west4-a" in flags


def test_what_a_dry_run_prints_is_what_is_run(pod):
    printed = pod("run", "--dry-run").stdout
    assert pod("run").returncode == 0
    assert [shlex.split(line) for line in printed.splitlines()] == pod.stubs.calls()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        *((name, "", "is empty in") for name in ("PROJECT", "ZONE", "BUCKET", "NAME", "RUNTIME")),
        ("NAME", "My Run", "use a-z, 0-9 and -"),
        ("BUCKET", "my-bucket", "give it as gs://NAME"),
        ("SPOT", "yes", "true or false"),
        ("POLL_SECONDS", "1m", "a whole number"),
    ],
)
def test_a_setting_that_is_wrong_is_named(pod, name, value, said):
    done = pod("create", **{name: value})
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {name}")
    assert said in line
    assert "env.sh" in line
    assert pod.stubs.calls() == []


def test_mistakes_are_told_in_a_line(pod):
    for words, told in (
        (["creat"], "there is no tpu/pod creat"),
        (["delete", "it"], "delete takes no 'it'"),
        (["copy", "all"], "copy takes --checkpoints"),
    ):
        done = pod(*words)
        assert done.returncode == 2
        assert told in done.stderr
    assert pod("help").stdout.count("tpu/pod ") >= len(VERBS)
    assert pod.stubs.run(TPU / "pod", "run", TPU_ENV="/none").stderr.startswith("error: /none is")


def test_words_reach_the_command_on_the_host_as_they_were_given(pod, tmp_path):
    flags = ["--config.a=it's two words", '--config.b="$HOME" `id` *', "--config.c=\\n;é"]
    assert pod("run", FLAGS=f"({shlex.join(flags)})", BUCKET="gs://a b").returncode == 0
    (call,) = pod.stubs.calls()
    (command,) = (word.removeprefix("--command=") for word in call if word.startswith("--command="))
    python = tmp_path / "wsdjax" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/bash\nprintf "%s\\0" "$@"\n')
    python.chmod(0o755)
    # As sshd does, in the user's home.
    given = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, check=True)
    words = given.stdout.decode().split("\0")[:-1]
    assert words[:2] == ["tpu/host.py", "start"]
    assert words[-3:] == flags
    assert {"--home=gs://a b/wsdjax", "--checkpoint_dir=gs://a b/wsdjax/checkpoints"} <= {*words}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_good_bash(path):
    subprocess.run(["bash", "-n", path], check=True)
    assert path.suffix == ".sh" or "set -euo pipefail" in path.read_text()
    assert path.suffix in (".sh", ".sbatch") or os.access(path, os.X_OK)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "-x", "-s", "bash", path], check=True, cwd=ROOT)


# --- tpu/host.py


@pytest.fixture
def host(tmp_path):
    """The command tpu/host.py of a host whose bucket is a directory."""

    def run(*words: object, **environment: str):
        return subprocess.run(
            [sys.executable, TPU / "host.py", *map(str, words)],
            cwd=tmp_path / "host",
            env={**os.environ, "TPU_WORKER_ID": "1", "PYTHONPATH": str(ROOT)} | environment,
            text=True,
            capture_output=True,
            timeout=60,
        )

    def around(*command: object, verb: str = "run", **environment: str):
        where = (f"--home={tmp_path}/bucket", "--workdir=runs/a", "--every=0.1", "--")
        return run(verb, *where, *command, **environment)

    (tmp_path / "host").mkdir()
    run.around, run.directory, run.bucket = around, tmp_path / "host", tmp_path / "bucket"
    yield run
    with contextlib.suppress(OSError):
        for pid in (run.directory / ".host" / "pids").read_text().split():
            os.kill(int(pid), signal.SIGKILL)


def until(true, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


WAITS = """mkdir -p runs/a
trap 'echo {} > runs/a/metrics.jsonl; exit 130' INT
trap 'echo {} > runs/a/metrics.jsonl; exit 75' TERM
touch runs/a/on; while true; do sleep 0.05; done"""


def test_a_workdir_survives_its_host(host):
    write = (
        "mkdir -p runs/a/b && echo {} >> runs/a/b/metrics.jsonl && touch runs/a/.lock && exit {}"
    )
    assert host.around("bash", "-c", write.format(1, 75)).returncode == 75
    assert host("status").stdout.endswith(": exited 75\n")
    with tarfile.open(host.bucket / "workdir.tar.gz") as copy:
        assert copy.getnames() == ["b/metrics.jsonl"]
    # Another host, with an empty disk; then one where another has gone on in the meantime.
    shutil.rmtree(host.directory)
    host.directory.mkdir()
    assert host.around("bash", "-c", write.format(2, 0)).returncode == 0
    rows = host.directory / "runs" / "a" / "b" / "metrics.jsonl"
    assert rows.read_text() == "1\n2\n"
    # What changed here since it was sent is newer than any copy, and stays.
    rows.write_text("1\n2\n3\n")
    assert host.around("true").returncode == 0
    assert rows.read_text() == "1\n2\n3\n"
    # What did not is replaced.
    shutil.copy(host.bucket / "workdir.tar.gz", host.bucket / "newest")
    assert host.around("bash", "-c", write.format(4, 0)).returncode == 0
    shutil.move(host.bucket / "newest", host.bucket / "workdir.tar.gz")
    assert host.around("true").returncode == 0
    assert rows.read_text() == "1\n2\n3\n"
    # What a host without process 0 leaves in its workdir is not the run's.
    sent = (host.bucket / "workdir.tar.gz").read_bytes()
    assert host.around("touch", "runs/a/junk").returncode == 0
    assert (host.bucket / "workdir.tar.gz").read_bytes() == sent


def test_a_run_goes_on_by_itself_and_is_stopped(host):
    assert host("status").stdout.endswith(": none\n")
    assert host.around("bash", "-c", WAITS, verb="start").returncode == 0
    assert host("status").stdout.endswith(": running\n")
    again = host.around("true", verb="start")
    assert again.returncode == 2
    assert "stop it first" in again.stderr
    until(lambda: (host.directory / "runs" / "a" / "on").exists())
    assert host("stop").returncode == 0
    assert host("status").stdout.endswith(": exited 130\n")
    with tarfile.open(host.bucket / "workdir.tar.gz") as copy:
        assert sorted(copy.getnames()) == ["metrics.jsonl", "on"]


def test_in_a_container_the_command_is_told_by_the_first_process(host):
    where = (f"--home={host.bucket}", "--workdir=runs/a", "--pass_signals", "--")
    first = subprocess.Popen(
        [sys.executable, TPU / "host.py", "run", *where, "bash", "-c", WAITS],
        cwd=host.directory,
        env=os.environ | {"TPU_WORKER_ID": "0"},
    )
    until(lambda: (host.directory / "runs" / "a" / "on").exists())
    first.send_signal(signal.SIGTERM)
    assert first.wait(20) == 75
    with tarfile.open(host.bucket / "workdir.tar.gz") as copy:
        assert "metrics.jsonl" in copy.getnames()


def test_a_killed_run_is_lost_and_what_is_left_of_it_is_cleared(host):
    assert host.around("sleep", "60", verb="start").returncode == 0
    pids = host.directory / ".host" / "pids"
    until(lambda: " " in pids.read_text())
    command, keeper = map(int, pids.read_text().split())
    os.kill(keeper, signal.SIGKILL)
    # The command lives, and so nothing else may start.
    assert host("status").stdout.endswith(": running\n")
    assert host("clear", "--patience=0").returncode == 0
    until(lambda: not Path(f"/proc/{command}").exists() or "Z" in _state(command))
    assert host("status").stdout.endswith(": lost\n")


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_text_is_brought_to_a_host(host, tmp_path):
    (tmp_path / "bucket" / "data" / "text").mkdir(parents=True)
    (tmp_path / "bucket" / "data" / "text" / "a.bin").write_text("a")
    assert host("get", tmp_path / "bucket" / "data", "data").returncode == 0
    assert (host.directory / "data" / "text" / "a.bin").read_text() == "a"


def test_a_copy_that_cannot_be_read_is_no_reason_to_train_anew(host):
    host.bucket.mkdir()
    (host.bucket / "workdir.tar.gz").write_text("no archive")
    assert host.around("touch", "begun").returncode == os.EX_SOFTWARE
    assert not (host.directory / "begun").exists()


def test_checkpoints_later_than_the_rows_put_back_are_set_aside(tmp_path):
    experiment = load_config(TINY)
    store = BranchStore(tmp_path / "runs", str(tmp_path / "bucket"))
    store.register(tree.resolve(experiment, describe_all(experiment.data_sets())))
    for name, rows in (("trunk", 20), ("decay", 11), ("cosine", 0)):
        start = store.branches()[name].start
        lines = JsonLines(store.directory(name) / "metrics.jsonl", start, start)
        for step in range(start + 1, start + rows + 1):
            lines.write({"step": step, "loss": [1.0]})
        lines.close()
    damaged = store.directory("trunk") / "metrics.jsonl"
    damaged.write_text(damaged.read_text().replace("[1.0]", "[2.0]", 1))
    saved = {"trunk": [20, 24], "decay": [30, 35, 36], "cosine": [5]}
    for name, steps in saved.items():
        for step in steps:
            (store.place(name) / str(step)).mkdir(parents=True)
    # In a process of its own: it must leave the TPU, which one process has, to the command.
    code = (
        "import sys, host, pathlib; host.set_aside_later_than_rows(pathlib.Path(sys.argv[1]));"
        "from jax._src import xla_bridge; assert not xla_bridge.backends_are_initialized()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "runs"],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{TPU}"},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    again = BranchStore(tmp_path / "runs")
    assert {name: again.steps(name) for name in saved} == {
        "trunk": [20, 24],
        "decay": [30, 35],
        "cosine": [],
    }
    assert (store.place("decay") / "36.damaged").exists()
    # Damaged rows are refused by the run itself, in its own words.
    assert "trunk" not in done.stderr
    assert "decay: rows end at update 35; the checkpoints of [36] are set aside" in done.stderr


@pytest.mark.slow
def test_a_run_whose_host_vanished_ends_as_one_that_was_left_alone(host):
    run = ["python", "-m", "experiments.run", f"--config={TINY}", "--workdir=runs/a"]
    run += [f"--checkpoint_dir={host.bucket}/checkpoints", "--config.keep=4"]

    def losses(name: str) -> list:
        return BranchStore(host.directory / "runs" / "a").metrics(name).updates["loss"].tolist()

    assert host.around(*run).returncode == 0
    alone = losses("decay")
    shutil.rmtree(host.directory / "runs")
    shutil.rmtree(host.directory / ".host")
    shutil.rmtree(host.bucket)

    assert host.around(*run, verb="start").returncode == 0
    trunk = host.bucket / "checkpoints" / "trunk" / "checkpoints"
    until(lambda: (trunk / "10").exists(), 120)
    early = (host.bucket / "workdir.tar.gz").read_bytes()
    until(lambda: (trunk / "20").exists(), 120)
    for pid in (host.directory / ".host" / "pids").read_text().split():
        os.kill(int(pid), signal.SIGKILL)
    until(lambda: host("status").stdout.endswith(": lost\n"))
    shutil.rmtree(host.directory / "runs")
    shutil.rmtree(host.directory / ".host")
    (host.bucket / "workdir.tar.gz").write_bytes(early)

    done = host.around(*run, TPU_WORKER_ID="0")
    assert done.returncode == 0, done.stderr
    assert "are set aside" in done.stderr
    assert losses("decay") == alone


# --- SLURM, SkyPilot, GKE, Docker


def test_slurm_runs_a_task_for_each_gpu_and_is_queued_again_after_75(tmp_path):
    text = (TPU / "slurm.sbatch").read_text()
    options = dict(re.findall(r"(?m)^#SBATCH --([\w-]+)(?:=(\S+))?$", text))
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    assert {"requeue", "time", "nodes", "cpus-per-task"} <= options.keys()
    assert options["open-mode"] == "append"  # the log of the time before stays
    number, seconds = options["signal"].split("@")
    assert number == "TERM"  # without B: to the tasks, not to the script
    assert int(seconds) >= 60
    # SLURM reads no options after the first command.
    lines = text.splitlines()
    first = next(n for n, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first:])

    stubs = Stubs(tmp_path, "srun", "scontrol")
    stubs.plays({"^srun": [(75, ""), (0, "")]})
    script, job = TPU / "slurm.sbatch", {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "8"}
    first = stubs.run("bash", script, cwd=tmp_path, CONFIG="a b.py", **job)
    assert first.returncode == 75
    second = stubs.run("bash", script, "python", "-m", "x", "--flag=a b", cwd=tmp_path, **job)
    assert second.returncode == 0
    stubs.plays({"^srun": [(1, "")]})
    assert stubs.run("bash", script, cwd=tmp_path, **job).returncode == 1
    started, requeued, once_more, failed = stubs.calls()
    assert started[-4:] == ["python", "-m", "experiments.run", "--config=a b.py"]
    assert requeued == ["scontrol", "requeue", "7"]
    assert once_more[-4:] == ["python", "-m", "x", "--flag=a b"]
    assert failed[0] == "srun"


def test_skypilot_goes_on_after_75():
    task = yaml.safe_load((TPU / "sky.yaml").read_text())
    assert task["resources"]["job_recovery"] == {"recover_on_exit_codes": [75]}
    assert "tpu/host.py run" in task["run"]
    assert (ROOT / task["envs"]["CONFIG"]).exists()
    assert (ROOT / task["setup"]).exists()
    subprocess.run(["bash", "-n"], input=task["run"], text=True, check=True)


def test_a_jobset_has_a_pod_for_each_host_and_ends_where_watch_does():
    spec = yaml.safe_load((TPU / "jobset.yaml").read_text())["spec"]
    (replicated,) = spec["replicatedJobs"]
    job = replicated["template"]["spec"]
    pods = job["template"]["spec"]
    (container,) = pods["containers"]
    rows, columns = map(int, pods["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert job["parallelism"] == job["completions"] == rows * columns // chips
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [1, 2, 130]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert spec["failurePolicy"]["rules"][0]["action"] == "FailJobSet"
    (config,) = (a for a in container["args"] if a.startswith("--config="))
    assert (ROOT / config.removeprefix("--config=")).exists()


def test_the_image_is_made_of_what_is_there_and_pinned():
    text = (TPU / "Dockerfile").read_text()
    for source in re.findall(r"(?m)^COPY (?!--from)(?:--\S+ )?(.+) \S+$", text):
        assert all((ROOT / path).exists() for path in source.split()), source
    bases = re.findall(r"(?m)^FROM (\S+)", text)
    assert {*bases} == {"python:3.11-slim-bookworm"}
    assert "--constraint constraints.txt" in text
    assert re.findall(r"(?m)^USER (\S+)", text)[-1] == "wsdjax"
    pinned = [line for line in (TPU / "requirements.txt").read_text().splitlines() if line]
    assert all(line.startswith("#") or "==" in line for line in pinned)
    assert re.search(r"uv==\d", (TPU / "install").read_text())


def test_the_readme_names_every_command_and_file():
    text = (TPU / "README.md").read_text()
    for verb in VERBS:
        assert f"tpu/pod {verb}" in text
    for path in TPU.iterdir():
        if path.is_file() and path.name != "README.md":
            assert path.name in text, path.name
    assert "What fits, by the compiler's word" in text
