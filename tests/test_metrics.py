"""Rows on disk: each line vouches for all lines before it, the checkpoint's record for the last."""

import json

import pytest

from wsdjax.branches import metrics
from wsdjax.branches.metrics import JsonLines
from wsdjax.files import DamagedFile


def written(directory, start=0, step=6, name="trunk", closed=True):
    """A file of updates start + 1, ..., step, evaluated at every third."""
    path = directory / name / "metrics.jsonl"
    path.parent.mkdir(parents=True)
    rows = JsonLines(path, start, start)
    for n in range(start + 1, step + 1):
        rows.write({"step": n, "rate": 0.1 / n, "loss": [1.0 / n, float("nan")]})
        if n % 3 == 0:
            rows.write({"step": n, "eval_loss": [2.0, 3.0]})
    rows.close()
    return path, rows.sum


def test_rows_are_read_as_they_were_written(tmp_path):
    path, end = written(tmp_path)
    kept = metrics.read(path)
    assert [row["step"] for row in kept.rows] == [1, 2, 3, 3, 4, 5, 6, 6]
    assert kept.rows[1] == {"step": 2, "rate": 0.05, "loss": [0.5, None]}
    assert kept.sums[-1] == end
    metrics.check_end(path, kept, 0, 6, end)


def test_rows_gone_on_with_are_those_of_one_that_was_not_stopped(tmp_path):
    """Killed in the middle of a line beyond the checkpoint at 3."""
    path, end = written(tmp_path)
    whole = path.read_bytes()
    sum_at_3 = metrics.read(path, 3).sums[-1]
    path.write_bytes(whole[:-20])
    rows = JsonLines(path, 0, 3, sum_at_3)
    for row in map(json.loads, whole.decode().splitlines()[4:]):
        del row["sum"]
        rows.write(row)
    rows.close()
    assert path.read_bytes() == whole
    assert rows.sum == end


def lines_of(change):
    def damage(content):
        lines = content.split(b"\n")[:-1]
        return b"".join(line + b"\n" for line in change(lines))

    return damage


def without_sums(content):
    return lines_of(lambda lines: [line.split(b', "sum"')[0] + b"}" for line in lines])(content)


# What is done to the file, and the line that is named; line 4 is the evaluation at 3.
DAMAGES = {
    "an evaluation deleted": (lines_of(lambda ls: ls[:3] + ls[4:]), 4),
    "an update deleted": (lines_of(lambda ls: ls[:1] + ls[2:]), 2),
    "the first deleted": (lines_of(lambda ls: ls[1:]), 1),
    "one twice": (lines_of(lambda ls: [*ls[:4], ls[3], *ls[4:]]), 5),
    "two swapped": (lines_of(lambda ls: [ls[0], ls[2], ls[1], *ls[3:]]), 2),
    "a value changed": (lambda content: content.replace(b'"rate": 0.05', b'"rate": 0.06'), 2),
    "an evaluation changed": (lambda content: content.replace(b"[2.0, 3.0]", b"[2.0, 3.5]"), 4),
    "a checksum taken away": (
        lines_of(lambda ls: [*ls[:4], ls[4].split(b', "sum"')[0] + b"}", *ls[5:]]),
        5,
    ),
    "a blank line": (lines_of(lambda ls: [*ls[:2], b"", *ls[2:]]), 3),
    "NULs": (lines_of(lambda ls: [*ls[:2], b"\0\0\0", *ls[3:]]), 3),
    "a list": (lines_of(lambda ls: [*ls[:2], b"[1, 2]", *ls[3:]]), 3),
    "null": (lines_of(lambda ls: [*ls[:2], b"null", *ls[3:]]), 3),
    "no step": (lines_of(lambda ls: [b'{"loss": 1.0}', *ls]), 1),
    "a step that is none": (lines_of(lambda ls: [b'{"step": "1", "loss": 1.0}', *ls]), 1),
    "a text for a loss": (lines_of(lambda ls: [b'{"step": 1, "loss": "low"}', *ls]), 1),
    "not UTF-8": (lines_of(lambda ls: [*ls[:5], b'{"\xff": 1}', *ls[6:]]), 6),
    "cut inside": (lines_of(lambda ls: [*ls[:5], ls[5][:9], *ls[6:]]), 6),
    "deep": (lines_of(lambda ls: [b"[" * 100_000, *ls]), 1),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_damage_is_named_with_its_line(tmp_path, what):
    damage, line = DAMAGES[what]
    path, _ = written(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DamagedFile, match=rf"metrics.jsonl, line {line}: ") as found:
        metrics.read(path)
    assert "bring the file back" in str(found.value)
    assert len(str(found.value)) < 300 + len(str(path))


def test_another_branchs_rows_are_not_taken(tmp_path):
    path, _ = written(tmp_path)
    other, _ = written(tmp_path, name="cosine")
    path.write_bytes(other.read_bytes())
    with pytest.raises(DamagedFile, match="line 1: "):
        metrics.read(path)


def test_what_is_missing_at_the_end_shows_by_the_checkpoints_record(tmp_path):
    """The last evaluation alone, which no number of updates tells of."""
    path, end = written(tmp_path)
    path.write_bytes(lines_of(lambda lines: lines[:-1])(path.read_bytes()))
    with pytest.raises(DamagedFile, match=r"line 8: a row is missing, or .* update 6"):
        JsonLines(path, 0, 6, end)
    path.write_bytes(lines_of(lambda lines: lines[:-1])(path.read_bytes()))
    with pytest.raises(
        DamagedFile, match="a row for each update from 1 to 6, and has 5, to line 6"
    ):
        JsonLines(path, 0, 6, end)


def test_damage_beyond_the_checkpoint_is_made_again(tmp_path):
    """Rows later than the checkpoint are dropped in any case: they need not be read."""
    path, _ = written(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    at_3 = metrics.read(path).sums[3]
    path.write_bytes(b"".join([*lines[:5], b"\0\0\xff\n", *lines[6:]]))
    rows = JsonLines(path, 0, 3, at_3)
    rows.close()
    assert path.read_bytes() == b"".join(lines[:4])
    path.write_bytes(b"".join([*lines[:3], b"\0\n"]))  # the evaluation at 3
    with pytest.raises(DamagedFile, match="line 4: a row is missing"):
        JsonLines(path, 0, 3, at_3)


def test_rows_without_checksums_are_held_to_their_order(tmp_path):
    """As format 2 began: they are read, and gone on with; from there on lines have checksums."""
    path, _ = written(tmp_path, start=10, step=16)
    path.write_bytes(without_sums(path.read_bytes()))
    rows = JsonLines(path, 10, 16, "")
    rows.write({"step": 17, "loss": [0.1, 0.2]})
    rows.close()
    kept = metrics.read(path)
    assert kept.sums[:-1] == [""] * (len(kept.sums) - 1)
    assert kept.sums[-1] == rows.sum


@pytest.mark.parametrize("what", ["an update deleted", "one twice", "two swapped"])
def test_rows_without_checksums_out_of_order_are_named(tmp_path, what):
    damage, line = DAMAGES[what]
    path, _ = written(tmp_path, start=10, step=16)
    path.write_bytes(damage(without_sums(path.read_bytes())))
    with pytest.raises(DamagedFile, match=f"line {line}: "):
        metrics.read(path)
