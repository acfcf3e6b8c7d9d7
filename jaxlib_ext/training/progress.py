"""One line on how a run goes: step, losses, tokens a second, share of the device's peak, time left."""

import math
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from .distributed import is_lead

REDRAW = 0.2  # seconds between two drawings on a terminal
POINTS = 256  # remembered (time, step) pairs
UNITS = ("", "k", "M", "B", "T", "Q")


def human_count(n: float) -> str:
    """A count in three digits.

    >>> [human_count(n) for n in (7, 999, 1000, 12_345, 999_999, 4.2e9)]
    ['7', '999', '1k', '12.3k', '1M', '4.2B']
    """
    if not math.isfinite(n):
        return str(n)
    for i, unit in enumerate(UNITS):
        scaled = n / 1000**i
        if abs(float(f"{scaled:.3g}")) < 1000 or unit == UNITS[-1]:
            return f"{float(f'{scaled:.3g}'):g}{unit}"
    raise AssertionError


def human_time(seconds: float) -> str:
    """A duration in its two largest units.

    >>> [human_time(s) for s in (0.25, 42, 192, 3600, 100_000)]
    ['0.2 s', '42 s', '3 min 12 s', '1 h 00 min', '1 d 4 h']
    """
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 9.95:
        return f"{max(seconds, 0):.1f} s"
    seconds = round(seconds)
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{hours // 24} d {hours % 24} h"


class Rate:
    """Steps a second over at least the later half of the time and of the steps since the first one.

    The first step compiles and is not counted. Evaluations and saves are, since the rest of the run has them
    too. A pause that happened once is forgotten when half of the time and of the steps lie behind it.
    """

    def __init__(self):
        self._points: list[tuple[float, int]] = []

    def add(self, now: float, step: int) -> None:
        """now: seconds on any clock. step: the last step that is finished."""
        if not self._points or step > self._points[-1][1]:
            self._points.append((now, step))
        if len(self._points) > POINTS:
            self._points = self._points[::2]

    def value(self, now: float) -> float:
        """0 until two steps are known."""
        if len(self._points) < 2:
            return 0.0
        (zero, none), (end, last) = self._points[0], self._points[-1]
        half_time, half_steps = (zero + now) / 2, (none + last) / 2
        begin, first = [(t, n) for t, n in self._points if t <= half_time and n <= half_steps][-1]
        return (last - first) / (end - begin) if end > begin else 0.0


class Progress:
    """The line of a run, on standard error: rewritten in place on a terminal, else printed once in a while.

    total_steps: of the whole run. tokens: trained on in a step. flops: floating-point operations of a step,
    and peak: of all devices in a second, for the share of the peak. start: the step from which the run goes
    on. silent: None means every process but the first. interval: seconds between lines where it is no
    terminal.

    >>> with Progress(10, silent=True) as progress:
    ...     progress.update(1, loss=2.5)
    """

    def __init__(
        self,
        total_steps: int,
        *,
        tokens: float = 0,
        flops: float = 0.0,
        peak: float = 0.0,
        start: int = 0,
        silent: bool | None = None,
        interval: float = 30.0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total, self.tokens, self.flops, self.peak = total_steps, tokens, flops, peak
        self.step = start
        self._stream, self._clock = stream or sys.stderr, clock
        self._silent = not is_lead() if silent is None else silent
        self._terminal = self._stream.isatty()
        self._interval = REDRAW if self._terminal else interval
        self._fields: dict[str, Any] = {}
        self._rate = Rate()
        self._drawn, self._width = -math.inf, 0  # when, and how many characters of the terminal's line
        self._shown: Any = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    @property
    def rate(self) -> float:
        """Steps a second, without the first; 0 until two are known."""
        return self._rate.value(self._clock())

    @property
    def left(self) -> float:
        """Seconds until the last step; infinite while no rate is known."""
        return (self.total - self.step) / self.rate if self.rate else math.inf

    def update(self, step: int, **fields: Any) -> None:
        """Takes note of a finished step and of figures to show; a figure stays until a newer one comes."""
        self.step = step
        self._fields |= fields
        now = self._clock()
        self._rate.add(now, step)
        if not self._silent and now - self._drawn >= self._interval:
            self._draw(now)

    def close(self) -> None:
        """Shows where the run has come to and ends the line."""
        if self._silent:
            return
        if self._shown is not None:
            self._draw(self._clock())
            if self._terminal:
                self._stream.write("\n")
                self._stream.flush()
        self._silent = True

    def line(self) -> str:
        """The text that is shown."""
        parts = [f"step {self.step}/{self.total}"]
        parts += [f"{name.replace('_', ' ')} {_number(value)}" for name, value in self._fields.items()]
        rate = self.rate
        if rate:
            if self.tokens:
                parts.append(f"{human_count(rate * self.tokens)} tokens/s")
            if self.flops and self.peak:
                parts.append(f"{100 * rate * self.flops / self.peak:.3g}% of peak")
            if self.step < self.total:
                parts.append(f"{human_time(self.left)} left")
        return "  ".join(parts)

    def _draw(self, now: float) -> None:
        self._drawn, text = now, self.line()
        if self._terminal:
            text = text[: shutil.get_terminal_size().columns - 1]
            self._stream.write("\r" + text.ljust(self._width))
            self._width = len(text)
        elif self._shown != (self.step, self._fields):
            self._stream.write(text + "\n")
        self._shown = (self.step, dict(self._fields))
        self._stream.flush()


def _number(value: Any) -> str:
    if isinstance(value, str | int):
        return str(value)
    return f"{float(value):.4g}"
