"""Where a benchmark's result goes: a small JSON file with the machine, the versions, the date."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from wsdjax.branches import provenance
from wsdjax.files import write_atomically

_OUT = flags.DEFINE_string("out", "", "A JSON file for the result.")


def write(result: Mapping[str, Any], packages: Mapping[str, str] | None = None) -> None:
    """Writes it if `--out` was given; `packages` are versions of more than our own."""
    if _OUT.value:
        content = dict(result) | {
            "machine": provenance.machine(),
            "versions": provenance.versions() | dict(packages or {}),
            "date": time.strftime("%Y-%m-%d"),
        }
        write_atomically(Path(_OUT.value), json.dumps(content, indent=1) + "\n")
