"""Where numbers come from: the machine and the versions that made them."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import jax

from wsdjax.config import DataConfig

_PACKAGES = ("wsdjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def machine() -> str:
    devices = jax.devices()
    return f"{len(devices)} x {devices[0].device_kind}, {os.cpu_count()} CPU cores"


def versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES}


def changes(record: Mapping[str, Any]) -> list[str]:
    """What of the packages and the machine in a branch's record is another here."""
    kind = record["branch"]["data"]["type"]
    was = {
        **record["versions"],
        "machine": record["machine"],
        f"the data of {kind}, revision": record["data_revision"],
    }
    revision = DataConfig.kinds()[kind].revision
    now = {**versions(), "machine": machine(), f"the data of {kind}, revision": revision}
    return [
        f"{what} {was[what]} (here {now.get(what)})" for what in was if was[what] != now.get(what)
    ]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
