"""The command from runs to tables, verdicts, figures.

    python -m experiments.analyze outputs/width_scaling

What was computed is only read: everything written here can be deleted and made again.
"""  # noqa: D208

import argparse
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import declaration, screen
from experiments.files import replacing
from experiments.grouping import groups, key_columns
from experiments.question import AnalysisConfig
from experiments.reading import InputError
from experiments.screen import Table, number
from experiments.study import Study, read_study
from experiments.tables import is_config_column
from experiments.verdicts import MET, NOT_MET, overall

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

# The columns of the printed table where a study declares none.
SHOWN = (
    "relative_divergence_test",
    "rmse_test",
    "kernel_drift",
    "movement_relative/all",
    "accuracy_network_test",
    "relative_divergence_test@all",
)
_MOST_SHOWN = 7


@dataclass(frozen=True)
class Analysis:
    """A study and the files that were written for it."""

    study: Study
    paths: list[Path]

    @property
    def text(self) -> str:
        """What the command prints, as plain aligned text."""
        return screen.text(self.parts)

    @property
    def parts(self) -> list[Table | str]:
        """What the command prints."""
        return list(_said(self))


def analyze(
    path: str | os.PathLike,
    x: str | None = None,
    x_from: float | None = None,
    declared: AnalysisConfig | None = None,
) -> Analysis:
    """Gather the runs below a directory; write their tables and figures into it.

    Args:
        path: the directory of a study, or of several.
        x: the summary column that slopes and figures go along; `None` takes the one
            declared, or else the only number swept over three values.
        x_from: where laws are expected to hold from; `None` takes the value declared.
        declared: what a sweep asks; it is left in the study's directory for the
            analyses that follow. `None` takes what is there.

    Returns:
        the tables; `_tables/` and `_figures/` in `path` hold them as files.

    Raises:
        InputError: if there is no finished run, or nothing varies along x.
    """
    path = Path(path)
    if declared is not None and path.is_dir():
        declaration.write(path, declared)
    study = read_study(path, x, x_from)
    from experiments import figures

    tables = {
        "runs": study.runs.summaries,
        "curves": study.runs.curves,
        "aggregate": study.aggregate,
        "slopes": study.slopes,
        "verdicts": study.verdicts,
    }
    paths = []
    for name, table in tables.items():
        paths.append(path / "_tables" / f"{name}.csv")
        with replacing(paths[-1]) as temporary:
            table.to_csv(temporary, index=False)
    old = set((path / "_figures").glob("*.png"))
    for name, figure in figures.draw(study).items():
        paths.append(path / "_figures" / f"{name.replace(' ', '_')}.png")
        with replacing(paths[-1]) as temporary:
            figure.savefig(temporary, format="png")
    for stale in old - set(paths):  # drawn from other runs, it contradicts the tables
        stale.unlink(missing_ok=True)
    return Analysis(study, paths)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code, 2 when it cannot be answered."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.analyze",
        description="Gather runs into tables, verdicts, slopes and figures.",
        epilog="""examples:
  python -m experiments.analyze outputs/width_scaling
  python -m experiments.analyze outputs --x model.width --from 128

writes DIR/_tables/{runs,curves,aggregate,slopes,verdicts}.csv and
DIR/_figures/*.png; outputs/README.md describes each column.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dir", metavar="DIR", help="a study, or a directory of studies")
    parser.add_argument(
        "--x",
        metavar="COLUMN",
        help="numeric column along which to fit power laws, e.g. model.width (default: "
        "that of the study, or the only number swept over three values)",
    )
    parser.add_argument(
        "--from",
        dest="x_from",
        metavar="VALUE",
        type=float,
        help="expect laws to hold from this x up (default: as the study declares)",
    )
    given = parser.parse_args(arguments)
    try:
        analysis = analyze(given.dir, given.x, given.x_from)
    except InputError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    screen.show(analysis.parts)
    return 0


def _said(analysis: Analysis) -> Iterator[Table | str]:
    """What the command says."""
    study = analysis.study
    summaries, asked = study.runs.summaries, study.asked
    if asked.question:
        yield asked.question.strip() + "\n"
    yield _means(summaries, asked)
    if study.slopes_matter:
        yield _slopes(study.slopes, asked)
        for row in study.slopes.to_dict("records"):
            if row["note"]:
                yield f"{row['metric']}: {row['note']}"
    if len(study.verdicts):
        yield _verdicts(study.verdicts)
        yield from (
            f"{row['expectation']}: {row['note']}"
            for row in study.verdicts.to_dict("records")
            if row["note"]
        )
        yield f"Verdict: {overall(study.verdicts)}.\n"
    yield from study.notes
    for path in analysis.paths:
        yield f"Wrote {path}"


def _means(summaries: "pd.DataFrame", asked: AnalysisConfig) -> Table:
    """A row per combination of swept values."""
    x = asked.x
    first = [x] if x and x in summaries and is_config_column(x) else []
    keys = key_columns(summaries, first)
    declared = [e.metric for e in asked.expect.values()] + asked.show
    shown = [name for name in dict.fromkeys(declared) if name in summaries]
    shown = (shown or [name for name in SHOWN if name in summaries])[:_MOST_SHOWN]
    rows = [
        [
            *map(number, values),
            str(len(group)),
            *(_mean(group[name]) for name in shown),
        ]
        for values, group in groups(summaries, keys)
    ]
    n = len(summaries)
    title = f"{n} run{'s' * (n > 1)}; mean ± standard deviation over seeds"
    return Table(title, [*keys, "seeds", *shown], rows)


def _slopes(slopes: "pd.DataFrame", asked: AnalysisConfig) -> Table:
    """A row per metric, and per combination of what else was swept."""
    by = [name for name in slopes.columns if is_config_column(name)]
    rows = []
    for row in slopes.to_dict("records"):
        cells = [*(number(row[key]) for key in by), row["metric"]]
        cells.append(_slope(row, "_all") if asked.x_from is not None else "")
        rows.append([*cells, _slope(row), str(row["n_points"])])
    ranged = asked.x_from is not None
    slope = f"slope from {asked.x_from:g} up" if ranged else "slope"
    header = [*by, "metric", "slope over all", slope, "runs"]
    used = [i for i in range(len(header)) if any(row[i] for row in rows)]
    return Table(
        f"Slopes along {asked.x}, with 95 % intervals",
        [header[i] for i in used],
        [[row[i] for i in used] for row in rows],
        frozenset(range(len(by) + 1)),
    )


def _verdicts(verdicts: "pd.DataFrame") -> Table:
    """A row per expectation, with its band and whether it was met."""
    rows = []
    for row in verdicts.to_dict("records"):
        where = row["where"] + (f" / {row['versus']}" if row["versus"] else "")
        rows.append([
            row["expectation"], f"{row['quantity']} of {row['metric']}", where,
            measured(row), band(row), row["published"], said(row["verdict"]),
        ])  # fmt: skip
    header = ["expectation", "quantity", "where", "measured", "expected", "published"]
    header.append("verdict")
    used = [i for i in range(len(header)) if any(row[i] for row in rows)]
    return Table(
        "What was expected; measured with 95 % intervals",
        [header[i] for i in used],
        [[row[i] for i in used] for row in rows],
        frozenset(range(len(used))),
    )


def measured(row: dict[str, Any]) -> str:
    """What a row of the verdicts measured, with its interval."""
    if math.isnan(row["measured"]):
        return "-"
    if math.isnan(row["low"]):
        return f"{row['measured']:.3g}"
    return f"{row['measured']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"


def band(row: dict[str, Any]) -> str:
    """The band of a row of the verdicts, in words where an end is open."""
    low, high = row["band_low"], row["band_high"]
    if math.isinf(low):
        return f"at most {high:g}"
    return f"at least {low:g}" if math.isinf(high) else f"{low:g} to {high:g}"


def said(verdict: str) -> str:
    """A verdict as it stands out in a table."""
    return (
        verdict
        if verdict == MET
        else verdict.upper().replace(NOT_MET.upper(), "NOT met")
    )


def _slope(row: dict[str, Any], suffix: str = "") -> str:
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


if __name__ == "__main__":
    sys.exit(main())
