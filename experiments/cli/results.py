"""A result as a JSON file, with what is needed to quote it: machine, versions and date."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wsdjax.branches import provenance
from wsdjax.files import write_atomically


def write_result(path: Path, content: Mapping[str, Any]) -> None:
    """The content tells of machine, versions and date too, such as those of `here`."""
    text = json.dumps(content, indent=1, ensure_ascii=False, default=plain)
    write_atomically(path, text + "\n")


def here() -> dict[str, Any]:
    date = time.strftime("%Y-%m-%d")
    return {"machine": provenance.machine(), "versions": provenance.versions(), "date": date}


def plain(value: Any) -> Any:
    """An array as JSON has it, for `json.dumps`."""
    return np.asarray(value).tolist()
