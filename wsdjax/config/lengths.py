"""Lengths of training in a config: updates, epochs, tokens, or a percentage of the run.

    350    "50 epochs"    "3e9 tokens"    "35%"    "100% - 35%"

A length is a number of updates or a text of such terms; what it comes to depends on the data
set, the batch and the experiment's own `length`, which percentages refer to.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from wsdjax.wording import shown

_TERM = re.compile(r"\s*([+-]?)\s*(\d[\d_]*\.?\d*(?:e[+-]?\d+)?)\s*(%|[a-z]*)\s*")
_UNITS = {"": "steps", "step": "steps", "epoch": "epochs", "token": "tokens", "%": "%"}


if TYPE_CHECKING:
    Length = int | str
else:

    class Length:
        """Marks the fields of a config that are lengths; their values are numbers or texts."""


def terms(length: Length) -> list[tuple[float, str]]:
    """(number, unit) of each term, units being steps, epochs, tokens and %; a `ValueError` tells
    of what is no length."""
    if isinstance(length, int):
        try:
            return [(float(length), "steps")]
        except OverflowError:
            raise ValueError(f"{shown(length)}: is more updates than can be counted") from None
    text, at, parted = str(length), 0, False
    found: list[tuple[float, str]] = []
    while at < len(text) or not found:
        match = _TERM.match(text, at)
        unit = _UNITS.get(match[3], match[3]) if match else ""
        if not match or unit not in _UNITS.values() or (found and not match[1]):
            raise ValueError(
                f'{shown(length)} is no length: give updates (350), "50 epochs", "3e9 tokens", '
                '"35%", or terms of these, as in "100% - 35%"'
            )
        number = float(match[2].replace("_", ""))
        parted = parted or (not match[3] and math.isfinite(number) and number % 1 > 0)
        found.append((-number if match[1] == "-" else number, unit))
        at = match.end()
    if parted:
        raise ValueError(f"{shown(length)}: updates are whole numbers")
    return found


def updates(length: Length, one: Mapping[str, float]) -> int:
    """The number of updates; `one` tells how many a unit is worth: ``{"epochs": 781.0}``.

    Each term is rounded to whole updates by itself, so that "100% - 35%" and "35%" add up. A
    `ValueError` tells of what is no length, or of a unit that means nothing here.
    """
    if isinstance(length, int):
        return length
    total = 0
    for number, unit in terms(length):
        if unit != "steps" and unit not in one:
            raise ValueError(f"{shown(length)}: {_MEANINGLESS[unit]}")
        count = number * one.get(unit, 1)
        if not math.isfinite(count):
            raise ValueError(f"{shown(length)}: is more updates than can be counted")
        total += round(count)
    return total


_MEANINGLESS = {
    "epochs": "an epoch of the data is not known: they are not prepared, or not described",
    "tokens": "the data have no tokens",
    "%": "a percentage of what? Set the experiment's length, or give updates or epochs",
}


def combined(plus: Sequence[Length], minus: Sequence[Length] = ()) -> Length:
    """The sum of `plus` less that of `minus`: a number if all are, else a text that says so."""
    if all(isinstance(each, int) for each in (*plus, *minus)):
        return sum(map(int, plus)) - sum(map(int, minus))
    added = [term for each in plus for term in terms(each)]
    taken = [(-number, unit) for each in minus for number, unit in terms(each)]
    return _text([*added, *taken])


def share(length: Length, fraction: float) -> Length:
    """`fraction` of a length, rounded if that is a number of updates."""
    parts = [(fraction * number, unit) for number, unit in terms(length)]
    return round(parts[0][0]) if isinstance(length, int) else _text(parts)


def _text(parts: list[tuple[float, str]]) -> str:
    signed = [f"{'-' if number < 0 else '+'} {abs(number):.15g} {unit}" for number, unit in parts]
    return " ".join(signed).removeprefix("+ ").replace(" %", "%")
