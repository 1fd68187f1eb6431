"""What one sees while a run trains: a bar on a terminal, a line every so often elsewhere."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from wsdjax.trainer import Progress

SECONDS_BETWEEN_LINES = 10.0


def progress() -> Progress:
    return Bar() if sys.stderr.isatty() else Lines()


class Bar(Progress):
    """Step of how many, time left, loss, rate, and images or tokens a second."""

    def start(self, title: str, step: int, end: int, each: int, unit: str) -> None:
        self._bar = tqdm(
            total=end,
            initial=step,
            desc=title,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} "
            "[{elapsed}<{remaining}{postfix}]",
        )
        self._speed = _Speed(each, unit)
        self._bar.set_postfix_str("compiling")

    def update(self, step: int, loss: float, rate: float) -> None:
        self._bar.set_postfix_str(_line(loss, rate, self._speed.lap()), refresh=False)
        self._bar.update()

    def stop(self) -> None:
        self._bar.close()


class Lines(Progress):
    def start(self, title: str, step: int, end: int, each: int, unit: str) -> None:
        self._title, self._end = title, end
        self._speed = _Speed(each, unit)
        self._last = time.monotonic()
        print(f"{title}: updates {step + 1} to {end}, compiling", file=sys.stderr, flush=True)

    def update(self, step: int, loss: float, rate: float) -> None:
        speed = self._speed.lap()
        now = time.monotonic()
        if now - self._last < SECONDS_BETWEEN_LINES and step < self._end:
            return
        self._last = now
        line = f"{self._title}: update {step} of {self._end}, {_line(loss, rate, speed)}"
        if speed:
            line += f", {(self._end - step) * self._speed.seconds:.0f} s left"
        print(line, file=sys.stderr, flush=True)


class _Speed:
    """Seconds an update, averaged over some 20; the first, which compiles, left out."""

    def __init__(self, each: int, unit: str):
        self._each, self._unit = each, unit
        self.seconds, self._last = 0.0, 0.0

    def lap(self) -> str:
        """Images or tokens a second; empty until two updates are done."""
        now, last = time.monotonic(), self._last
        self._last = now
        if last:
            taken = now - last
            self.seconds = 0.95 * self.seconds + 0.05 * taken if self.seconds else taken
        return f"{self._each / self.seconds:,.0f} {self._unit}/s" if self.seconds else ""


def _line(loss: float, rate: float, speed: str) -> str:
    return f"loss {loss:.4f}, rate {rate:.2e}" + (f", {speed}" if speed else "")
