"""Finished runs, read back from disk into tables with the right types.

pandas is imported where a table is made: what only writes runs never pays for it.
"""

import csv
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.tables import (
    AGGREGATE_COLUMNS,
    CURVE_COLUMNS,
    SUMMARY_COLUMNS,
    describe,
    is_config_column,
)

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
    rows, curves, directories, skipped = [], [], [], []
    read: dict[str, Path] = {}
    for directory in _run_directories([Path(path) for path in paths]):
        try:
            row, curve = _read_run(directory)
        except _Unfinished as why:
            skipped.append(Skipped(directory, why.state, why.reason))
            continue
        if row["run"] in read:
            # the same config, swept in two studies: counting it twice would
            # shrink every interval
            reason = f"the same run as {read[row['run']]}"
            skipped.append(Skipped(directory, "repeated", reason))
            continue
        read[row["run"]] = directory
        rows.append(row)
        curves.append(curve)
        directories.append(directory)
    if not rows:
        raise InputError(_nothing_finished(paths, skipped))

    import pandas as pd

    return Runs(
        _typed(rows), pd.concat(curves, ignore_index=True), directories, skipped
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


def varying_columns(summaries: "pd.DataFrame") -> list[str]:
    """The config columns in which runs differ; having no value is a value."""
    return [
        column
        for column in summaries.columns
        if is_config_column(column) and len(summaries[[column]].drop_duplicates()) > 1
    ]


def key_columns(summaries: "pd.DataFrame", first: Iterable[str] = ()) -> list[str]:
    """As few of the varying columns as tell apart what all of them tell apart.

    Args:
        summaries: one row per run.
        first: columns to take before any other, such as the x of a figure.
    """
    first = list(first)
    varying = [column for column in varying_columns(summaries) if column not in first]
    varying.sort(key=lambda column: not column.endswith(".name"))  # stable
    keys, n_groups = [], 1
    for column in first + varying:
        n = len(summaries[[*keys, column]].drop_duplicates())
        if n > n_groups or column in first:
            keys, n_groups = [*keys, column], n
    return keys


def groups(
    frame: "pd.DataFrame", by: list[str]
) -> Iterator[tuple[tuple[Any, ...], "pd.DataFrame"]]:
    """The rows that agree in the columns `by`, in their order; `None` is no value."""
    import pandas as pd

    if not by:
        yield (), frame
        return
    values: Any
    for values, group in frame.groupby(by, dropna=False, sort=True):
        yield tuple(None if bool(pd.isna(v)) else v for v in values), group


def aggregate(summaries: "pd.DataFrame") -> "pd.DataFrame":
    """Mean and 95 % t-interval over seeds of everything measured, one row per metric.

    Args:
        summaries: one row per run.

    Returns:
        the config columns that vary between runs, then `AGGREGATE_COLUMNS`. A metric
        that a group of runs lacks has no row; one seed has no std and no interval.
    """
    import numpy as np
    import pandas as pd
    from scipy import stats

    by = varying_columns(summaries)
    rows = []
    for values, group in groups(summaries, by):
        for metric in measured_columns(summaries):
            sample = group[metric].dropna().to_numpy(float)
            n = len(sample)
            if n == 0:
                continue
            with np.errstate(invalid="ignore"):  # a diverged run is infinite
                mean = sample.mean()
                std = sample.std(ddof=1) if n > 1 else np.nan
                half = stats.t.ppf(0.975, n - 1) * std / np.sqrt(n) if n > 1 else np.nan
                rows.append((*values, metric, n, mean, std, mean - half, mean + half))
    table = pd.DataFrame(rows, columns=[*by, *AGGREGATE_COLUMNS])
    return table.astype({column: summaries[column].dtype for column in by})


def measured_columns(summaries: "pd.DataFrame") -> list[str]:
    """The numeric columns that a run measured: no ids and no config values."""
    from pandas.api.types import is_numeric_dtype

    return [
        column
        for column in summaries.columns
        if column not in ("run", "seed")
        and not is_config_column(column)
        and is_numeric_dtype(summaries[column])
    ]


class _Unfinished(Exception):
    """A run directory without finished tables."""

    def __init__(self, state: str, reason: str):
        self.state, self.reason = state, reason


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
        for path, names, files in os.walk(root):
            directory = Path(path)
            if _is_run(directory.resolve().name) or "status.json" in files:
                names.clear()
                if directory.resolve() not in seen:
                    seen.add(directory.resolve())
                    yield directory
            # half-written runs, tables and figures
            names[:] = sorted(name for name in names if name[0] not in "_.")


def _is_run(name: str) -> bool:
    return re.fullmatch(r"r[0-9a-f]{12}", name) is not None


def _read_run(directory: Path) -> tuple[dict[str, str], "pd.DataFrame"]:
    """One finished run: its summary as text by column, its curves."""
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
    return row, _read_curves(directory)


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


def _read_curves(directory: Path) -> "pd.DataFrame":
    import pandas as pd

    numbers = [n for n, column in CURVE_COLUMNS.items() if column.dtype == "float64"]
    try:
        table = pd.read_csv(
            directory / "curves.csv",
            usecols=list(CURVE_COLUMNS),
            dtype={name: column.dtype for name, column in CURVE_COLUMNS.items()},
            # a kernel named "NA" is text
            keep_default_na=False,
            na_values={name: ["", "nan", "NaN"] for name in numbers},
        )
    except (OSError, ValueError) as error:
        raise _Unfinished("incomplete", _cannot_read("curves.csv", error)) from error
    return table.reindex(columns=list(CURVE_COLUMNS))


def _cannot_read(name: str, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{name} is missing"
    return f"{name} cannot be read: {type(error).__name__}: {error}"


def _typed(rows: list[dict[str, str]]) -> "pd.DataFrame":
    """Summaries as text, with a type for each column; an empty cell is no value."""
    import pandas as pd

    columns = list(dict.fromkeys(name for row in rows for name in row))
    columns.sort(key=_place)
    table = {}
    for name in columns:
        cells = [row.get(name) or None for row in rows]
        table[name] = pd.Series(_parsed(cells, _dtype(name)))
    return pd.DataFrame(table)


def _place(column: str) -> int:
    """Ids, config values, scalars, metrics: the runs differ in which they have."""
    if column in ("run", "seed"):
        return 0
    return 1 if is_config_column(column) else 2 if column in SUMMARY_COLUMNS else 3


def _dtype(column: str) -> str:
    try:
        return describe(column).dtype
    except ValueError:  # of a newer version
        return "infer"


def _parsed(cells: list[str | None], dtype: str) -> Any:
    """The cells as an array of this dtype, or of the narrowest that holds them all."""
    import pandas as pd

    present = [cell for cell in cells if cell is not None]
    gaps = len(present) < len(cells)

    def array(parse, plain: str, nullable: str) -> Any:
        values = [None if cell is None else parse(cell) for cell in cells]
        return pd.array(values, dtype=nullable if gaps else plain)  # type: ignore

    if dtype == "infer" and present and {*present} <= _BOOLEANS.keys():
        return array(_BOOLEANS.__getitem__, "bool", "boolean")
    if dtype in ("infer", "int64") and all(map(_INTEGER.fullmatch, present)):
        return array(int, "int64", "Int64")
    if dtype in ("infer", "int64", "float64") and all(map(_NUMBER.fullmatch, present)):
        numbers = [float("nan") if cell is None else float(cell) for cell in cells]
        return pd.Series(numbers, dtype="float64")
    return pd.array(cells, dtype="str")  # type: ignore


_BOOLEANS: Mapping[str, bool] = {
    "True": True, "False": False, "true": True, "false": False,
}  # fmt: skip
_INTEGER = re.compile(r"[+-]?\d{1,18}")
_NUMBER = re.compile(
    r"[+-]?(\d+\.?\d*(e[+-]?\d+)?|\.\d+(e[+-]?\d+)?|inf|nan)", re.IGNORECASE
)


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
