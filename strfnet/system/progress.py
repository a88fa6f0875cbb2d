"""Lines on stderr: what happens, and progress, with the speed and the time left. Work goes on without a reader."""

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress

Advance = Callable[[int, int], None]  # called with the items and the parts, such as frames, that are newly done


def inform(text: str, end: str = "\n") -> None:
    """Write a line on stderr. Once its reader has left, or the terminal is closed, stderr leads to nowhere."""
    if sys.stderr is None:  # in a daemon
        return
    try:
        print(text, end=end, file=sys.stderr, flush=True)
    except (OSError, ValueError):  # the latter if a program has closed the file itself
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stderr.fileno())
            os.close(nowhere)


class ProgressLine:
    """A line such as ``12 of 40 batches trained, 1.5 batches/s, 48.2 images/s, 19 s left``.

    A terminal shows one line that is rewritten; elsewhere a line is written every 10 s, and the last one. Speeds are
    means since the start, and the time left is what remains at that speed.

    Args:
        total: the number of items. It may be changed.
        items: what is counted and what happens to it, e.g. "tracklets embedded".
        parts: what the second speed counts, e.g. "frames".
        done: items that an earlier process has done. They do not count for the speed.
        label: text before the count.
        shown: whether to write anything.
    """

    def __init__(
        self, total: int, items: str, parts: str, *, done: int = 0, label: str = "", shown: bool = True
    ) -> None:
        self.total, self.done = total, done
        self._items, self._parts, self._label, self._shown = items, parts, label, shown
        self._before, self._count_of_parts = done, 0
        self._start = self._written = time.monotonic()
        self._terminal = shown and sys.stderr is not None and sys.stderr.isatty()

    def advance(self, items: int, parts: int, note: str = "") -> None:
        """Count what is newly done, and write the line if it is due, with a note at its end."""
        self.done, self._count_of_parts = self.done + items, self._count_of_parts + parts
        now = time.monotonic()
        if not self._shown or not (self._terminal or self.done == self.total or now - self._written > 10):
            return
        self._written, seconds = now, max(now - self._start, 1e-9)
        rate = (self.done - self._before) / seconds
        left = _duration((self.total - self.done) / rate) if rate else "unknown time"
        speed = f"{rate:.1f} {self._items.split()[0]}/s, {self._count_of_parts / seconds:.1f} {self._parts}/s"
        text = f"{self._label}{self.done} of {self.total} {self._items}, {speed}, {left} left{note}"
        inform(f"\r{text:<100}" if self._terminal else f"{text}\n", end="")

    def __enter__(self) -> "ProgressLine":
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal:
            inform("")


def _duration(seconds: float) -> str:
    """The two largest units: 40 s, 12 min 5 s, 3 h 7 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
