"""Where a benchmark's result goes: a small JSON file with the machine, the versions, the date."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsdjax.branches import provenance
from wsdjax.files import write_atomically


def write(
    path: Path | None, result: Mapping[str, Any], packages: Mapping[str, str] | None = None
) -> None:
    """Writes it, if there is a path; `packages` are versions of more than our own."""
    if path:
        content = dict(result) | {
            "machine": provenance.machine(),
            "versions": provenance.versions() | dict(packages or {}),
            "date": time.strftime("%Y-%m-%d"),
        }
        write_atomically(path, json.dumps(content, indent=1) + "\n")
