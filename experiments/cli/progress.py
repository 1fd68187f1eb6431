"""How far a command is: a bar on a terminal, a line every so often elsewhere. Of several processes
the first speaks for all."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from wsdjax.placement import processes
from wsdjax.trainer import Progress

_SECONDS_BETWEEN_LINES = 10.0


class Display:
    """So many of `total` units are done; without a total, words alone."""

    def __init__(self, title: str, done: int = 0, total: int = 0, unit: str = ""):
        self._title, self._total, self._unit = title, total, unit
        self._last = time.monotonic()
        self._bar, self._is_shown = None, processes.is_first()
        if self._is_shown and sys.stderr.isatty():
            form = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}"
            form = form + "{postfix}]" if total else "{desc}{postfix}"
            self._bar = tqdm(
                initial=done,
                total=total or None,
                desc=title,
                bar_format=form,
                leave=bool(total),
                miniters=0,
            )

    def show(self, said: str, done: int = 0, more: str = "", at_once: bool = False) -> None:
        """`more` is for a line alone: a bar tells by itself what time is left."""
        now = time.monotonic()
        if self._bar is not None:
            self._bar.set_postfix_str(said, refresh=at_once)
            self._bar.update(max(0, done - self._bar.n))
        elif self._is_shown and (at_once or now - self._last >= _SECONDS_BETWEEN_LINES):
            self._last = now
            count = f"{done} of {self._total} {self._unit}, " if self._total else ""
            print(f"{self._title}: {count}{said}{more}", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class Training(Progress):
    """The trainer's progress: loss, rate, images or tokens a second, averaged over some 20 updates,
    and the seconds that are left; the first update, which compiles, left out."""

    def start(self, title: str, step: int, end: int, each: int, unit: str) -> None:
        self._display = Display(title, step, end, "updates")
        self._end, self._each, self._unit = end, each, unit
        self._seconds = self._last = 0.0
        self._step, self._first = step, (0.0, step)
        self._display.show("compiling", step, at_once=True)

    def update(self, step: int, loss: float, rate: float) -> None:
        now, last, updates = time.monotonic(), self._last, step - self._step
        self._last, self._step = now, step
        said, left = f"loss {loss:.4f}, rate {rate:.2e}", ""
        if not last:
            self._first = now, step
        else:
            taken, kept = (now - last) / updates, 0.95**updates
            self._seconds = kept * self._seconds + (1 - kept) * taken if self._seconds else taken
            said += f", {self._each / self._seconds:,.0f} {self._unit}/s"
            # By all that there were: one slow update says little of those that are left.
            begun, first = self._first
            left = f", {(self._end - step) * (now - begun) / (step - first):.0f} s left"
        self._display.show(said, step, left, at_once=step == self._end)

    def stop(self) -> None:
        self._display.close()
