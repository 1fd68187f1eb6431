"""The files of a workdir beside its branches: `config.json`, `status.json` and `report.html`."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from wsdjax.config import Experiment, Mesh
from wsdjax.config.json import from_json
from wsdjax.config.validation import check
from wsdjax.errors import ConfigError
from wsdjax.files import DamagedFile, read_json, write_atomically
from wsdjax.placement import mesh
from wsdjax.tree.branch import ResolvedBranch

_REMEDY = "delete it and give the command that trained the run again"


def experiment_of(workdir: Path) -> Experiment | None:
    """The experiment that a workdir's `config.json` holds, or a `DamagedFile` if it is none; None
    if there is no file."""
    file = workdir / "config.json"
    if not file.exists():
        return None
    try:
        experiment = from_json(read_json(file, _REMEDY), Experiment)
        check("", experiment, Experiment)
    except ConfigError as error:
        raise DamagedFile(f"{file}: is no experiment ({str(error)[:100]}); {_REMEDY}") from None
    return experiment


def mesh_of(workdir: Path, branch: ResolvedBranch) -> Mesh:
    """How the workdir's experiment shares devices, as far as those here can be for a branch; raises
    as `experiment_of`."""
    experiment = experiment_of(workdir)
    asked = experiment.mesh if experiment else Mesh()
    return mesh.as_far_as(asked, branch.model, branch.seeds)


def report_of(workdir: Path) -> Path:
    """The report. One that is there is up to date: whoever trains deletes it."""
    return workdir / "report.html"


def write_status(workdir: Path, status: str) -> None:
    """Over the old one where the disk has no room for another: a stop is told even so."""
    file, content = workdir / "status.json", json.dumps({"status": status}) + "\n"
    try:
        write_atomically(file, content)
    except OSError:
        if status == "running":
            raise
        with contextlib.suppress(OSError), open(file, "r+", opener=_no_link) as there:
            there.write(content)
            there.truncate()


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)
