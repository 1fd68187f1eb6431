"""What one sees while a run trains: a bar on a terminal, a line every so often elsewhere."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from wsdjax.train import Progress

SECONDS_BETWEEN_LINES = 10.0


def progress() -> Progress:
    return Bar() if sys.stderr.isatty() else Lines()


class Bar:
    """Step of how many, time left, images a second, loss and rate."""

    def start(self, title: str, step: int, end: int, examples_per_step: int) -> None:
        self._bar = tqdm(
            total=end,
            initial=step,
            desc=title,
            unit="image",
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} "
            "[{elapsed}<{remaining}{postfix}]",
        )
        self._speed = _Speed(examples_per_step)
        self._bar.set_postfix_str("compiling")

    def update(self, step: int, loss: float, rate: float) -> None:
        self._bar.set_postfix_str(_line(loss, rate, self._speed.images_per_second()), refresh=False)
        self._bar.update()

    def stop(self) -> None:
        self._bar.close()


class Lines:
    def start(self, title: str, step: int, end: int, examples_per_step: int) -> None:
        self._title, self._end, self._images = title, end, examples_per_step
        self._speed = _Speed(examples_per_step)
        self._last = time.monotonic()
        print(f"{title}: updates {step + 1} to {end}, compiling", file=sys.stderr, flush=True)

    def update(self, step: int, loss: float, rate: float) -> None:
        speed = self._speed.images_per_second()
        now = time.monotonic()
        if now - self._last < SECONDS_BETWEEN_LINES and step < self._end:
            return
        self._last = now
        line = f"{self._title}: update {step} of {self._end}, {_line(loss, rate, speed)}"
        if speed:
            left = (self._end - step) * self._images / speed
            line += f", {left:.0f} s left"
        print(line, file=sys.stderr, flush=True)

    def stop(self) -> None:
        pass


class _Speed:
    """Images a second, averaged over some 20 updates; the first, which compiles, left out."""

    def __init__(self, examples_per_step: int):
        self._images, self._seconds, self._last = examples_per_step, 0.0, 0.0

    def images_per_second(self) -> float:
        now, last = time.monotonic(), self._last
        self._last = now
        if last:
            taken = now - last
            self._seconds = 0.95 * self._seconds + 0.05 * taken if self._seconds else taken
        return self._images / self._seconds if self._seconds else 0.0


def _line(loss: float, rate: float, speed: float) -> str:
    return f"loss {loss:.4f}, rate {rate:.2e}" + (f", {speed:,.0f} images/s" if speed else "")
