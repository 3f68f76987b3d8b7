"""Progress of long computations: lines on stderr, or the caller's own function."""

import sys
import time
from collections.abc import Callable

from ._types import Progress

_SECONDS_BETWEEN_LINES = 2.0


def reporter(
    progress: Progress, what: str, unit: str = "blocks"
) -> Callable[[int, int], object]:
    """A function of (done, total); prints at most every two seconds and at the end."""
    if callable(progress):
        return progress
    if not progress:
        return lambda done, total: None
    start = time.monotonic()
    last = start

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _SECONDS_BETWEEN_LINES and done < total:
            return
        last = now
        left = (now - start) / done * (total - done)
        print(
            f"{what}: {done} of {total} {unit}, {now - start:.0f} s, {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )

    return report
