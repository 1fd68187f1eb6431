"""The checkpoints of one branch, written by orbax: complete or not there, and checked when read."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

# Before any path of a bucket is opened: gcsfs keeps what it once listed, and would not see the
# checkpoints that orbax or another process has written since.
os.environ.setdefault("FSSPEC_GCS", '{"use_listings_cache": false}')

import jax
from etils import epath
from orbax.checkpoint import v1 as ocp

from wsdjax.checksum import checksums
from wsdjax.errors import ConfigError, UserError
from wsdjax.placement import processes
from wsdjax.training import state as states
from wsdjax.training.state import Place, State
from wsdjax.wording import listed


class MissingNode(UserError, LookupError):
    """No such branch, or no checkpoint of it at that step."""


class DamagedCheckpoint(UserError):
    """A checkpoint whose bytes are not those that were saved."""


@dataclasses.dataclass
class Checkpoints:
    """Those of one branch, in any directory that orbax writes, a bucket too."""

    name: str
    directory: epath.Path
    keep: int | None
    """How many of the newest stay; None for all."""
    protected: Callable[[], set[int]]
    """Tells which others stay."""
    written: Callable[[int], None]
    """Told the step of one that is on disk and about to get its name."""
    _writer: ocp.training.Checkpointer | None = None
    _step: int = -1
    _pending: Any = None

    @property
    def is_local(self) -> bool:
        return "://" not in str(self.directory)

    def steps(self) -> list[int]:
        """The steps of the complete ones, ascending."""
        # By name alone: orbax reads every checkpoint's metadata to list them, and would fail
        # for all if those of one were damaged. An incomplete save has another name, or, where
        # nothing can be renamed (a bucket), lacks its mark of success.
        found = list(self.directory.iterdir()) if self.directory.exists() else []
        return sorted(
            int(path.name)
            for path in found
            if path.name.isdecimal() and (self.is_local or (path / "commit_success.txt").exists())
        )

    def save(self, state: State, facts: Mapping[str, Any] | None = None) -> None:
        """Begins to save a state, whose record keeps `facts` too; returns once it may be donated,
        or raises an `OSError` if the save before this one failed or this one was skipped."""
        self.wait()
        self._step = step = int(state.step)
        record = {**(facts or {}), "branch": self.name, "checksums": checksums(state)}
        try:
            response = self._open().save_async(
                step, _saved(state), force=True, custom_metadata=record
            )
        except OSError as error:
            raise self._not_saved(step, error) from error
        if response is None:
            raise OSError(f"orbax skipped the checkpoint {self.name}@{step}")
        self._pending = (step, response)

    def facts(self, step: int) -> dict[str, Any]:
        """Facts that a checkpoint's record keeps beside the state's own; {} if it is not local,
        which is not worth a journey, or cannot be read, which whoever loads it is told."""
        if not self.is_local:
            return {}
        try:
            return dict(ocp.metadata(self.directory / str(step)).custom_metadata or {})
        except Exception as error:
            if _is_damage(error):
                return {}
            raise

    def wait(self) -> None:
        """Returns when the last save is complete on disk; an `OSError` tells if it failed."""
        if self._pending:
            (step, response), self._pending = self._pending, None
            reason: object = "orbax gives no reason"
            try:
                if response.result():
                    return
            except Exception as error:  # of orbax, TensorStore or the system, each with its own
                reason = error
            raise self._not_saved(step, reason)

    def load(self, step: int, place: Place | None = None) -> State:
        """The state at a step, as `BranchStore.restore` gives it."""
        steps = self.steps()
        if step not in steps:
            there = ", ".join(map(str, steps)) or "none yet"
            raise MissingNode(f"no checkpoint {self.name}@{step}; the steps saved are {there}")
        path, found, damage = self.directory / str(step), None, None
        try:
            found = _load(path, self.name, place)
        except Exception as error:
            if not _is_damage(error):
                raise
            damage = error
        reason = _reason(damage) if damage else ""
        if place:  # each of several processes has read a part, and may alone know of damage
            reason = next(filter(None, processes.told_by_all(reason, "damage")), "")
        if found and not reason:
            state, sums = found
            if int(state.step) == step and checksums(state) == sums:
                return state
            reason = "its content is not what was saved (the checksums differ)"
        raise DamagedCheckpoint(f"{path} is damaged: {reason}") from damage

    def set_aside(self, step: int) -> None:
        """Takes a checkpoint out of use, renamed to `STEP.damaged`."""
        self.close()
        path = self.directory / str(step)
        aside = path.parent / f"{step}.damaged"
        if aside.exists():
            aside.rmtree()
        path.rename(aside)

    def discard_after(self, step: int) -> None:
        """Deletes the checkpoints of later steps, which training is about to make again."""
        later = [s for s in self.steps() if s > step]
        if later:
            self.close()
        for each in later:
            (self.directory / str(each)).rmtree()

    def close(self) -> None:
        self._pending = None
        writer, self._writer = self._writer, None
        if writer:
            writer.close()

    def _not_saved(self, step: int, reason: object) -> OSError:
        """In one line, with the system's own number where there is one."""
        what = f"the checkpoint {self.name}@{step} was not saved in {self.directory}"
        said = " ".join(str(reason).split())
        number = getattr(reason, "errno", None)
        # As TensorStore and Python tell it.
        if number is None and (found := re.search(r"(?:os_error_code='|\[Errno )(\d+)", said)):
            number = int(found[1])
        if number is None:
            return OSError(f"{what}: {said[:200]}")
        return OSError(number, f"{what}: {os.strerror(number)}")

    def _open(self) -> ocp.training.Checkpointer:
        if self._writer is None:
            context = ocp.Context()
            # A file for each leaf, as against one database for all: no byte of it is dead, so that
            # whatever is damaged shows in the checksums.
            context.array.saving.use_ocdbt = False
            # orbax calls it before it renames, and says nothing of which.
            context.asynchronous.post_finalization_callback = lambda: self.written(self._step)
            self._writer = ocp.training.Checkpointer(
                self.directory,
                context=context,
                preservation_policy=_Preserve(self.keep, self.protected),
                cleanup_tmp_directories=True,
            )
        return self._writer


def _is_damage(error: Exception) -> bool:
    """Whatever orbax makes of broken files; not that there is no permission, no connection, no
    memory on the device, too many open files."""
    if isinstance(error, OSError):
        return isinstance(error, FileNotFoundError | NotADirectoryError)
    return not isinstance(error, ConfigError | MemoryError | jax.errors.JaxRuntimeError)


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error
    said = f"it has no {cause}" if isinstance(cause, KeyError) else str(cause)
    return " ".join(said.split())[:200] or type(cause).__name__


def _load(path: epath.Path, branch: str, place: Place | None) -> tuple[State, dict[str, int]]:
    """(the state, the checksums that its record keeps); of several processes each reads what its
    own devices hold."""
    saved = ocp.metadata(path)
    record = saved.custom_metadata or {}
    if (owner := record.get("branch", branch)) != branch:
        raise ValueError(f"it is one of {owner!r}")
    there = jax.tree.map(_abstract, saved.metadata)
    wanted = states.abstract(there["params"], there.get("averages", {}))
    if "opt_state" not in there:
        wanted = states.parameters_alone(wanted)
    if not isinstance(was := record.get("checksums"), dict):
        raise ValueError("its record has no checksums")
    if odd := {jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(wanted)} ^ was.keys():
        raise ConfigError(
            f"{path} was saved with other arrays than this version has ({listed(sorted(odd), 2)}): "
            "it cannot be continued here"
        )
    # orbax casts a dtype silently and reports a shape only deep in a cause: compare first.
    expected = jax.tree.leaves(jax.tree.map(_abstract, wanted.opt_state))
    if expected != jax.tree.leaves(there.get("opt_state", {})):
        raise ValueError("its optimizer's state is not that of its parameters")
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    where = place(wanted) if place else jax.tree.map(lambda _: here, wanted)
    template = jax.tree.map(
        lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), wanted, where
    )
    with _alone():
        return State(**ocp.load(path, _saved(template))), was


def _alone() -> ocp.Context:
    """A process that finds damage would not come to the barrier at which orbax has the others wait
    for it: they do not wait, and agree afterwards."""
    if not processes.several():
        return ocp.Context()
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
    )
    return ocp.Context(multiprocessing_options=alone)


@dataclasses.dataclass
class _Preserve:
    """Keeps the newest by step (orbax's own `LatestN` goes by order of insertion)."""

    newest: int | None
    protected: Callable[[], set[int]]

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        if self.newest is None:
            return [True] * len(checkpoints)
        newest = sorted(c.step for c in checkpoints)[-self.newest :]
        protected = self.protected()
        return [c.step in protected or c.step in newest for c in checkpoints]


def _saved(state: State) -> dict[str, Any]:
    """The items of a checkpoint: no averages where there are none, and in a snapshot no moments."""
    items = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    optional = ("opt_state", "averages")
    return {name: value for name, value in items.items() if name not in optional or value}


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


_TOLD_BY_WAIT = ("future.py", "async_checkpointer.py", "checkpoint_manager.py")


def _news(record: logging.LogRecord) -> bool:
    """Whether what orbax logs is worth a line: not that files are not of its usual format, as it
    warns at every save and load, and not, in a thousand lines, why a save failed, which `wait`
    raises."""
    if record.levelno >= logging.ERROR and "orbax" in record.pathname:
        record.exc_info = record.exc_text = None
        return record.filename not in _TOLD_BY_WAIT
    text = record.getMessage()
    return "merge of OCDBT" not in text and "TensorStore data files not found" not in text


for _name in ("absl", None):  # and the root, which orbax speaks through too
    logging.getLogger(_name).addFilter(_news)
