"""What a person sees while something long runs."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SECONDS_BEFORE_A_LINE = 4.0


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A function of (done, total): a bar on a terminal, lines on stderr elsewhere.

    What takes less than a few seconds prints no lines.
    """
    if not sys.stderr.isatty():
        yield _Lines(what)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("  {task.description}"), BarColumn(),
        TextColumn("{task.completed}/{task.total}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Lines:
    """One line every few seconds."""

    def __init__(self, what: str):
        self._what = what
        self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last >= _SECONDS_BEFORE_A_LINE:
            self._last = now
            print(f"  {self._what}: {done} of {total}", file=sys.stderr, flush=True)
