"""What one sees while text is prepared: a bar on a terminal, a line every so often elsewhere."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Shards that are done of all there are, and tokens a second."""

    def __init__(self, done: int, shards: int):
        self._shards = shards
        self._start = self._last = time.monotonic()
        self._bar = tqdm(total=shards, initial=done, unit="shard") if sys.stderr.isatty() else None

    def show(self, done: int, tokens: int) -> None:
        """`tokens` is how many were written since the start."""
        now = time.monotonic()
        said = f"{tokens:,} tokens, {tokens / (now - self._start):,.0f}/s"
        if self._bar is not None:
            self._bar.n = done
            self._bar.set_postfix_str(said)
        elif now - self._last >= SECONDS_BETWEEN_LINES:
            self._last = now
            print(f"{done} of {self._shards} shards, {said}", file=sys.stderr, flush=True)

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.close()
