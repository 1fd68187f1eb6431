"""What `experiments.probe` measured of a run, read from its files."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from experiments.reading import Run

Content = dict[str, Any]
"""Of one file: `steps`, `settings`, `results` (one for each seed)."""


class Group(NamedTuple):
    """What a probe measured with one choice of settings."""

    settings: Content
    of: dict[str, list[Content]]
    """By branch, in the order of their last steps."""


def measured(run: Run, probe: str) -> list[Group]:
    """By settings, of most results first. A node is in the list of the branch that made it."""
    groups: dict[str, Group] = {}
    for name in run.edges:
        directory = run.store.directory(name) / "probes"
        contents = [json.loads(path.read_text()) for path in directory.glob(f"{probe}-*.json")]
        for content in sorted(contents, key=lambda c: (c["steps"][-1], len(c["steps"]))):
            settings = content["settings"]
            group = groups.setdefault(json.dumps(settings), Group(settings, {}))
            group.of.setdefault(name, []).append(content)
    return sorted(groups.values(), key=lambda g: -sum(map(len, g.of.values())))


def of_loss(settings: Content) -> str:
    split = {"train": "training", "test": "held-out"}[settings["split"]]
    return f"loss over {settings['examples']:,} {split} examples"


def apart(group: Group, groups: list[Group]) -> str:
    """What tells a group's settings from those of the others, for a legend."""
    different = {
        name: value
        for name, value in group.settings.items()
        if any(other.settings.get(name) != value for other in groups)
    }
    said = ", ".join(f"{name} {value}" for name, value in different.items())
    return f" ({said})" if said else ""
