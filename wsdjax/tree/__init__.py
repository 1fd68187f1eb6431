"""A tree of branches: what each inherits and what it comes to."""

from wsdjax.tree.resolution import (
    every,
    groups,
    measured_in,
    resolve,
    resolve_branch,
    run_length,
    units,
)
