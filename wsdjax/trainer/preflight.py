"""Whether branches can be trained here: their devices, data and weights, and the software."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import jax

from wsdjax import data, interop, tree
from wsdjax.branches import BranchStore, provenance
from wsdjax.data import tokenizer
from wsdjax.errors import ConfigError
from wsdjax.trainer import capacity
from wsdjax.training.compiled import Compiled
from wsdjax.tree.branch import ResolvedBranch

log = logging.getLogger("wsdjax")


def check(
    store: BranchStore,
    branches: Mapping[str, ResolvedBranch],
    compiled: Compiled,
    tensorboard: bool,
) -> None:
    """Finds what would stop these branches from training, before anything is written.

    Raises:
      ConfigError: for what this machine cannot hold, a batch that the devices or the data set
        cannot give, data that have changed since, weights of another model, or a TensorBoard
        that is not installed.
      FileNotFoundError: for data that are not prepared, or weights that are not there.
    """
    _check_flags()
    there = store.branches()
    for branch in branches.values():
        if branch.parent in there and store.is_done(branch.parent):
            store.check_rows(branch.parent)
    try:
        for group in tree.groups(branches):
            compiled.placed(group)
        capacity.check(branches, compiled.mesh)
        for name, branch in branches.items():
            begun = branch.parent or (name in there and store.steps(name))
            if branch.weights and not begun:
                interop.check_weights(branch.weights, branch.model)
                warn_of_another_tokenizer(branch)
            data.Stream(compiled.train_split(branch.data), branch.batch_size, branch.seed)
            if before := there.get(name) or there.get(branch.parent):
                check_same_data(store, before, branch)
    except ValueError as error:
        raise ConfigError(error) from None
    if tensorboard and not find_spec("tensorboardX"):
        raise ConfigError("tensorboard = True: install the package's extra `tensorboard`")


_DRAWS = {"jax_default_prng_impl": "threefry2x32", "jax_threefry_partitionable": True}


def _check_flags() -> None:
    """Every number that is drawn is a function of the config's seeds, and of nothing that another
    shell may have set."""
    for flag, value in _DRAWS.items():
        if (set_to := getattr(jax.config, flag)) != value:
            raise ConfigError(
                f"{flag.upper()} = {set_to}: initialisations and batches would be others than "
                f"under {value}, which is the default; unset it"
            )


def check_same_data(store: BranchStore, before: ResolvedBranch, branch: ResolvedBranch) -> None:
    """That a branch that goes on with the stream of one before it, or with its own, has its
    data."""
    if (before.data, before.data_start) != (branch.data, branch.data_start):
        return
    now = branch.data.describe().facts
    for name, known in store.record(before.name)["data_facts"].items():
        if known != now.get(name):
            raise ConfigError(
                f"data = {branch.data}: these are not the data that {before.name!r} was trained on "
                f"({name} was {known}, and is {now.get(name)}). Bring those back, or fork a branch "
                "with data of its own"
            )


def warn_of_another_tokenizer(branch: ResolvedBranch) -> None:
    """Where the weights come with a tokenizer, tokens that mean something else are no text to
    them."""
    path = Path(branch.weights) / "tokenizer.json"
    text = branch.data.describe().text if path.exists() else None
    if text is None:
        return
    try:
        theirs = tokenizer.load(str(path)).fingerprint
    except tokenizer.TokenizerError as error:
        log.warning("whether %s made the text was not checked: %s", path, error)
        return
    if theirs != text.fingerprint:
        log.warning(
            "the weights come with another tokenizer, %s, than the one that made the text in %s, "
            "%s: prepare the text with theirs",
            *(path, text.directory, text.tokenizer),
        )


def warn_of_other_software(store: BranchStore, name: str) -> None:
    """Tells what of packages and machine is another than when the branch, or what it goes on
    from, was trained."""
    before = name if store.steps(name) else store.branches()[name].parent
    if before and (changed := provenance.changes(store.record(before))):
        log.warning(
            "%s goes on from what was trained with %s: it may differ from what would have "
            "been trained there",
            *(name, ", ".join(changed)),
        )
