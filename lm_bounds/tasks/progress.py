"""How far a run is: a bar on a terminal, a few lines in a file."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from lm_bounds.passes import Progress

_LINE_EVERY = 30.0  # seconds


def progress_report(note: str = "") -> Progress:
    """A report on standard error, for each thing that is done on its own.

    The first report of a thing starts its clock: one of 0 windows makes the estimate that comes after the first batch
    count that batch.

    Args:
        note: what stands behind the name of each thing.
    """
    return _bars(note) if sys.stderr.isatty() else progress_lines(note)


def progress_lines(note: str = "", clock: Callable[[], float] = time.monotonic) -> Progress:
    """A line as soon as the time that is left can be estimated, one every half minute, and one at the end.

    Args:
        note: what stands behind the name of each thing.
        clock: seconds since whenever.
    """
    beginnings: dict[str, tuple[int, float]] = {}
    last_lines: dict[str, float] = {}

    def report(what: str, done: int, total: int) -> None:
        now = clock()
        first, began = beginnings.setdefault(what, (done, now))
        due = done > first and now - last_lines.get(what, -math.inf) >= _LINE_EVERY
        if due or done == total:
            last_lines[what] = now
            print(progress_line(what + note, done, total, now - began, first), file=sys.stderr, flush=True)

    return report


def progress_line(what: str, done: int, total: int, seconds: float, first: int = 0) -> str:
    """How far something is, and how long it will take or took.

    Args:
        what: is done.
        done: windows.
        total: windows.
        seconds: since ``first`` windows were done.
        first: windows, at most ``done``; where it is not 0, the time of those windows is estimated as well.

    >>> progress_line("scoring the pilot", 16, 100, 7.5)
    'scoring the pilot: 16 of 100 windows, about 40 s left'
    >>> progress_line("scoring the pilot", 100, 100, 47.2)
    'scoring the pilot: 100 of 100 windows in 48 s'
    """
    shown = f"{what}: {done} of {total} windows"
    if done == first:
        return shown
    per_window = seconds / (done - first)
    if done == total:
        return f"{shown} in {_duration(total * per_window)}"
    return f"{shown}, about {_duration((total - done) * per_window)} left"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{max(1, math.ceil(seconds))} s"
    if seconds < 6000:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def _bars(note: str) -> Progress:
    shown: dict[str, tqdm[Any]] = {}

    def report(what: str, done: int, total: int) -> None:
        if what not in shown:
            shown[what] = tqdm(total=total, initial=done, desc=what + note, unit="window", miniters=1, file=sys.stderr)
        bar = shown[what]
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return report
