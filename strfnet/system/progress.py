"""How far a long piece of work is, told on stderr: what is done, how fast, and the time that is left."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Tell = Callable[[int, int], None]  # tracklets and frames that are done in addition


@contextmanager
def counting(total: int, *, before: int = 0, whose: str = "", shown: bool = True) -> Iterator[Tell]:
    """Tells how many tracklets are done: one line rewritten on a terminal, else one every 10 s and the last.

    Speeds, of tracklets and of frames, are those since the start; the time left is what remains at that speed.

    Args:
        total: tracklets.
        before: how many of them were done by an earlier process, and count for no speed.
        whose: words before the count, if the work is a part of something.
        shown: whether to tell anything.
    """
    began = told = time.monotonic()
    terminal = shown and sys.stderr.isatty()
    done, frames = before, 0

    def tell(more: int, more_frames: int) -> None:
        nonlocal done, frames, told
        done, frames = done + more, frames + more_frames
        now = time.monotonic()
        if shown and (terminal or done == total or now - told > 10):
            told = now
            seconds = max(now - began, 1e-9)
            rate = (done - before) / seconds
            left = _duration((total - done) / rate) if rate else "unknown time"
            speed = f"{rate:.1f} tracklets/s, {frames / seconds:.1f} frames/s"
            text = f"{whose}{done} of {total} tracklets embedded, {speed}, {left} left"
            print(f"\r{text:<100}" if terminal else text, end="" if terminal else "\n", file=sys.stderr, flush=True)

    try:
        yield tell
    finally:
        if terminal:
            print(file=sys.stderr)


def _duration(seconds: float) -> str:
    """The two largest units: 40 s, 12 min 5 s, 3 h 7 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
