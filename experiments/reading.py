"""Finished runs, read back from disk into tables with the right types.

pandas is imported where a table is made: what only writes runs never pays for it.
"""

import csv
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from experiments import parsing

if TYPE_CHECKING:
    import pandas as pd


class InputError(ValueError):
    """A request that the runs on disk cannot answer; its text is for the user."""


class Skipped(NamedTuple):
    """A run directory that is in no table, and why."""

    directory: Path
    state: str  # "failed", "incomplete" or "repeated"
    reason: str


class Runs(NamedTuple):
    """Finished runs: one row of `summaries` and many of `curves` each."""

    summaries: "pd.DataFrame"
    curves: "pd.DataFrame"
    directories: list[Path]  # in the order of the rows of `summaries`
    skipped: list[Skipped]


def load_runs(*paths: str | os.PathLike) -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """All finished runs at or below some directories, as two tables with right types.

    Args:
        paths: run directories, study directories, or directories of studies.

    Returns:
        summaries, one row per run, and curves, one row per measurement. Integer columns
        that some runs lack are `Int64`; text never turns into a number or a NaN.

    Raises:
        InputError: if a path is no directory, or no finished run lies below them.

    Says on stderr which run directories were skipped, and why.
    """
    runs = read_runs(*paths)
    for line in skipped_lines(runs.skipped):
        print(line, file=sys.stderr)
    return runs.summaries, runs.curves


def read_runs(*paths: str | os.PathLike) -> Runs:
    """As `load_runs`, but with the directories read and those skipped, silently."""
    found: dict[str, _Finished] = {}
    skipped = []
    for directory in _run_directories([Path(path) for path in paths]):
        try:
            run = _read_run(directory)
        except _Unfinished as why:
            skipped.append(Skipped(directory, why.state, why.reason))
            continue
        name = run.summary["run"]
        if name in found:
            # the same config, swept in two studies: counting it twice would
            # shrink every interval
            reason = f"the same run as {found[name].directory}"
            skipped.append(Skipped(directory, "repeated", reason))
        else:
            found[name] = run
    runs, curves = _with_curves(list(found.values()), skipped)
    if not runs:
        raise InputError(_nothing_finished(paths, skipped))
    return Runs(
        parsing.summaries([run.summary for run in runs]),
        curves,
        [run.directory for run in runs],
        skipped,
    )


def skipped_lines(skipped: list[Skipped], at_most: int = 5) -> list[str]:
    """Lines of text that say which run directories were skipped, and why."""
    if not skipped:
        return []
    lines = [f"Skipped {_count(skipped)}:"]
    lines += [f"  {run.directory}: {run.reason}" for run in skipped[:at_most]]
    if len(skipped) > at_most:
        lines.append(f"  and {len(skipped) - at_most} more")
    return lines


class _Unfinished(Exception):
    """A run directory without finished tables."""

    def __init__(self, state: str, reason: str):
        self.state, self.reason = state, reason


class _Finished(NamedTuple):
    directory: Path
    summary: dict[str, str]  # text by column
    curves: str  # the text of `curves.csv`


def _run_directories(roots: list[Path]) -> Iterator[Path]:
    """Each run directory at or below the roots once, in the order of their paths."""
    seen = set()
    for root in roots:
        if not root.is_dir():
            what = "is a file" if root.exists() else "does not exist"
            raise InputError(
                f"`{root}` {what}. Give the directory of a study, e.g. "
                "`outputs/default`, or `outputs` for all of them; "
                "`python -m experiments.run` makes a run."
            )
        absolute = str(root.resolve())
        for path, names, files in os.walk(root):
            real = os.path.normpath(absolute + path.removeprefix(str(root)))
            if _is_run(os.path.basename(real)) or "status.json" in files:
                names.clear()
                if real not in seen:
                    seen.add(real)
                    yield Path(path)
            # half-written runs, tables and figures
            names[:] = sorted(name for name in names if name[0] not in "_.")


def _is_run(name: str) -> bool:
    return re.fullmatch(r"r[0-9a-f]{12}", name) is not None


def _read_run(directory: Path) -> _Finished:
    status = _status(directory)
    if status != "DONE":
        state = "failed" if status == "FAILED" else "incomplete"
        raise _Unfinished(state, _last_error(directory) or f"its status is {status}")
    try:
        with open(directory / "summary.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise _Unfinished("incomplete", _cannot_read("summary.csv", error)) from error
    if len(rows) != 1:
        reason = f"summary.csv has {len(rows)} rows, not one"
        raise _Unfinished("incomplete", reason)
    row = rows[0]
    # csv fills a cut row with None and collects surplus cells under the key None
    if None in row or None in row.values() or not {"run", "seed"} <= row.keys():
        raise _Unfinished("incomplete", "summary.csv is cut short or lacks run, seed")
    try:
        # newlines as they are: one that is missing tells of a file cut short
        with open(directory / "curves.csv", newline="", encoding="utf-8") as file:
            return _Finished(directory, row, file.read())
    except (OSError, ValueError) as error:
        raise _Unfinished("incomplete", _cannot_read("curves.csv", error)) from error


def _with_curves(
    runs: list[_Finished], skipped: list[Skipped]
) -> tuple[list[_Finished], "pd.DataFrame"]:
    """The runs whose curves can be read, and those curves in one table."""
    try:
        return runs, parsing.curves([run.curves for run in runs])
    except ValueError:  # somewhere: find out where
        readable = []
        for run in runs:
            try:
                parsing.curves([run.curves])
                readable.append(run)
            except ValueError as error:
                reason = _cannot_read("curves.csv", error)
                skipped.append(Skipped(run.directory, "incomplete", reason))
    return readable, parsing.curves([run.curves for run in readable])


def _status(directory: Path) -> str:
    try:
        text = (directory / "status.json").read_text(encoding="utf-8")
        return str(json.loads(text)["status"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _Unfinished("incomplete", _cannot_read("status.json", error)) from error


def _last_error(directory: Path) -> str:
    """The last line of `error.txt`, where a traceback names its error."""
    path = directory / "error.txt"
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"failed, see {path.name}: {last[:120]}"


def _cannot_read(name: str, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{name} is missing"
    return f"{name} cannot be read: {type(error).__name__}: {error}"


def _nothing_finished(paths: Iterable, skipped: list[Skipped]) -> str:
    where = ", ".join(f"`{path}`" for path in paths)
    if not skipped:
        return (
            f"There are no runs in {where}: no directory named r and 12 hexadecimal "
            "digits. Give the directory that `experiments.run` wrote to, e.g. "
            "`outputs/default`; `python -m experiments.run` makes a run."
        )
    first = skipped[0]
    error = first.directory / "error.txt"
    see = error if error.exists() else first.directory
    return (
        f"No run in {where} is finished: found {_count(skipped)}. The first is "
        f"{see}: {first.reason}. Remove the cause and give the command of the runs "
        "again; it repeats those that are not finished."
    )


def _count(skipped: list[Skipped]) -> str:
    by_state = Counter(run.state for run in skipped)
    return ", ".join(
        f"{n} {state} run{'s' if n > 1 else ''}" for state, n in by_state.items()
    )
