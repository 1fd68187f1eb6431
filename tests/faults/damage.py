"""Ways in which a file or a directory of a workdir may be damaged."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

JSON = (".json", ".jsonl", "_METADATA", "_sharding")


def places(workdir: Path) -> dict[str, list[str]]:
    """The files and directories of a workdir, below it, by their kind: what they are for, whichever
    branch, node and array they are of."""
    found: dict[str, list[str]] = {}
    for path in sorted(workdir.rglob("*")):
        name = str(path.relative_to(workdir))
        kind = re.sub(r"branches/[^/]+", "branches/NAME", name)
        kind = re.sub(r"/\d+(?=/|$)", "/N", kind)
        kind = re.sub(r"state/(params|opt_state|averages|step)[^/]*", r"state/ARRAY", kind)
        kind = re.sub(r"(/c)(/N)+$", r"\1/N", kind)
        kind = re.sub(r"figures/.*\.", "figures/NAME.", kind)
        kind = re.sub(r"(probes/[a-z]+)-.*\.", r"\1.", kind)
        kind = re.sub(r"-\d+\.tokens", ".tokens", kind)
        if re.search(r"/c/.*", kind) and path.is_dir():
            continue  # the directories in which the one chunk of an array lies
        found.setdefault(kind + "/" * path.is_dir(), []).append(name)
    return found


def ways(path: Path) -> list[str]:
    """How this one may be damaged."""
    if path.is_dir():
        return ["deleted", "emptied", "made_a_file", "swapped"]
    found = ["empty", "cut", "nuls", "flipped", "deleted", "made_a_directory", "swapped"]
    if path.name.endswith(JSON):
        found += ["null", "not_utf8", "nul_tail", "blank_line", "list", "value_changed"]
    if path.name.endswith(".jsonl"):
        found += ["row_deleted", "row_duplicated", "rows_swapped", "evaluation_deleted"]
        found += ["tail_deleted", "row_without_step", "row_is_list"]
    return found


def inflict(way: str, path: Path, workdir: Path, dice: random.Random) -> bool:
    """Whether it could be done, and anything is another now."""
    if not path.exists():
        return False
    if way == "swapped":
        return _swap(path, workdir, dice)
    if way == "deleted":
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return True
    if way == "emptied":
        shutil.rmtree(path)
        path.mkdir()
        return True
    if way in ("made_a_file", "made_a_directory"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        path.touch() if way == "made_a_file" else path.mkdir()
        return True
    before = path.read_bytes()
    after = (_BYTES.get(way) or _lines(way))(before, dice)
    path.write_bytes(after)
    return after != before


def _swap(path: Path, workdir: Path, dice: random.Random) -> bool:
    """With the same of another branch, else with another of its kind."""
    kind = next(
        names for names in places(workdir).values() if str(path.relative_to(workdir)) in names
    )
    others = [workdir / name for name in kind if workdir / name != path]
    mine = path.relative_to(workdir).parts
    others = [p for p in others if path.is_dir() or p.read_bytes() != path.read_bytes()]
    if not others:
        return False
    # One that differs in the branch alone, if there is one.
    nearest = min(
        others,
        key=lambda p: (p.name != path.name, sum(map(_differ, p.relative_to(workdir).parts, mine))),
    )
    third = path.with_name("swapped")
    path.rename(third)
    nearest.rename(path)
    third.rename(nearest)
    return True


def _differ(a: str, b: str) -> bool:
    return a != b


def _cut(content: bytes, dice: random.Random) -> bytes:
    return content[: dice.randrange(1, max(2, len(content)))]


def _flip(content: bytes, dice: random.Random) -> bytes:
    if not content:
        return b"\1"
    changed = bytearray(content)
    changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def _value_changed(content: bytes, dice: random.Random) -> bytes:
    """One digit of one number in JSON is another."""
    digits = [m.start() for m in re.finditer(rb"(?<=[ \[:,.\d])\d", content)]
    if not digits:
        return content
    at = dice.choice(digits)
    new = dice.choice([d for d in b"123456789" if d != content[at]])
    return content[:at] + bytes([new]) + content[at + 1 :]


_BYTES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "empty": lambda content, dice: b"",
    "cut": _cut,
    "nuls": lambda content, dice: bytes(len(content)),
    "nul_tail": lambda content, dice: content + bytes(64),
    "flipped": _flip,
    "null": lambda content, dice: b"null\n",
    "not_utf8": lambda content, dice: (
        content[: len(content) // 2] + b"\xff\xfe" + content[len(content) // 2 :]
    ),
    "list": lambda content, dice: b"[" + content.strip().replace(b"\n", b",") + b"]\n",
    "blank_line": lambda content, dice: (
        content.replace(b"\n", b"\n\n", 1) if b"\n" in content else content + b"\n\n"
    ),
    "value_changed": _value_changed,
}


def _lines(way: str) -> Callable[[bytes, random.Random], bytes]:
    def change(content: bytes, dice: random.Random) -> bytes:
        rows = content.splitlines(keepends=True)
        if len(rows) < 3:
            return content
        i = dice.randrange(len(rows) - 1)
        match way:
            case "row_deleted":
                del rows[i]
            case "row_duplicated":
                rows.insert(i, rows[i])
            case "rows_swapped":
                rows[i], rows[i + 1] = rows[i + 1], rows[i]
            case "evaluation_deleted":
                rows.remove(dice.choice([row for row in rows if b'"eval_loss"' in row]))
            case "tail_deleted":
                rows = rows[:i]
            case "row_without_step":
                row = json.loads(rows[i])
                del row["step"]
                rows[i] = json.dumps(row).encode() + b"\n"
            case "row_is_list":
                rows[i] = b"[" + rows[i].strip() + b"]\n"
        return b"".join(rows)

    return change
