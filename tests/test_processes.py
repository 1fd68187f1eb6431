"""Several processes train and measure as one does, and end together."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import numpy as np
import pytest
from helpers import NO_CACHE, ROOT, command, grow, load_config, rows_of, same, write_shards
from test_mesh import WSD_S

from wsdjax.branches import BranchStore

pytestmark = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="the devices are the CPU's, simulated"
)


def begin(count, *commands, devices=2, **environment):
    """Starts a process for each command, or `count` of the one that is given."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "JAX_NUM_CPU_DEVICES": str(devices),
        **environment,
    }
    flags = [f"--coordinator=localhost:{port}", f"--process_count={count}"]
    return [
        subprocess.Popen(
            [*commands[i % len(commands)], *flags, f"--process_id={i}"],
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for i in range(count)
    ]


def ended(processes, within=240):
    """The exit codes, and what each wrote to standard error; kills those that hang."""
    # All at once: one that has filled its pipe would wait for us, and the others for it.
    with ThreadPoolExecutor(len(processes)) as readers:
        try:
            read = partial(subprocess.Popen.communicate, timeout=within)
            said = list(readers.map(read, processes))
        finally:
            for process in processes:
                process.kill()
    return [process.returncode for process in processes], [err for _, err in said]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "wsd_s.py"
    path.write_text(WSD_S)
    return path


def run(config, workdir):
    return command("experiments.run", f"--config={config}", f"--workdir={workdir}")


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """The workdir of two processes that were not disturbed."""
    workdir = tmp_path_factory.mktemp("two") / "w"
    codes, err = ended(begin(2, run(config, workdir)))
    assert codes == [0, 0], err
    assert not err[1]  # the first one speaks for all
    return workdir


def test_two_processes_train_as_one_device_does(whole, config, tmp_path):
    """The first alone has records, rows and a report; what both saved is read and forked here."""
    two, one = BranchStore(whole), grow(tmp_path / "one", load_config(config))
    for name in ("first", "again", "last"):
        rows, expected = (store.metrics(name).updates["loss"] for store in (two, one))
        np.testing.assert_allclose(rows, expected, rtol=1e-4)
    ends = [store.restore("last").params for store in (two, one)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), *ends)
    assert (whole / "report.html").exists()
    assert not list(whole.glob("**/.seen-*"))


def test_of_two_processes_one_is_killed_and_one_is_told_to_stop(whole, config, tmp_path):
    """The other ends within a minute, with one line that names the first; a notice of preemption to
    one is obeyed by both; in the end all is what it would have been, to the bit."""
    workdir = tmp_path / "w"
    arguments = run(config, workdir)[1:]
    killed = [sys.executable, "tests/killed.py", "update", "first", "5", *arguments[1:]]
    begun = time.monotonic()
    processes = begin(2, run(config, workdir), killed, **NO_CACHE)
    processes[1].wait(100)
    died = time.monotonic()
    codes, err = ended(processes)
    assert codes == [75, -signal.SIGKILL], err
    assert time.monotonic() - died < 60, time.monotonic() - begun
    last = err[0].strip().splitlines()[-1]
    assert last.startswith("error: process 0 of 2 has lost process 1"), err[0]
    assert "Check failure stack trace" not in err[0]

    told = [sys.executable, "-c", TOLD_TO_STOP, *arguments[2:]]
    codes, err = ended(begin(2, run(config, workdir), told))
    assert codes == [75, 75], err
    assert "is saved at update" in err[0]
    status = json.loads((workdir / "status.json").read_text())["status"]
    assert status.startswith("stopped: again is saved at update"), status

    codes, err = ended(begin(2, run(config, workdir)))
    assert codes == [0, 0], err
    stores = BranchStore(workdir), BranchStore(whole)
    for name in ("first", "down", "again", "last"):
        assert same(*(store.restore(name) for store in stores)), name
        assert rows_of(stores[0], name) == rows_of(stores[1], name)


TOLD_TO_STOP = """
import os, signal, sys, time
from experiments import cli, run
from wsdjax.branches import BranchStore

def tell(event, branch, step):
    if (event, branch, step) == ("read", "again", 10):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(3)  # in which the processes agree, and none goes on alone

BranchStore.tell = staticmethod(tell)
cli.end(run.main(sys.argv[1:]))
"""


def test_a_probe_of_two_processes_measures_what_one_device_does(whole, tmp_path):
    def probe(*flags):
        base = command("experiments.probe", f"--workdir={whole}", "--node=last@6:17:11")
        return [*base, "--examples=8", "--tol=5e-2", "--points=2", *flags]

    codes, err = ended(begin(2, probe("--probe=sharpness,interpolate,distances")))
    assert codes == [0, 0], err
    directory = whole / "branches" / "last" / "probes"
    found = [json.loads(path.read_text()) for path in sorted(directory.glob("*.json"))]
    assert len(found) == 3
    # One that the first process cannot read is told by both, which measure the others.
    damaged, other = (
        next(directory.glob(f"{name}*.json")) for name in ("interpolate", "distances")
    )
    content = damaged.read_bytes()
    damaged.write_bytes(content[:40])
    other.unlink()
    codes, err = ended(begin(2, probe("--probe=interpolate,distances")))
    assert codes == [2, 2], err
    assert all(damaged.name in each for each in err)
    assert other.exists()
    damaged.write_bytes(content)
    for path in directory.glob("*.json"):
        path.rename(path.with_suffix(".two"))
    alone = probe("--probe=sharpness,interpolate,distances")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(alone, cwd=ROOT, env=environment, check=True, capture_output=True)
    for path, two in zip(sorted(directory.glob("*.json")), found, strict=True):
        one = json.loads(path.read_text())
        for a, b in zip(one["results"], two["results"], strict=True):
            for key in ("eigenvalues", "losses", "moved", "loss"):
                if key in a:
                    np.testing.assert_allclose(a[key], b[key], rtol=1e-3)


def test_what_one_process_finds_damaged_all_set_aside(whole, config, tmp_path):
    """A part of an array that the devices of one of them alone hold; all go back to the node before
    and end as they did."""
    workdir = tmp_path / "w"
    shutil.copytree(whole, workdir)
    node = workdir / "branches" / "last" / "checkpoints" / "17"
    parts = sorted(path for path in node.glob("state/*head.kernel/c/**/*") if path.is_file())
    assert len(parts) >= 4
    parts[-1].write_bytes(b"")
    codes, err = ended(begin(2, run(config, workdir)))
    assert codes == [0, 0], err
    assert "17 is damaged" in err[0]
    assert node.with_name("17.damaged").exists()
    assert same(*(BranchStore(each).restore("last") for each in (workdir, whole)))


def test_batches_are_the_same_for_any_number_of_processes(tmp_path):
    """Of each data set, on four devices, with its examples or its replicates divided too; each
    process has its own rows alone."""
    documents = np.random.default_rng(0).integers(0, 96, (2, 400))
    write_shards(tmp_path / "text", {"train": [documents[:1], documents[1:]], "test": [documents]})
    script = [sys.executable, "-c", BATCHES, str(tmp_path)]
    found = []
    for count in (1, 2, 4):
        codes, err = ended(begin(count, script, devices=4 // count))
        assert codes == [0] * count, err
        found.append(json.loads((tmp_path / "sums.json").read_text()))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 3 * 3  # on every mesh the same


BATCHES = """
import json, sys
from functools import partial
from pathlib import Path
import jax
from wsdjax import data
from wsdjax.checksum import checksums
from wsdjax.config import CNN, Bigram, Mesh, Photos, Text, Transformer
from wsdjax.placement import mesh, processes

root, (_, count, index) = Path(sys.argv[1]), (f.partition("=")[2] for f in sys.argv[2:])
processes.start(sys.argv[2].partition("=")[2], int(count), int(index))
sums = []
for of in (Photos(size=500, noise=0.5), Bigram(48, length=8, size=500), Text(root / "text", 8)):
    stream = data.Stream(data.load(of).train, 8, [3, 4])
    for shape in ((1, 4, 1), (2, 1, 2), (2, 2, 1)):
        placed = mesh.shardings(Mesh(*shape), CNN(), 2, 8)
        for t in (0, 1, 7):
            batch = placed.batch_of(partial(stream.rows, t), 2, 8)
            local = {s.data.shape[:2] for s in batch["inputs"].addressable_shards}
            assert local == {(2 // shape[0], 8 // (shape[1] * shape[2]))}, local
            sums.append([str(of), t, sorted(checksums(batch).items())])
sums = [each for i, each in enumerate(sums) if each not in sums[:i]]
if processes.is_first():
    (root / "sums.json").write_text(json.dumps(sums))
processes.end()
"""


def test_one_host_that_is_started_alone_ends_with_a_message(config, tmp_path):
    for index in (0, 1):
        flags = run(config, tmp_path / "w")[3:]
        processes = begin(2, [sys.executable, "-c", IMPATIENT, *flags])
        processes[1 - index].kill()
        codes, err = ended(processes)
        assert codes[index] == 75, err
        said = err[index].strip().splitlines()[-1]
        assert said.startswith(
            f"error: process {index} of 2 waited 5 s for the others to start, and"
        )
        assert "Traceback" not in err[index]


def test_an_interrupt_ends_one_that_waits_for_the_others(config, tmp_path):
    first, second = begin(2, run(config, tmp_path / "w"))
    second.kill()
    assert "waiting until 2 processes are there" in first.stderr.readline()
    first.send_signal(signal.SIGINT)
    codes, _ = ended([first], 20)
    assert codes == [-signal.SIGINT]


IMPATIENT = """
import sys
from experiments import cli, run
from wsdjax.placement import processes

processes.PATIENCE = 5
cli.end(run.main(sys.argv[1:]))
"""


def test_what_one_process_does_not_agree_with_ends_all(config, tmp_path):
    """Another config in one of them: nothing is written."""
    base = run(config, tmp_path / "w")
    codes, err = ended(begin(2, base, [*base, "--config.tree.last.steps=4"]))
    assert codes == [2, 2], err
    assert "last.end is 17 in process 0, and here 18" in err[1]
    assert "process 1 of 2: last.end" in err[0]
    assert not (tmp_path / "w" / "branches").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--process_id=0"], "--coordinator, --process_count must be given too"),
        (["--coordinator=here", "--process_count=2", "--process_id=0"], "must be HOST:PORT"),
        (["--coordinator=h:1", "--process_count=2", "--process_id=2"], "between 0 and 1"),
    ],
)
def test_flags_that_do_not_fit_are_refused(config, tmp_path, flags, said):
    done = subprocess.run(
        [*run(config, tmp_path / "w"), *flags],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 2
    assert said in done.stderr
