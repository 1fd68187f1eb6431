"""What runs on each host of a TPU, around the command that trains.

    python tpu/host.py run --home=gs://BUCKET/NAME --workdir=runs/NAME [--every=60]
        [--pass_signals] -- COMMAND
    python tpu/host.py start ...     the same, on its own: it goes on when the caller has left
    python tpu/host.py status        "running", "exited CODE", "lost" or "none"
    python tpu/host.py stop          by Ctrl-C's signal: the run saves and ends with 130
    python tpu/host.py clear         ends what is left of a run that is to be started again
    python tpu/host.py get gs://BUCKET/DIRECTORY DIRECTORY

The disk of a host is gone when the TPU is taken away, and with it the workdir of process 0; its
checkpoints are in the bucket. So `run`

1. puts the workdir back from HOME/workdir.tar.gz, unless what is here is newer than that,
2. sets aside the checkpoints, in the bucket, that are later than the rows of metrics put back (a
   branch with a checkpoint later than its rows is refused, and rightly),
3. runs the command,
4. and, every so many seconds and at the end, writes HOME/workdir.tar.gz anew if the workdir has
   changed. It is one object, which is there as a whole or not at all, so that what is put back
   was the workdir at one moment.

The exit code is the command's. A shutdown of a host tells the command by itself; in a container
the first process alone is told, and has to --pass_signals.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

STATE = Path(".host")
"""Of the run on this host: `log`, `exit`, `pids`, `lock`, and what was `sent` last."""


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    split = words.index("--") if "--" in words else len(words)
    command = words[split + 1 :]
    parser = argparse.ArgumentParser(
        usage=argparse.SUPPRESS,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name in ("run", "start"):
        verb = verbs.add_parser(name, usage=argparse.SUPPRESS)
        verb.add_argument("--home", required=True)
        verb.add_argument("--workdir", required=True, type=Path)
        verb.add_argument("--every", default=60.0, type=float)
        verb.add_argument("--pass_signals", action="store_true")
    for name in ("status", "stop"):
        verbs.add_parser(name)
    verbs.add_parser("clear").add_argument("--patience", default=60.0, type=float)
    verb = verbs.add_parser("get")
    verb.add_argument("source")
    verb.add_argument("destination")
    given = parser.parse_args(words[:split])
    if given.verb in ("run", "start") and not command:
        parser.error(f"{given.verb} takes the command to run after --")
    match given.verb:
        case "run":
            return run(given.home, given.workdir, given.every, command, given.pass_signals)
        case "start":
            return start(words[1:])
        case "status":
            print(f"{platform.node()}: {status()}")
        case "stop":
            return 0 if ended(signal.SIGINT, 600) else fail("the run has not stopped in 10 minutes")
        case "clear":
            # One that is saving would take a second signal for haste: first it may end by itself.
            patience = [(0, given.patience), (signal.SIGTERM, 120), (signal.SIGKILL, 20)]
            if not any(ended(*each) for each in patience):
                return fail("a run does not end, not even killed: restart the host")
        case "get":
            get(given.source, given.destination)
    return 0


def fail(message: object) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def say(message: object) -> None:
    print(f"{time.strftime('%H:%M:%S')} host: {message}", file=sys.stderr, flush=True)


def run(
    home: str, workdir: Path, every: float, command: Sequence[str], pass_signals: bool = False
) -> int:
    """Runs the command around which the workdir is put back and sent; returns its exit code."""
    STATE.mkdir(exist_ok=True)
    with held(patience=2) as lock:
        if lock is None:
            return fail("a run is going on here: stop it first")
        (STATE / "exit").unlink(missing_ok=True)
        (STATE / "pids").write_text(str(os.getpid()))
        try:
            keeper = Keeper(home, workdir, first := is_first())
            keeper.put_back()
            if first:
                set_aside_later_than_rows(workdir)
            code = _run(keeper, every, command, lock, pass_signals)
        except Exception:
            traceback.print_exc()
            # Not the command's fault, and perhaps the network's: worth another try.
            code = os.EX_SOFTWARE
        (STATE / "exit").write_text(str(code))
        return code


def _run(
    keeper: Keeper, every: float, command: Sequence[str], lock: int, pass_signals: bool
) -> int:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # the same python
    environment = {**os.environ, "PATH": path}
    child: subprocess.Popen | None = None

    def noted(number, _):
        # Not if the system tells the command too: it takes a second signal for haste, and would
        # not save.
        if child and pass_signals:
            child.send_signal(number)

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, noted)
    # The lock goes along: as long as the command lives, nothing else starts here.
    child = subprocess.Popen(command, env=environment, pass_fds=[lock])
    (STATE / "pids").write_text(f"{child.pid} {os.getpid()}")
    sent = time.monotonic()
    while (code := child.poll()) is None:
        time.sleep(min(every, 0.5))
        # At once what the branches are: without that their checkpoints are nobody's.
        if time.monotonic() - sent >= every or not keeper.has_sent():
            keeper.try_to_send()
            sent = time.monotonic()
    for pause in (0, 5, 20):
        time.sleep(pause)
        if keeper.try_to_send():
            break
    return code if code >= 0 else 128 - code  # as a shell tells of a signal


def start(words: Sequence[str]) -> int:
    STATE.mkdir(exist_ok=True)
    if running():
        return fail(f"{platform.node()}: a run is going on here: stop it first")
    (STATE / "exit").unlink(missing_ok=True)
    with (STATE / "log").open("ab") as log:
        subprocess.Popen(
            [sys.executable, __file__, "run", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    for _ in range(100):  # until it holds the lock, so that whoever looks next sees it
        if running() or (STATE / "exit").exists():
            break
        time.sleep(0.1)
    print(f"{platform.node()}: started")
    return 0


def status() -> str:
    if running():
        return "running"
    if (STATE / "exit").exists():
        return f"exited {(STATE / 'exit').read_text()}"
    return "lost" if (STATE / "pids").exists() else "none"


@contextlib.contextmanager
def held(patience: float = 0) -> Iterator[int | None]:
    """The lock that a run holds, which the system frees when all its processes are gone, by a
    restart of the host too; None if another holds it for longer than a look takes."""
    descriptor = os.open(STATE / "lock", os.O_RDWR | os.O_CREAT)
    lock: int | None = descriptor
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() >= until:
                lock = None
                break
            time.sleep(0.01)
    try:
        yield lock
    finally:
        os.close(descriptor)


def running() -> bool:
    if not STATE.exists():
        return False
    with held() as lock:
        return lock is None


def ended(number: int, seconds: float) -> bool:
    """Sends the command a signal (0 is none) if one is running; whether none is any more after
    `seconds`."""
    if running():
        command, *keeper = map(int, (STATE / "pids").read_text().split())
        for pid in [command, *(keeper if number == signal.SIGKILL else ())]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
    until = time.monotonic() + seconds
    while running():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


def is_first() -> bool:
    """Whether this host has the coordinator, without which no other process gets past JAX's
    start: what it does before is done before any begins."""
    index = os.environ.get("TPU_WORKER_ID") or _worker_number()
    for name in ("JOB_COMPLETION_INDEX", "SKYPILOT_NODE_RANK"):
        index = index or os.environ.get(name)
    return index in (None, "", "0")  # none: the only host


def _worker_number() -> str | None:
    """As Google's metadata server tells it on a TPU."""
    attributes = "http://metadata.google.internal/computeMetadata/v1/instance/attributes"
    request = urllib.request.Request(
        f"{attributes}/agent-worker-number", headers={"Metadata-Flavor": "Google"}
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode().strip()
    except OSError:
        return None


class Keeper:
    """Keeps a copy of a workdir in HOME, on the first host and wherever rows are written, which is
    where process 0 is; what another host may leave in its workdir is not of the run."""

    def __init__(self, home: str, workdir: Path, first: bool):
        self.workdir, self._sends = workdir, first
        self._copy = f"{home.rstrip('/')}/workdir.tar.gz"
        self._sent = STATE / "sent"

    def put_back(self) -> None:
        """Makes the workdir what was last sent, unless it has changed here since it was."""
        if (there := self._fingerprint()) and there != self._last():
            say(f"{self.workdir} has changed since it was last sent: it stays")
            return
        files, path = filesystem(self._copy)
        if not files.exists(path):
            say(f"there is no {self._copy} yet")
            return
        self.workdir.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.workdir.parent) as aside:
            new, old = Path(aside, "new"), Path(aside, "old")
            with files.open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:gz") as tar:
                tar.extractall(new, filter="data")
            if self.workdir.exists():
                self.workdir.rename(old)
            new.rename(self.workdir)
        self._sent.write_text(self._fingerprint())
        say(f"{self.workdir} is put back from {self._copy}")

    def has_sent(self) -> bool:
        return self._sent.exists() or not self._sends

    def try_to_send(self) -> bool:
        """Sends the workdir if it has changed; what fails is told, and tried again later."""
        try:
            self.send()
        except Exception as error:  # of the network, the bucket or the disk, each with its own
            say(f"{self._copy} could not be written: {error}")
            return False
        return True

    def send(self) -> None:
        there, last = self._fingerprint(), self._last()
        self._sends = self._sends or _rows(there) != _rows(last)
        if there in ("", last) or not self._sends:
            return
        with tempfile.TemporaryFile(dir=self.workdir.parent) as file:
            with tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as tar:
                # Of a file that grows meanwhile goes what it was; a row that is cut is dropped
                # when it is read.
                for each in self._files():
                    with contextlib.suppress(FileNotFoundError):
                        tar.add(each, each.relative_to(self.workdir))
            file.seek(0)
            files, path = filesystem(self._copy)
            # A bucket's object is there once it is whole; a file gets its name then.
            begun = path
            if "://" not in self._copy:
                files.makedirs(os.path.dirname(path), exist_ok=True)
                begun = f"{path}.tmp"
            with files.open(begun, "wb") as copy:
                shutil.copyfileobj(file, copy, 1 << 20)
            if begun != path:
                files.mv(begun, path)
        self._sent.write_text(there)

    def _files(self) -> list[Path]:
        """Those of the workdir, without its lock and what is half written."""
        found = sorted(self.workdir.rglob("*")) if self.workdir.exists() else []
        return [f for f in found if f.is_file() and f.name != ".lock" and f.suffix != ".tmp"]

    def _fingerprint(self) -> str:
        """Changes with any file of the workdir; "" if there is none."""
        facts = []
        for each in self._files():
            with contextlib.suppress(FileNotFoundError):
                status = each.stat()
                facts.append((str(each), status.st_size, status.st_mtime_ns))
        return json.dumps(facts) if facts else ""

    def _last(self) -> str:
        return self._sent.read_text() if self._sent.exists() else ""


def _rows(fingerprint: str) -> list:
    """What a fingerprint tells of rows of metrics."""
    facts = json.loads(fingerprint or "[]")
    return [fact for fact in facts if os.path.basename(fact[0]) == "metrics.jsonl"]


def set_aside_later_than_rows(workdir: Path) -> None:
    """Renames the checkpoints that are later than their branch's rows to STEP.damaged: the copy of
    the workdir is older than they are. The run goes on from those before them."""
    from wsdjax.branches import BranchStore, metrics
    from wsdjax.files import DamagedFile

    if not any(workdir.glob("branches/*/branch.json")):
        return
    store = BranchStore(workdir)
    for name, branch in store.branches().items():
        try:
            rows = metrics.read(store.directory(name) / "metrics.jsonl").rows
        except DamagedFile:
            continue  # which the run refuses, and tells of
        last = max((row["step"] for row in rows if "loss" in row), default=branch.start)
        later = [step for step in store.steps(name) if step > last]
        for step in later:
            store.set_aside(name, step)
        if later:
            say(f"{name}: rows end at update {last}; the checkpoints of {later} are set aside")


def get(source: str, destination: str) -> None:
    """Copies what is in a directory, of a bucket too."""
    files, path = filesystem(source)
    files.get(f"{path.rstrip('/')}/", f"{destination.rstrip('/')}/", recursive=True)


def filesystem(place: str) -> tuple[Any, str]:
    """What reads and writes at `place`, and the path there for it."""
    import fsspec

    options = {"use_listings_cache": False} if place.startswith("gs://") else {}
    return fsspec.core.url_to_fs(place, **options)


if __name__ == "__main__":
    sys.exit(main())
