"""Several processes that run one program, each with devices of its own: how they find each other,
agree on what only the first can see, and end, all of them when one is lost.

JAX's coordination service carries it: its heartbeats tell of a process that died, its store of
keys and values what the first one found. Whoever waits for another waits a bounded time.
"""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from importlib.util import find_spec
from typing import Any, NoReturn, TypeVar

import jax
from jax.experimental import multihost_utils

from wsdjax.errors import ConfigError, UserError
from wsdjax.placement import aborts

T = TypeVar("T")

HEARTBEAT = 45
"""Seconds without a sign of life after which a process counts as lost: less than the minute in
which the others are to end, and long enough for a host that is busy compiling."""
PATIENCE = 300
"""Seconds in which a process must answer that has not died."""
LOST = 75
"""The exit code that tells to give the same command again (EX_TEMPFAIL)."""
_SAME = "give the same command on every host again: it goes on from the newest checkpoint"
_FAILED, _SIGNS = "wsdjax/failed", ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
_serial = itertools.count()
_step = itertools.count()
_over = threading.Lock()


class Told(UserError):
    """An error of process 0, in the others."""


class Lost(UserError):
    """Another process did not answer, or has failed; `code` is to be the exit code."""

    def __init__(self, message: str, code: int = LOST):
        super().__init__(message)
        self.code = code


def start(coordinator: str | None, count: int | None, index: int | None) -> None:
    """Joins the other processes, before JAX looks for devices; does nothing where there are none.

    On a TPU, under SLURM and under MPI JAX finds them itself; elsewhere `coordinator`, HOST:PORT of
    process 0, their `count` and this one's `index` tell. A process that waits for others in vain
    ends with a message and the exit code `LOST`.

    Raises:
      ConfigError: if some of the three are given and not all, or do not fit each other.
    """
    given = {"coordinator": coordinator, "process_count": count, "process_id": index}
    lacking = [f"--{name}" for name, value in given.items() if value is None]
    if 0 < len(lacking) < 3:
        raise ConfigError(f"{', '.join(lacking)} must be given too: which processes there are")
    if not lacking:
        if not re.fullmatch(r"[^\s:/]+:\d{1,5}|\[[\da-fA-F:]+\]:\d{1,5}", str(coordinator)):
            raise ConfigError(f"--coordinator={coordinator}: must be HOST:PORT of process 0")
        assert count is not None
        assert index is not None
        if not 0 <= index < count:
            raise ConfigError(f"--process_id={index}: must be between 0 and {count - 1}")
    elif not _others_to_be_found():
        return
    aborts.catch(partial(_has_aborted, index=index, count=count))
    others = (
        f"{count} processes are there, of {coordinator}" if count else "all processes are there"
    )
    said = f"waiting until {others}, {PATIENCE} s at most; each is given the same command"
    told = threading.Timer(3, print, [said], {"file": sys.stderr, "flush": True})
    told.daemon = True
    told.start()
    # Python answers no signal while C++ waits.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            initialization_timeout=PATIENCE,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=PATIENCE,
            cluster_detection_method=None if lacking else "deactivate",
        )
        # Where others are only now given their devices, what needs all of them would time out.
        barrier("start")
    finally:
        signal.signal(signal.SIGINT, before)
        told.cancel()
    threading.Thread(target=_watch, daemon=True).start()


def _others_to_be_found() -> bool:
    on_tpu = bool(find_spec("libtpu") and (glob.glob("/dev/accel*") or glob.glob("/dev/vfio/*")))
    told = "JAX_COORDINATOR_ADDRESS" in os.environ
    return on_tpu or told or any(int(os.environ.get(sign, "1")) > 1 for sign in _SIGNS)


def _client() -> Any:
    # Under no public name; `jax.experimental.multihost_utils` and orbax take it from there too.
    from jax._src import distributed

    return distributed.global_state.client


def several() -> bool:
    """Whether there are other processes."""
    return _client() is not None and jax.process_count() > 1


def is_first() -> bool:
    """Whether this is the process that writes records, metrics and reports."""
    return not several() or jax.process_index() == 0


def agreed(tell: Callable[[], T], what: str) -> T:
    """What `tell` gives in process 0, which alone calls it, in all: plain JSON. All must ask for
    the same at the same point; a `UserError` of `tell` is raised in process 0, and is `Told` in the
    others."""
    if not several():
        return tell()
    key = f"wsdjax/{next(_serial)}"
    if is_first():
        try:
            found = tell()
        except UserError as error:
            _client().key_value_set(key, json.dumps({"what": what, "error": str(error)}))
            raise
        _client().key_value_set(key, json.dumps({"what": what, "found": found}))
        return found
    told = _told(key, what)
    if told["what"] != what:
        raise Lost(f"{_self()} asks for {what}, and process 0 is at {told['what']}; {_SAME}")
    if "error" in told:
        raise Told(told["error"])
    return told["found"]


def _told(key: str, what: str) -> dict[str, Any]:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return json.loads(_client().blocking_key_value_get(key, 1_000))
        except jax.errors.JaxRuntimeError as error:
            _raise_failed()
            if "DEADLINE_EXCEEDED" not in str(error) or time.monotonic() > until:
                raise Lost(
                    f"{_self()} waited {PATIENCE} s for process 0 to tell {what}; {_SAME}"
                ) from None


def told_by_all(value: T, what: str) -> list[T]:
    """The value of each process, plain JSON, in all of them; as `agreed`."""
    if not several():
        return [value]
    at = f"wsdjax/told/{next(_serial)}/"
    _client().key_value_set(f"{at}{jax.process_index():06d}", json.dumps(value))

    def gathered() -> list[T]:
        until = time.monotonic() + PATIENCE
        while len(found := _client().key_value_dir_get(at)) < jax.process_count():
            _raise_failed()
            if time.monotonic() > until:
                there = {int(key.rpartition("/")[2]) for key, _ in found}
                lost = ", ".join(str(i) for i in range(jax.process_count()) if i not in there)
                raise Lost(f"{_self()} waited {PATIENCE} s for process {lost} to tell {what}")
            time.sleep(0.05)
        return [json.loads(told) for _, told in sorted(found)]

    return agreed(gathered, what)


def barrier(what: str, patience: int = PATIENCE) -> None:
    """Returns when all processes are there; `Lost` names those that were not within `patience`
    seconds."""
    if not several():
        return
    try:
        _client().wait_at_barrier(f"wsdjax/{what}/{next(_serial)}", patience * 1_000)
    except jax.errors.JaxRuntimeError as error:
        _raise_failed()
        found = re.search(r"timed out task names:\s*((?:\d+\s*)+)", str(error))
        names = ", ".join(found[1].split()[:8]) if found else "another"
        raise Lost(
            f"{_self()} waited {patience} s at {what!r} for process {names}; {_SAME}"
        ) from None


def bounded(act: Callable[[], T], what: str) -> T:
    """``act()``, of which others wait for the end: one that does not come, such as a read from a
    disk that hangs, ends this process and, with its name, all."""
    if not several():
        return act()
    with_result: Future[T] = Future()

    def run() -> None:
        try:
            with_result.set_result(act())
        except BaseException as error:
            with_result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return with_result.result(PATIENCE)
    except TimeoutError:
        if with_result.done():  # it was `act` that raised
            raise
        fail(message := f"{what} took more than {PATIENCE} s", LOST)
        raise Lost(f"{_self()}: {message}; {_SAME}") from None


def reached_stop() -> bool:
    """Whether all processes are to save and stop after this update, since one was told that its
    machine is taken away (SIGTERM, or a notice of maintenance). All ask equally often."""
    return multihost_utils.reached_preemption_sync_point(next(_step))


def fail(message: str, code: int) -> None:
    """Tells the other processes that this one ends so: they end as well."""
    if not several():
        return
    told = {"message": f"{_self()}: {message}", "code": code}
    try:
        _client().key_value_set(_FAILED, json.dumps(told))
    except jax.errors.JaxRuntimeError:  # of two that fail the first has told
        return
    if is_first():
        time.sleep(3)  # or the others would lose the service before they read it


def wait_for_cause() -> None:
    """Waits for what made a common operation fail, if it was another process: raises `Lost`, or
    ends with it."""
    until = time.monotonic() + HEARTBEAT + 15
    while several() and time.monotonic() < until:
        _raise_failed()
        time.sleep(1)


def end() -> None:
    """Returns when all processes have come to their end; the first may draw a report meanwhile."""
    if several():
        barrier("end", 12 * PATIENCE)
    if _client() is not None:
        _over.acquire(blocking=False)
        jax.distributed.shutdown()


def _self() -> str:
    return f"process {jax.process_index()} of {jax.process_count()}"


def _failed() -> Lost | None:
    try:
        told = json.loads(_client().key_value_try_get(_FAILED))
    except jax.errors.JaxRuntimeError:
        return None
    return Lost(told["message"], told["code"])


def _raise_failed() -> None:
    if failed := _failed():
        raise failed from None


def _watch() -> None:
    """Ends this process when another has failed, whatever it is waiting for."""
    while True:
        time.sleep(2)
        if _over.locked():
            return
        if failed := _failed():
            time.sleep(2)  # in which it may come to tell of it itself
            _end(str(failed), failed.code)


def _has_aborted(said: str, index: int | None, count: int | None) -> None:
    """Ends this process, whose coordination service says why it cannot go on."""
    me = "this process" if index is None else f"process {index} of {count}"
    unhealthy = re.search(r"stopped sending heartbeats\):\s*((?:\d+\s*)+)", said)
    if "RegisterTask" in said:
        lost = f"waited {PATIENCE} s for the others to start, and not all came"
    else:  # nothing is told of the first, which carries the service
        names = ", ".join(unhealthy[1].split()[:8]) if unhealthy else "0"
        lost = f"has lost process {names}, which has died or cannot be reached"
    _end(f"{me} {lost}; {_SAME}", LOST)


def _end(message: str, code: int) -> NoReturn:
    if _over.acquire(blocking=False):
        print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(code)
