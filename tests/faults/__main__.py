"""The command line; see `tests.faults`."""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib.util
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
VERDICTS = ("survived", "lost", "none")
"""The last of faults that were drawn and did not come about."""

_stage: Any = None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--faults", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="kill,write,damage,configs", help="which kinds")
    parser.add_argument("--only-fault", metavar="ID", action="append", default=[])
    parser.add_argument("--lanes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, help="every fault as a line of JSON")
    given = parser.parse_args()
    os.chdir(ROOT)
    if "FAULTS_DIRECTORY" in os.environ:
        return _all(given, Path(os.environ["FAULTS_DIRECTORY"]))
    only = given.only.split(",")
    code = 0 if only == ["configs"] else _in_a_directory()
    configs = importlib.util.find_spec("tests.faults.configs")
    if configs and "configs" in only and not given.only_fault:
        command = [sys.executable, "-m", configs.name, f"--seed={given.seed}"]
        code = subprocess.run(command, check=False).returncode or code
    return code


def _in_a_directory() -> int:
    """This command again, with the shim loaded and what JAX reads when it is imported."""
    from tests.faults.shim import compile_shim

    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        directory = Path(name)
        settings = {
            "FAULTS_DIRECTORY": name,
            "LD_PRELOAD": str(compile_shim(directory)),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(directory / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1e9",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "XDG_CACHE_HOME": name,
            "OPENBLAS_NUM_THREADS": "1",  # a process that forks has one thread
        }
        command = [sys.executable, "-m", "tests.faults", *sys.argv[1:]]
        environment = {**os.environ, **settings}
        return os.spawnve(os.P_WAIT, sys.executable, command, environment)


def _all(given: argparse.Namespace, directory: Path) -> int:
    from tests.faults import faults, processes
    from tests.faults.scenes import Stage

    global _stage
    began = time.monotonic()
    kinds = tuple(kind for kind in faults.KINDS if kind in given.only.split(","))
    processes.be_ready()
    _stage = Stage(directory)
    drawn = [faults.Fault.of(id) for id in given.only_fault]
    drawn = drawn or faults.draw(_stage, given.faults, given.seed, kinds)
    needed = [each.scene for each in drawn]
    if hurt := {each.scene for each in drawn if each.kind == "damage"}:
        needed += ["report", *(["text"] if "prepare" in hurt else [])]  # who reads what was damaged
    for name in needed:
        _stage.scene(name)
    for each in drawn:
        if each.kind == "damage":
            _stage.start(each.scene, each.what[0])
    print(f"{len(drawn)} faults; the stage is set, {time.monotonic() - began:.0f} s", flush=True)
    table: collections.Counter = collections.Counter()
    with given.out.open("w") if given.out else contextlib.nullcontext() as file:
        for fault, verdict, what, seconds, err in _tried(drawn, given.lanes):
            table["run" if fault.scene == "text" else fault.scene, verdict] += 1
            table[fault.kind, verdict] += 1
            if file:
                row = {"id": fault.id, "verdict": verdict, "what": what}
                file.write(json.dumps({**row, "seconds": round(seconds, 1), "err": err}) + "\n")
                file.flush()
            if verdict == "lost" or given.only_fault:
                print(f"{verdict}: {what}\n    --only-fault='{fault.id}'", flush=True)
    lost = _print(table, ("run", "fork", "probe", "report", "prepare"))
    _print(table, kinds)
    print(f"{time.monotonic() - began:.0f} s")
    return int(lost > 0)


def _tried(drawn: list, lanes: int) -> Iterator:
    """The results, in the order in which they come."""
    if lanes == 1:
        yield from map(_attempt, drawn)
        return
    # Not a Pool: its processes may have no children such as `prepare` has.
    with ProcessPoolExecutor(lanes, multiprocessing.get_context("fork")) as pool:
        for each in as_completed([pool.submit(_attempt, fault) for fault in drawn]):
            yield each.result()


def _attempt(fault: Any) -> Any:
    from tests.faults import trial

    try:
        return trial.attempt(fault, _stage, _stage.directory / f"lane-{os.getpid()}")
    except Exception:
        what = f"the harness failed: {traceback.format_exc()}"
        return trial.Result(fault, "lost", what, 0.0)


def _print(table: collections.Counter, rows: tuple[str, ...]) -> int:
    """Prints a table; how many are lost."""
    print("\n" + " ".join(f"{head:>10}" for head in ("", "tried", "survived", "lost")))
    sums = collections.Counter()
    for row in rows:
        survived, lost, _ = (table[row, verdict] for verdict in VERDICTS)
        sums.update(survived=survived, lost=lost)
        print(" ".join(f"{cell:>10}" for cell in (row, survived + lost, survived, lost)))
    survived, lost = sums["survived"], sums["lost"]
    print(" ".join(f"{cell:>10}" for cell in ("all", survived + lost, survived, lost)))
    if none := sum(table[row, "none"] for row in rows):
        print(f"{none} more were drawn and did not come about")
    return lost


if __name__ == "__main__":
    sys.exit(main())
