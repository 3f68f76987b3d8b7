"""What a person sees while something long runs."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.progress import Record

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


class SweepProgress:
    """How a sweep goes on, below what its jobs print."""

    def line(self, text: str) -> None:
        """Print what a job said."""
        print(text, flush=True)

    def update(self) -> None:
        """Look again where the sweep is, if it has been a while."""


@contextmanager
def sweep_progress(record: "Record | None") -> Iterator[SweepProgress]:
    """A line that stays at the bottom of a terminal; elsewhere the jobs' lines alone.

    Args:
        record: of the sweep; `None` where there is nothing to count.
    """
    if record is None or not sys.stdout.isatty():
        yield SweepProgress()
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(), transient=True, refresh_per_second=4) as live:
        yield _Live(record, live)


class _Live(SweepProgress):
    def __init__(self, record: "Record", live: Any):
        self._record, self._live, self._next = record, live, 0.0

    def line(self, text: str) -> None:
        self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def update(self) -> None:
        from rich.spinner import Spinner

        from experiments.progress import Survey

        now = time.monotonic()
        if now >= self._next:
            self._live.update(Spinner("dots", Survey(self._record).line))
            # looking at a thousand runs takes a moment
            self._next = now + max(1.0, 20 * (time.monotonic() - now))


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
