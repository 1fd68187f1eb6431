"""Words for messages: values that are kept short, and the name that was likely meant."""

from __future__ import annotations

import difflib
import math
import re
import reprlib
from collections.abc import Iterable

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 70
_SHORT.maxlevel = 3
_SHORT.maxtuple = _SHORT.maxlist = _SHORT.maxdict = 6


def shown(value: object, most: int = 200) -> str:
    """The value as Python writes it, in at most so many characters: cut in its middle."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**30:
        return f"{'-' if value < 0 else ''}1e{int(abs(value).bit_length() * math.log10(2))} or so"
    try:
        return shortened(_SHORT.repr(value), most)
    except Exception:  # a value of whoever wrote the config, whose repr may raise anything
        return f"a {type(value).__name__}"


def shortened(text: str, most: int = 60) -> str:
    """A text of at most so many characters, cut in its middle; on one line."""
    text = " ".join(text.split())
    if len(text) <= most:
        return text
    return f"{text[: most // 2 - 2]} ... {text[len(text) - most // 2 + 3 :]}"


def in_short_words(text: str, most: int = 150) -> str:
    """A message in which every word, such as a path, is at most so long."""
    return re.sub(r"\S+", lambda word: shortened(word[0], most), text)


def printable(text: str) -> str:
    """A text in which what would steer a terminal, or cannot be written, is escaped."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def listed(names: Iterable[str], most: int = 8) -> str:
    """Names with commas between them: the first, and how many more there are."""
    names = [shortened(name, 40) for name in names]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more or "none"


def near(name: str, names: Iterable[str]) -> str:
    """``, did you mean 'x'?`` where one of `names` is like `name`."""
    found = difflib.get_close_matches(name[:100], names, n=1)
    return f", did you mean {found[0]!r}?" if found else ""
