"""The command from runs to tables, slopes, figures and a report.

    python -m experiments.analyze outputs/width_scaling

What was computed is only read: everything written here can be deleted and made again.
"""  # noqa: D208

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.reading import (
    InputError,
    Runs,
    aggregate,
    groups,
    key_columns,
    read_runs,
    skipped_lines,
    varying_columns,
)
from experiments.slopes import MET, NO_BAND, NOT_MET
from experiments.tables import SLOPE_COLUMNS, is_config_column

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

# The columns of the printed table; those that the runs have are shown.
SHOWN = (
    "relative_divergence_test",
    "rmse_test",
    "kernel_drift",
    "movement_relative/all",
    "accuracy_network_test",
    "relative_divergence_test@all",
)


@dataclass(frozen=True)
class Question:
    """What the runs are asked together: the `analysis` block of their configs."""

    text: str = ""
    x: str | None = None
    x_from: float = 0.0
    bands: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Analysis:
    """The tables over runs, and where they were written."""

    runs: Runs
    aggregate: "pd.DataFrame"
    slopes: "pd.DataFrame"  # without rows when nothing numeric was swept
    question: Question  # as answered: with the x in use
    notes: list[str]  # what a reader of the tables should know
    paths: list[Path]

    @property
    def text(self) -> str:
        """The report, as plain aligned text."""
        return "\n".join(_report(self, _plain))


def analyze(
    path: str | os.PathLike, x: str | None = None, x_from: float | None = None
) -> Analysis:
    """Gather the runs below a directory; write their tables and figures into it.

    Args:
        path: the directory of a study, or of several.
        x: the summary column along which power laws are fitted; `None` takes the one
            the runs' configs name, or else the only number swept over three values.
        x_from: verdicts are on slopes from here up; `None` takes the configs' value.

    Returns:
        the tables; `_tables/` and `_figures/` in `path` hold them as files.

    Raises:
        InputError: if there is no finished run, or nothing varies along x.
    """
    path = Path(path)
    runs = read_runs(path)
    import pandas as pd

    from experiments.figures import divergence_figure, scaling_figure
    from experiments.slopes import fittable_columns, scaling_table

    question, notes = _asked(runs, x, x_from)
    summaries = runs.summaries
    slopes = pd.DataFrame(columns=list(SLOPE_COLUMNS))
    if question.x:
        slopes = scaling_table(
            summaries, question.x, question.x_from,
            fittable_columns(summaries), question.bands,
        )  # fmt: skip
    tables = {
        "runs": summaries,
        "curves": runs.curves,
        "aggregate": aggregate(summaries),
        "slopes": slopes,
    }
    figures = {"divergence": divergence_figure(runs.curves, summaries)}
    if question.x:
        figures["scaling"] = scaling_figure(summaries, slopes, question.x)
    else:  # one drawn from other runs would contradict the tables
        (path / "_figures" / "scaling.png").unlink(missing_ok=True)

    paths = []
    for name, table in tables.items():
        with _replacing(path / "_tables" / f"{name}.csv", paths) as temporary:
            table.to_csv(temporary, index=False)
    for name, figure in figures.items():
        with _replacing(path / "_figures" / f"{name}.png", paths) as temporary:
            figure.savefig(temporary, format="png")
    return Analysis(runs, tables["aggregate"], slopes, question, notes, paths)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code, 2 when it cannot be answered."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.analyze",
        description="Gather runs into tables, slopes with 95 % intervals and figures.",
        epilog="""examples:
  python -m experiments.analyze outputs/width_scaling
  python -m experiments.analyze outputs --x model.width --from 128

writes DIR/_tables/{runs,curves,aggregate,slopes}.csv and
DIR/_figures/{divergence,scaling}.png; outputs/README.md describes each column.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dir", metavar="DIR", help="a study, or a directory of studies")
    parser.add_argument(
        "--x",
        metavar="COLUMN",
        help="numeric column along which to fit power laws, e.g. model.width (default: "
        "`analysis.x` of the runs, or the only number swept over three values)",
    )
    parser.add_argument(
        "--from",
        dest="x_from",
        metavar="VALUE",
        type=float,
        help="give verdicts on slopes fitted from this x up (default: "
        "`analysis.x_from` of the runs)",
    )
    given = parser.parse_args(arguments)
    try:
        analysis = analyze(given.dir, given.x, given.x_from)
    except InputError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    if sys.stdout.isatty():
        _print_rich(analysis)
    else:
        print(analysis.text)
    return 0


def _asked(
    runs: Runs, x: str | None, x_from: float | None
) -> tuple[Question, list[str]]:
    """The question of the configs, with what the user says instead."""
    configured, notes = _configured(runs.directories)
    notes += skipped_lines(runs.skipped)
    chosen, why_none = _chosen_x(runs.summaries, x, configured.x)
    notes += why_none
    if chosen != configured.x:
        if configured.bands and chosen is not None:
            notes.append(f"No bands: those of the configs are for x = {configured.x}.")
        return Question(configured.text, chosen, x_from or 0.0), notes
    if x_from is None or x_from == configured.x_from:
        return configured, notes
    if configured.bands:
        notes.append(
            f"The bands were set for slopes from {configured.x_from:g} up, not from "
            f"{x_from:g}."
        )
    return replace(configured, x_from=x_from), notes


def _chosen_x(
    summaries: "pd.DataFrame", x: str | None, configured: str | None
) -> tuple[str | None, list[str]]:
    """The column to fit along; where there is none, notes that say why."""
    numbers = _numeric_columns(summaries)
    if x is not None and x not in numbers:
        raise InputError(_no_such_x(x, numbers, summaries))
    if x is not None or configured in numbers:
        return x or configured, []
    long = [name for name, n in numbers.items() if n >= 3 and is_config_column(name)]
    if len(long) == 1:
        return long[0], []
    notes = []
    if configured is not None:
        notes.append(f"No slopes: {configured} does not vary between these runs.")
    elif numbers:
        notes.append(f"No slopes: name the x with --x, one of {', '.join(numbers)}.")
    return None, notes


def _configured(directories: list[Path]) -> tuple[Question, list[str]]:
    """The one `analysis` block of the runs that have any."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found: list[Question] = []
    where: list[Path] = []
    for directory in directories:
        try:
            text = (directory / "config.yaml").read_text(encoding="utf-8")
            block = (yaml.load(text, loader) or {}).get("analysis") or {}
            question = Question(
                block.get("question") or "",
                block.get("x"),
                float(block.get("x_from") or 0),
                dict(block.get("bands") or {}),
            )
        except (
            OSError,
            AttributeError,
            TypeError,
            ValueError,
            yaml.YAMLError,
        ) as error:
            note = f"{directory / 'config.yaml'} cannot be read: {error}"
            return Question(), [note]
        if question != Question() and question not in found:
            found.append(question)
            where.append(directory)
    if len(found) > 1:
        return Question(), [
            f"The runs carry {len(found)} different `analysis` blocks (see config.yaml "
            f"in {where[0]} and {where[1]}), so none is used. Analyse one study at a "
            "time, or give --x and --from."
        ]
    return (found[0] if found else Question()), []


def _numeric_columns(summaries: "pd.DataFrame") -> dict[str, int]:
    """The numbers swept, each with how many values it takes."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    columns = [*varying_columns(summaries), "n_params"]
    return {
        column: n
        for column in columns
        if column in summaries
        and is_numeric_dtype(summaries[column])
        and not is_bool_dtype(summaries[column])
        and (n := len(set(summaries[column].dropna()))) > 1
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


@contextmanager
def _replacing(path: Path, written: list[Path]) -> Iterator[str]:
    """A temporary file that takes the place of `path` once it is whole."""
    path.parent.mkdir(exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    os.close(handle)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # mkstemp's are for the owner alone
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    written.append(path)


@dataclass(frozen=True)
class _Printed:
    """A table of text; the first `n_names` columns are names, the others numbers."""

    title: str
    header: list[str]
    rows: list[list[str]]
    n_names: int


def _report(analysis: Analysis, table: Callable[[_Printed], Any]) -> Iterator[Any]:
    """What the command says, each table drawn by `table`."""
    summaries, question = analysis.runs.summaries, analysis.question
    if question.text:
        yield question.text.strip() + "\n"
    yield table(_means(summaries, question.x))
    if len(analysis.slopes):
        yield table(_slopes(analysis.slopes, question))
    for row in analysis.slopes.to_dict("records"):
        if row["note"]:
            yield f"{row['metric']}: {row['note']}"
    yield from analysis.notes
    for path in analysis.paths:
        yield f"Wrote {path}"


def _means(summaries: "pd.DataFrame", x: str | None) -> _Printed:
    """A row per combination of swept values."""
    keys = key_columns(summaries, [x] if x and is_config_column(x) else [])
    shown = [name for name in SHOWN if name in summaries]
    rows = [
        [
            *map(_number, values),
            str(len(group)),
            *(_mean(group[name]) for name in shown),
        ]
        for values, group in groups(summaries, keys)
    ]
    n = len(summaries)
    title = f"{n} run{'s' * (n > 1)}; mean ± standard deviation over seeds"
    return _Printed(title, [*keys, "seeds", *shown], rows, 0)


def _slopes(slopes: "pd.DataFrame", question: Question) -> _Printed:
    """A row per metric, with its band and whether the slope lies in it."""
    by = [name for name in slopes.columns if is_config_column(name)]
    rows = []
    for row in slopes.to_dict("records"):
        cells = [*(_number(row[key]) for key in by), row["metric"]]
        cells.append(_interval(row, "_all") if question.x_from > 0 else "")
        rows.append([*cells, _interval(row), str(row["n_points"]), _verdict(row)])
    ranged = question.x_from > 0
    slope = f"slope from {question.x_from:g} up" if ranged else "slope"
    header = [*by, "metric", "slope over all", slope, "runs", "verdict"]
    used = [i for i in range(len(header)) if any(row[i] for row in rows)]
    return _Printed(
        f"Slopes along {question.x}, with 95 % intervals",
        [header[i] for i in used],
        [[row[i] for i in used] for row in rows],
        len(by) + 1,
    )


def _verdict(row: dict[str, Any]) -> str:
    if math.isnan(row["band_low"]):
        return "" if row["verdict"] == NO_BAND else row["verdict"]
    words = {MET: "met", NOT_MET: "NOT met"}.get(row["verdict"], row["verdict"])
    return f"expected [{row['band_low']:.2f}, {row['band_high']:.2f}]: {words}"


def _interval(row: dict[str, Any], suffix: str = "") -> str:
    slope, low, high = (row[name + suffix] for name in ("slope", "low", "high"))
    return "" if math.isnan(slope) else f"{slope:.2f} [{low:.2f}, {high:.2f}]"


def _mean(values: "ArrayLike") -> str:
    import numpy as np

    values = np.asarray(values, float)
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return "".join(f"{value:.3g}" for value in values)
    with np.errstate(invalid="ignore"):  # a diverged run is infinite
        return f"{values.mean():.3g} ± {values.std(ddof=1):.2g}"


def _number(value: Any) -> str:
    if value is None or value != value:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(table: _Printed) -> str:
    """The table aligned with spaces: names to the left, numbers to the right."""
    headings = zip(*map(_heading, table.header), strict=True)
    lines = [*headings, *table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = [
        "  ".join(
            cell.ljust(width) if _is_text(table, i) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([table.title, "", *filter(None, aligned), ""])


def _heading(name: str) -> tuple[str, str]:
    """A column's name on two lines, broken where a long one has a joint."""
    joint = max(name.rfind(mark) for mark in "_./") + 1
    return (name[:joint], name[joint:]) if len(name) > 14 else ("", name)


def _is_text(table: _Printed, column: int) -> bool:
    return column < table.n_names or table.header[column] == "verdict"


def _print_rich(analysis: Analysis) -> None:
    """The report on a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def draw(printed: _Printed) -> Table:
        table = Table(title=printed.title, title_justify="left", box=box.SIMPLE_HEAD)
        for i, name in enumerate(printed.header):
            justify = "left" if _is_text(printed, i) else "right"
            heading = Text("\n".join(filter(None, _heading(name))))
            table.add_column(heading, justify=justify, vertical="bottom")
        for row in printed.rows:
            # as Text: rich would take the [ of an interval for markup
            table.add_row(*(Text(cell, _style(cell)) for cell in row))
        return table

    # wide: a narrow terminal's own line breaks are easier to read than torn numbers
    console = Console(width=240)
    for part in _report(analysis, draw):
        console.print(part, markup=False, highlight=False, soft_wrap=True)


def _style(cell: str) -> str:
    if not cell.startswith("expected"):
        return ""
    return "red" if "NOT" in cell else "green" if cell.endswith("met") else ""


if __name__ == "__main__":
    sys.exit(main())
