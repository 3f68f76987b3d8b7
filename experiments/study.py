"""A study read back: its runs, what they were asked, and the tables that answer it."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from experiments import declaration
from experiments.grouping import (
    aggregate,
    is_number,
    n_distinct,
    varying_columns,
)
from experiments.question import AnalysisConfig
from experiments.reading import InputError, Runs, read_runs, skipped_lines
from experiments.slopes import fittable_columns, scaling_table
from experiments.tables import SLOPE_COLUMNS, is_config_column
from experiments.verdicts import verdict_table

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Study:
    """Runs and their question, and the tables over them."""

    path: Path
    runs: Runs
    asked: AnalysisConfig  # with the x in use
    aggregate: "pd.DataFrame"
    slopes: "pd.DataFrame"  # without rows when nothing numeric was swept
    verdicts: "pd.DataFrame"  # without rows when nothing was expected
    notes: list[str]  # what a reader of the tables should know

    @property
    def tables(self) -> "dict[str, pd.DataFrame]":
        """All tables, by the names of their files."""
        return {
            "runs": self.runs.summaries,
            "curves": self.runs.curves,
            "aggregate": self.aggregate,
            "slopes": self.slopes,
            "verdicts": self.verdicts,
        }

    @property
    def slopes_matter(self) -> bool:
        """Whether power laws were looked for: expected, or nothing else was."""
        expect = self.asked.expect.values()
        return len(self.slopes) > 0 and (
            not expect or any(e.slope is not None for e in expect)
        )


def read_study(
    path: str | os.PathLike,
    x: str | None = None,
    x_from: float | None = None,
    declared: AnalysisConfig | None = None,
) -> Study:
    """Read the runs below a directory and answer what they were asked.

    Args:
        path: the directory of a study, or of several.
        x: the summary column that slopes and figures go along; `None` takes the one
            declared, or else the only number swept over three values.
        x_from: where laws are expected to hold from; `None` takes the value declared.
        declared: what was asked; `None` takes what the study's directory or its runs
            say.

    Raises:
        InputError: if there is no finished run, or nothing varies along x.
    """
    import pandas as pd

    runs = read_runs(path)
    notes: list[str] = []
    if declared is None:
        declared, notes = declaration.read(runs.directories)
    notes += skipped_lines(runs.skipped)
    asked, more = _asked(runs.summaries, declared, x, x_from)
    slopes = pd.DataFrame(columns=list(SLOPE_COLUMNS))
    if asked.x in _numeric_columns(runs.summaries):
        expected = [e.metric for e in asked.expect.values() if e.slope is not None]
        metrics = [*expected, *fittable_columns(runs.summaries)]
        slopes = scaling_table(runs.summaries, asked.x, asked.x_from, metrics)
    return Study(
        path=Path(path),
        runs=runs,
        asked=asked,
        aggregate=aggregate(runs.summaries),
        slopes=slopes,
        verdicts=verdict_table(runs.summaries, asked),
        notes=[*notes, *more],
    )


def _asked(
    summaries: "pd.DataFrame",
    declared: AnalysisConfig,
    x: str | None,
    x_from: float | None,
) -> tuple[AnalysisConfig, list[str]]:
    """What was declared, with what the user says instead."""
    chosen, notes = _chosen_x(summaries, x, declared.x)
    if x is not None and x != declared.x:
        if declared.expect:
            notes.append(
                f"No verdicts: the study declares its expectations along {declared.x}."
            )
        return dataclasses.replace(declared, x=chosen, x_from=x_from, expect={}), notes
    if x_from is not None and x_from != declared.x_from:
        if declared.expect:
            start = "all x" if declared.x_from is None else f"{declared.x_from:g} up"
            notes.append(
                f"The expectations were declared for {start}, not from {x_from:g} up."
            )
        declared = dataclasses.replace(declared, x_from=x_from)
    return dataclasses.replace(declared, x=chosen), notes


def _chosen_x(
    summaries: "pd.DataFrame", x: str | None, declared: str | None
) -> tuple[str | None, list[str]]:
    """The column to go along; where there is none, notes that say why."""
    numbers = _numeric_columns(summaries)
    if x is not None and x not in numbers:
        raise InputError(_no_such_x(x, numbers, summaries))
    if x is not None or declared in varying_columns(summaries):
        return x or declared, []
    if declared is not None:
        if declared in numbers:
            return declared, []
        return declared, [f"No slopes: {declared} does not vary between these runs."]
    long = [name for name, n in numbers.items() if n >= 3 and is_config_column(name)]
    if len(long) == 1:
        return long[0], []
    if [name for name in numbers if is_config_column(name)]:
        return None, [f"No slopes: name the x with --x, one of {', '.join(numbers)}."]
    return None, []


def _numeric_columns(summaries: "pd.DataFrame") -> dict[str, int]:
    """The numbers swept, each with how many values it takes."""
    columns = [*varying_columns(summaries), "n_params"]
    return {
        column: n
        for column in columns
        if column in summaries
        and is_number(summaries, column)
        and (n := n_distinct(summaries, column)) > 1
    }


def _no_such_x(x: str, numbers: dict[str, int], summaries: "pd.DataFrame") -> str:
    if x not in summaries:
        what = "is no column of these runs"
    elif len(summaries[[x]].drop_duplicates()) == 1:
        what = f"is {summaries[x].iloc[0]} in all of these runs"
    else:
        what = "is no number that was swept"
    if numbers:
        return f"--x {x} {what}. Numbers that vary: {', '.join(numbers)}."
    return (
        f"--x {x} {what}, and no other number varies. Leave --x out, or run a sweep, "
        "e.g. `python -m experiments.run width=64,128,256 -m`."
    )
