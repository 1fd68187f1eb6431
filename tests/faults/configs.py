"""Malformed configs and command lines, drawn at random and by hypothesis: each is to be refused in
one message that names the field, before anything is written.

    python -m tests.faults.configs [--count=5500] [--seed=0]

One value of a good config is replaced by another of any type, or one argument of a good command;
what then happens is what `experiments.run` and `experiments.branch` do before they write. All in
one process: the workdir's lock, which comes before whatever is written, is where an accepted case
ends.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import io
import multiprocessing
import random
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import hypothesis
from hypothesis import strategies as st

LONGEST = 400
"""Characters of a message."""


class Fault(NamedTuple):
    """What came of one case."""

    kind: str
    case: str
    wrong: str
    """"" if it was refused properly, "accepted" where it was good after all, else what is wrong."""
    message: str = ""


# Values.


class _Junk:
    """An object whose every use raises."""

    def __repr__(self):
        raise RuntimeError("no repr")

    def __eq__(self, other):
        raise RuntimeError("no ==")

    __hash__ = None  # type: ignore[assignment]


def _circular() -> Any:
    found: dict[str, Any] = {}
    found["itself"] = found
    return found


def _deep() -> Any:
    found: Any = []
    for _ in range(50_000):
        found = [found]
    return found


def values() -> list[Callable[[], Any]]:
    """Makers of values that are wrong in most fields, and right in some."""
    import numpy as np

    from wsdjax import config as c

    plain: list[Any] = [
        *(None, True, False, 0, 1, -1, 2, 3, 7, 10**12, 2**31 - 1, 2**31, 2**63, -(2**63), 10**30),
        *(10**400, -(10**400), 10**5000, 0.0, -0.0, 0.5, 1.0, 1e-300, 5e-324, 1e39, 1e308),
        *(float("inf"), -float("inf"), float("nan"), 1j, "", " ", "x", "trunk", "./trunk"),
        *("../branches/trunk", "a@b@c", "@", "trunk@", "@5", "trunk@0", "trunk@1e9", "type", "inf"),
        *("x" * 300, "x" * 5_000, "\0", "a\nb", "\udc80", "$\\frac{$", "<script>", "5 parsecs"),
        *("1e400", "9" * 5_000, "-5", "1.2.3", "power(1.2.3)", "power(1e400)", "power(0)", "%"),
        *("linear", "bytes", "bpe:9", "bpe:999999999", "/", "~", "50%", "3 epochs", "-" * 100_000),
        *(b"bytes", (), (1,), (0,), (-1,), (2**31,), ("a",), (1,) * 1_000, [], [1], [[]], {}),
        *({1: 2}, {"a": 1}, {"type": {}}, {None: ()}, set(), range(3), len, int, object(), ...),
        *(np.float32(0.5), np.float64(0.5), np.int64(3), np.zeros(3), np.array("x"), Exception()),
    ]
    kinds = [*c.TYPES.values()]
    makers: list[Callable[[], Any]] = [lambda value=value: value for value in plain]
    makers += [lambda kind=kind: kind for kind in kinds]
    makers += [_Junk, _circular, _deep]
    makers += [
        c.CNN,
        c.Transformer,
        c.RNN,
        c.Photos,
        c.Cifar10,
        c.Stdlib,
        c.Bigram,
        lambda: c.Text("nowhere"),
        lambda: c.Text("\0"),
        lambda: c.Text("x" * 5_000),
        c.AdamW,
        c.Overrides,
        c.Averages,
        c.Constant,
        c.Hold,
        c.Continued,
        c.Cooldown,
        c.Rewarm,
        c.InverseSqrt,
        c.WarmupCosine,
        lambda: c.Branch(3, c.Constant()),
        lambda: c.Branch(3, c.Cooldown(), "trunk"),
    ]
    return makers


def drawn(count: int, seed: int) -> list[Any]:
    """Values of any type, nested too, that hypothesis draws."""
    leaves = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.complex_numbers(), st.binary()
    )
    leaves |= st.text() | st.dates() | st.decimals() | st.functions(like=lambda: None)
    keys = st.text() | st.integers() | st.none()
    found: list[Any] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(max_examples=count, database=None, deadline=None)
    @hypothesis.given(
        st.recursive(
            leaves,
            lambda inner: st.lists(inner) | st.dictionaries(keys, inner) | st.tuples(inner, inner),
        )
    )
    def collect(value: Any) -> None:
        found.append(value)

    collect()
    return found


def good() -> list[Any]:
    """Configs whose every field may be replaced."""
    from wsdjax import config as c
    from wsdjax import plans

    def images() -> c.Experiment:
        return c.Experiment(
            model=c.CNN(widths=(4, 4)),
            data=c.Photos(size=2_000, eval_size=50),
            optimizer=c.AdamW(),
            tree=plans.wsd(36, 4, 12) | plans.cosine(36, 4),
            batch_size=8,
            seeds=2,
            compare={"a": ("decay",)},
        )

    def tokens() -> c.Experiment:
        rewarmed = c.Branch(9, c.Rewarm(2), "decay", data=c.Bigram(noisy := 32, language=noisy))
        return c.Experiment(
            model=c.Transformer(64, 32, 1, 4, hidden=64),
            data=c.Bigram(length=16, size=500, eval_size=20),
            optimizer=c.AdamW(),
            tree=plans.inverse_sqrt(30, 4, 10) | plans.wsd("50%", 3, "25%") | {"more": rewarmed},
            batch_size=4,
            length=80,
            averages=c.Averages(ema=0.9, window=2),
        )

    def text() -> c.Experiment:
        return c.Experiment(
            model=c.RNN(64, 16, 1),
            data=c.Text("nowhere", length=16),
            optimizer=c.AdamW(),
            tree=plans.wsd_s((20, 40), 4, 1e-4),
            batch_size=4,
        )

    return [images, tokens, text]


def places(value: Any, path: str = "") -> Iterator[tuple[str, Callable[[Any], None]]]:
    """(path, a function that puts another value there) of all that a config holds."""
    if dataclasses.is_dataclass(value):
        items = [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
        put: Callable = setattr
    elif isinstance(value, dict):
        items, put = list(value.items()), dict.__setitem__
    else:
        return
    for name, item in items:
        at = f"{path}.{name}" if path else name
        yield at, lambda new, name=name: put(value, name, new)
        yield from places(item, at)


# Configs.


_PATHS = ("weights", "directory", "workdir", "checkpoint_dir")


def config_fault(draw: random.Random, workdir: Path, more: Sequence[Any]) -> Fault:
    """One config with one malformed value, field or name."""
    experiment = draw.choice(good())()
    found = list(places(experiment))
    path, put = draw.choice(found)
    kind = draw.choices(("value", "field", "name", "row"), (88, 4, 4, 4))[0]
    value = draw.choice(values())() if draw.random() < 0.6 else draw.choice(more)
    if kind == "value":
        put(value)
    elif kind == "field":
        holders = {at.rpartition(".")[0] for at, _ in found} - {"tree", "compare"}
        holder = draw.choice(sorted(holders))
        path = f"{holder}.wrong".lstrip(".")
        owner = experiment
        for name in filter(None, holder.split(".")):
            owner = owner[name] if isinstance(owner, dict) else getattr(owner, name)
        owner.wrong = value
    else:
        path = "tree" if kind == "name" else "compare"
        try:
            getattr(experiment, path)[value] = next(iter(getattr(experiment, path).values()), ())
        except Exception:  # no key of a dict at all
            return config_fault(draw, workdir, more)
    case = f"{path} = {_short(value)}"
    said = _preflight(experiment, workdir)
    # A file that is not there may be named itself.
    field = path.split(".")[-1]
    named = (str(Path(value)),) if isinstance(value, str) and value and field in _PATHS else ()
    return _judged(f"config: {kind}", case, field, said, workdir, named=named)


def _preflight(experiment: Any, workdir: Path) -> BaseException | None:
    """What `experiments.run` raises before it writes."""
    from experiments import run

    flags = {"dry_run": False, "workdir": str(workdir), "checkpoint_dir": None}
    try:
        with _stopped_at_the_lock():
            run.run(argparse.Namespace(experiment=experiment, **flags))
    except BaseException as error:
        return error
    return None


class Reached(Exception):
    """Training would begin: the case was good."""


@contextlib.contextmanager
def _stopped_at_the_lock() -> Iterator[None]:
    from wsdjax.branches import BranchStore

    with mock.patch.object(BranchStore, "lock", mock.Mock(side_effect=Reached)):
        yield


def _judged(
    kind: str,
    case: str,
    field: str,
    said: BaseException | None,
    workdir: Path,
    heard: str = "",
    named: tuple[str, ...] = (),
) -> Fault:
    from experiments.cli import told
    from wsdjax.data.tokens import NotPrepared
    from wsdjax.errors import UserError

    message = heard.strip() or told(said)
    if _files(workdir):
        return Fault(kind, case, "wrote something", message)
    if isinstance(said, Reached):
        return Fault(kind, case, "accepted")
    code = said.code if isinstance(said, SystemExit) else 2
    if not isinstance(said, UserError | OSError | SystemExit) or code != 2 or not message:
        where = "".join(traceback.format_exception(said)[-3:]) if said else "nothing was raised"
        return Fault(kind, case, "traceback", where)
    if len(message) > LONGEST:
        return Fault(kind, case, "too long", message)
    if len(message.splitlines()) > 2:
        return Fault(kind, case, "too many lines", message)
    if isinstance(said, NotPrepared) and field != "directory":
        return Fault(kind, case, "accepted")
    if not any(said in message for said in (field, *named)):
        return Fault(kind, case, "names no field", message)
    return Fault(kind, case, "", message)


def _short(value: Any) -> str:
    from wsdjax.wording import shown

    return shown(value)


def _files(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*")) if directory.exists() else []


# Command lines.

FILES = {
    "good": "",
    "syntax": "def get_config(:",
    "nothing": "",
    "no function": "x = 1",
    "NUL": "\0",
    "not UTF-8": b"\xff\xfe",
    "raises": "def get_config():\n    raise RuntimeError('x' * 10_000)",
    "recursion": "def get_config():\n    return get_config()",
    "exit": "import sys\nsys.exit(3)",
    "exit with a text": "def get_config():\n    raise SystemExit('so long')",
    "an exception of its own": "class E(BaseException): pass\ndef get_config():\n    raise E",
    "memory": "def get_config():\n    raise MemoryError",
    "lines": "def get_config():\n    raise ValueError('a\\nb\\n' * 500)",
    "junk": "class J:\n    def __getattr__(self, name): raise KeyError(name)\n"
    "def get_config():\n    return J()",
    "circular": "def get_config():\n    d = {}\n    d['d'] = d\n    return d",
    "class": "from wsdjax.config import Experiment as get_config",
    "list": "def get_config():\n    return []",
    "none": "def get_config():\n    pass",
    "arguments": "def get_config(a, b):\n    return a",
    "plans": "from wsdjax import plans\ndef get_config():\n    return plans.wsd(10**400, 3, '5%')",
    "no budgets": "from wsdjax import plans\ndef get_config():\n"
    "    return plans.wsd_s((), 3, 1e-4)",
    "no ends": "from wsdjax import plans\ndef get_config():\n"
    "    return plans.cooldown_lengths((), 3)",
}
"""Config files that are none; the first is replaced by a good one."""

OVERRIDES = (
    *(
        "batch_size",
        "tree.trunk.steps",
        "tree.decay.schedule.shape",
        "optimizer.b1",
        "model.widths",
    ),
    *("seed", "seeds", "tree.decay.parent", "tree", "model", "data.noise", "length"),
    *(
        "compare",
        "keep",
        "tensorboard",
        "weights",
        "wrong",
        "tree.trun.steps",
        "optimizer.b1.c",
        "",
        ".",
    ),
)
TEXTS = (
    *("", " ", "x", "0", "-1", "1e400", "9" * 5_000, "x" * 5_000, "nan", "inf", "True", "None"),
    *("a@b@c", "./trunk", "../branches/trunk", "trunk@", "@", "@5", "trunk@99", "trunk@x", "stem"),
    *("x" * 300, "-" * 100_000, "(" * 100_000, "\0", "\udc80", "\x1b[2J", "$\\frac{$", "<b>"),
    *("Text", "Text()", "Text('nowhere')", "Cooldown('sqrt', shape='linear')", "Cooldown({[]:1})"),
    *(
        "Cooldown(1, 2, 3)",
        "Cooldown(form=1)",
        "Cooldown(**{})",
        "Cooldown(*[1])",
        "Cooldown(",
        "5",
    ),
    *(
        "Cooldown(shape=5)",
        "Cooldown(end_value=-1)",
        "Cooldown('power(1.2.3)')",
        "[].append",
        "a.b",
    ),
    *("Photos(noise=1e400)", "Photos(size=10**9)", "Photos(size=2147483647)", "Photos(5)"),
    *(
        "Decay",
        "Averages(ema=2)",
        "Averages(window=1000000000)",
        "Constant(warmup_steps=99)",
        "Hold(1)",
    ),
    *("2147483648", "1e12", "3 epochs", "5 tokens", "50%", "1.2.3", "-5", "5 - 9", "/", "/proc/x"),
)


def run_fault(draw: random.Random, workdir: Path, here: Path, more: Sequence[str] = ()) -> Fault:
    """One command line of `experiments.run`."""
    from experiments import run

    config, name = draw.choice(sorted(here.glob("*.py"))), "config"
    if draw.random() < 0.8:
        config = here / "good.py"
    argv = [f"--config={config}", f"--workdir={workdir}"]
    text = draw.choice((*TEXTS, *more))
    match draw.randrange(6):
        case 0 | 1 | 2:
            name = draw.choice(OVERRIDES)
            argv.append(f"--config.{name}={text}")
            name = name.split(".")[-1]
        case 3:
            argv[0] = f"--config={text}"
        case 4:
            argv.append(draw.choice((text, f"--{text}", f"--wrong={text}")))
            name = ""
        case 5:
            name = draw.choice(("workdir", "checkpoint_dir"))
            argv.append(f"--{name}={text if text.strip('~ ') and text[0] != '/' else '/proc/x'}")
    if config.stem != "good" and name:
        name = "c"  # its own message is what is told

    return _command(run.main, argv, "run", name, workdir)


def branch_fault(draw: random.Random, workdir: Path, more: Sequence[str] = ()) -> Fault:
    """One command line of `experiments.branch`, on a workdir that holds the tiny tree."""
    from experiments import branch

    text = draw.choice((*TEXTS, *more))
    flag = draw.choice(
        ("schedule", "data", "averages", "steps", "name", "data_seed", "b2", "clip_norm", "wrong")
    )
    fork = ["fork", "trunk", "--name=x", "--steps=3", f"--workdir={workdir}"]
    name = flag
    match draw.randrange(5):
        case 0:
            argv, name = [draw.choice(("show", "extend", text)), text], ""
        case 1:
            argv, name = ["diff", "trunk", text], ""
        case 2:
            argv, name = ["fork", text, *fork[2:]], ""
        case _:
            argv = [*fork, f"--{flag}={text}"]
    argv = [*argv, *(() if fork[-1] in argv else (fork[-1],))]
    before = _files(workdir)
    found = _command(branch.main, argv, "branch", name, workdir / "none")
    if _files(workdir) != before:
        return found._replace(wrong="wrote something")
    return found


def _command(main: Callable, argv: list[str], kind: str, name: str, workdir: Path) -> Fault:
    out, err = io.StringIO(), io.StringIO()
    said: BaseException | None = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            with _stopped_at_the_lock():
                code = main(argv)
            said = SystemExit(code) if code else None
        except BaseException as error:
            said = error
    if said is None and kind == "branch":
        return Fault(kind, _short(argv), "accepted")
    case = " ".join(_short(argument) for argument in argv)
    heard = err.getvalue() if isinstance(said, SystemExit) else ""
    # A file that is not there may be named itself.
    given = [argument.partition("=")[2] for argument in argv[2:]]
    named = tuple(str(Path(text)) for text in given if text and name in _PATHS)
    return _judged(f"command: {kind}", case, name, said, workdir, heard, named)


# All of them.


def faults(count: int, seed: int, commands: str, here: Path) -> list[Fault]:
    """So many cases, drawn by a seed: configs and command lines of one entry point.

    Args:
      count: how many.
      seed: of the draws.
      commands: "run" for configs and for `experiments.run`, or "branch".
      here: an empty directory.
    """
    _load_once()
    draw = random.Random(f"{seed} {commands}")
    more = drawn(300, seed)
    texts = [value for value in more if isinstance(value, str)][:60]
    if commands == "branch":
        workdir = _registered(here / "w")
        return [branch_fault(draw, workdir, texts) for _ in range(count)]
    (here / "c").mkdir()
    for name, content in FILES.items():
        content = content if isinstance(content, bytes) else content.encode()
        (here / "c" / f"{name}.py").write_bytes(content)
    tiny = Path(__file__).parent.parent / "configs" / "tiny.py"
    (here / "c" / "good.py").write_text(tiny.read_text())
    (here / "c" / "directory.py").mkdir()
    found = []
    for _ in range(count):
        if draw.random() < 0.75:
            found.append(config_fault(draw, here / "w", more))
        else:
            found.append(run_fault(draw, here / "w", here / "c", texts))
    return found


def _load_once() -> None:
    """Cases that have one data set load it once."""
    from wsdjax.training.compiled import Compiled

    load: Any = Compiled._data
    if not hasattr(load, "loaded"):
        loaded: dict[str, Any] = {}

        def once(self: Compiled, config: Any) -> Any:
            if repr(config) not in loaded:
                loaded[repr(config)] = load(self, config)
            return loaded[repr(config)]

        once.loaded = loaded  # type: ignore[attr-defined]
        Compiled._data = once  # type: ignore[method-assign]


def _registered(workdir: Path) -> Path:
    """A workdir with the records of a tree, and no checkpoints."""
    import json

    from wsdjax import tree
    from wsdjax.branches import BranchStore
    from wsdjax.config.json import to_json

    experiment = good()[0]()
    BranchStore(workdir).register(tree.resolve(experiment))
    (workdir / "config.json").write_text(json.dumps(to_json(experiment)))
    return workdir


def _worker(count: int, seed: int, commands: str) -> list[Fault]:
    with tempfile.TemporaryDirectory() as here:
        return faults(count, seed, commands, Path(here))


def table(found: list[Fault]) -> str:
    """kind, tried, refused properly, good after all, and each thing that was wrong."""
    wrongs = ["traceback", "too long", "too many lines", "names no field", "wrote something"]
    counts: dict[str, collections.Counter] = {}
    for each in found:
        counts.setdefault(each.kind, collections.Counter())[each.wrong or "refused"] += 1
    columns = ["refused", "accepted", *wrongs]
    rows = [["kind", "tried", *columns]]
    for kind, counted in sorted(counts.items()):
        rows.append([kind, str(counted.total()), *(str(counted[c]) for c in columns)])
    rows.append(
        ["all", str(len(found)), *(str(sum(c[k] for c in counts.values())) for k in columns)]
    )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(row))
        for row in ([*zip(row, widths, strict=True)] for row in rows)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5_500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=10, help="how many of what is wrong to print")
    given = parser.parse_args()
    branches = given.count // 10
    parts = [(given.count - branches, "run"), (branches, "branch")]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        tried = pool.starmap(_worker, [(count, given.seed, kind) for count, kind in parts])
    found = [each for part in tried for each in part]
    bad = [each for each in found if each.wrong not in ("", "accepted")]
    for each in bad[: given.show]:
        print(f"{each.wrong}: {each.kind}: {each.case}\n    {each.message}\n")
    print(table(found))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
