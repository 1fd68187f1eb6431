"""Some faults of every kind; `python -m tests.faults` tries hundreds."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from helpers import ROOT


@pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))),
    reason="tests.faults counts file operations in C, and needs a C compiler: cc, gcc or clang",
)
def test_nothing_is_lost_by_kills_failing_writes_and_damage():
    command = [sys.executable, "-m", "tests.faults", "--only=kill,write,damage", "--faults=15"]
    done = subprocess.run(
        [*command, "--seed=10"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    tried = {kind: int(n) for kind, n in re.findall(r"^ *(\w+) +(\d+) ", done.stdout, re.M)}
    assert tried["kill"] >= 5
    assert tried["write"] >= 3
    assert tried["damage"] >= 3
