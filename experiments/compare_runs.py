"""The command that sets two runs, or two studies, side by side.

    python -m experiments.compare_runs outputs/width_scaling outputs/width_scaling_f64

What differs between their configs beside what differs between their metrics.
"""  # noqa: D208

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import screen
from experiments.files import replacing
from experiments.grouping import groups, measured_columns, numbers, varying_columns
from experiments.intervals import difference_interval
from experiments.reading import InputError, read_runs
from experiments.screen import Table, number
from experiments.tables import COMPARISON_COLUMNS, is_config_column

if TYPE_CHECKING:
    import pandas as pd

_NOT_COMPARED = ("seconds",)  # says how busy the machine was


@dataclass(frozen=True)
class Comparison:
    """Two sets of runs: the config values in which they differ, and their metrics."""

    config: "pd.DataFrame"  # key, first, second: the values that each side has
    metrics: "pd.DataFrame"  # the values both swept, then `COMPARISON_COLUMNS`
    alone: tuple[int, int]  # combinations of swept values that only one side has


def compare(first: str | os.PathLike, second: str | os.PathLike) -> Comparison:
    """Compare the finished runs below two directories.

    Args:
        first: a run's directory, or a study's.
        second: what it is compared with.

    Returns:
        metrics for each combination of values that both sides swept: means over the
        runs that share it, their difference with its 95 % interval, their ratio.

    Raises:
        InputError: if there is no finished run, or nothing that both sides have.
    """
    import numpy as np
    import pandas as pd

    one, other = (read_runs(path).summaries for path in (first, second))
    by = _shared_keys(one, other)
    pairs = [dict(groups(side, by)) for side in (one, other)]
    common = [values for values in pairs[0] if values in pairs[1]]
    if not common:
        raise InputError(
            f"No combination of {', '.join(by)} is in both `{first}` and `{second}`. "
            "Compare studies that share some of the values they sweep."
        )
    measured = [name for name in measured_columns(one) if name in other]
    rows = []
    for values in common:
        for metric in measured:
            a, b = (numbers(pair[values], metric) for pair in pairs)
            a, b = a[~np.isnan(a)], b[~np.isnan(b)]
            if metric in _NOT_COMPARED or not len(a) or not len(b):
                continue
            found = difference_interval(b, a)
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = float(np.divide(b.mean(), a.mean()))
            rows.append((*values, metric, len(a), a.mean(), len(b), b.mean(),
                         found.estimate, found.low, found.high, ratio))  # fmt: skip
    return Comparison(
        _config_differences(one, other),
        pd.DataFrame(rows, columns=[*by, *COMPARISON_COLUMNS]),
        (len(pairs[0]) - len(common), len(pairs[1]) - len(common)),
    )


def main(
    arguments: Sequence[str] | None = None,
    prog: str = "python -m experiments.compare_runs",
) -> int:
    """Run the command; returns its exit code, 2 when it cannot be answered."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="""  %(prog)s outputs/default/r0123456789ab outputs/default/r...
  %(prog)s outputs/width_scaling outputs/widths_relu
  %(prog)s A B --metric kernel_drift --csv drift.csv

Sets two runs, or two studies, side by side: config differences, then metrics with the
95 %% interval of their difference.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("first", metavar="A", help="a run's or a study's directory")
    parser.add_argument("second", metavar="B", help="what it is compared with")
    parser.add_argument(
        "--metric", metavar="COLUMN", action="append", default=[],
        help="show this column of summary.csv only; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--csv", metavar="FILE", type=Path, help="write the metrics as a table"
    )
    given = parser.parse_args(arguments)
    try:
        found = compare(given.first, given.second)
        shown = _chosen(found.metrics, given.metric)
    except InputError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    screen.show(_said(found, shown, given.first, given.second))
    if given.csv is not None:
        with replacing(given.csv) as temporary:
            shown.to_csv(temporary, index=False)
        print(f"Wrote {given.csv}")
    return 0


def _shared_keys(one: "pd.DataFrame", other: "pd.DataFrame") -> list[str]:
    """The config columns that tell runs apart within a side and occur on both sides."""
    varying = dict.fromkeys([*varying_columns(one), *varying_columns(other)])
    return [
        name
        for name in varying
        if name in one and name in other and _values(one, name) & _values(other, name)
    ]


def _config_differences(one: "pd.DataFrame", other: "pd.DataFrame") -> "pd.DataFrame":
    import pandas as pd

    names = [n for n in dict.fromkeys([*one, *other]) if is_config_column(str(n))]
    rows = []
    for name in ["seed", *map(str, names)]:
        a, b = (_values(side, name) for side in (one, other))
        if a != b:
            rows.append((name, _listed(one, name), _listed(other, name)))
    return pd.DataFrame(rows, columns=["key", "first", "second"], dtype="str")


def _values(side: "pd.DataFrame", name: str) -> set[Any]:
    return set(side[name].dropna()) if name in side else set()


def _listed(side: "pd.DataFrame", name: str) -> str:
    if name not in side:
        return "-"
    return ", ".join(number(value) for (value,), _ in groups(side, [name]))


def _chosen(metrics: "pd.DataFrame", wanted: list[str]) -> "pd.DataFrame":
    known = list(dict.fromkeys(metrics["metric"]))
    for name in wanted:
        if name not in known:
            raise InputError(
                f"--metric {name} is not measured on both sides. Both have "
                f"{', '.join(known)}."
            )
    return metrics.loc[metrics["metric"].isin(wanted)] if wanted else metrics


def _said(
    found: Comparison, metrics: "pd.DataFrame", first: str, second: str
) -> Iterator[Table | str]:
    yield f"A: {first}\nB: {second}\n"
    rows = [list(map(str, row)) for row in found.config.itertuples(index=False)]
    if rows:
        title = "Config values that differ"
        yield Table(title, ["key", "A", "B"], rows, frozenset({0, 1, 2}))
    else:
        yield "Their configs do not differ.\n"
    by = [name for name in metrics.columns if name not in COMPARISON_COLUMNS]
    cells = [
        [
            *(number(row[key]) for key in by),
            row["metric"],
            f"{row['first']:.4g}", f"{row['second']:.4g}",
            _interval(row), f"{row['ratio']:.3g}",
        ]
        for row in metrics.to_dict("records")
    ]  # fmt: skip
    header = [*by, "metric", "A", "B", "B - A", "B / A"]
    title = "Metrics at the last step; differences with 95 % intervals over seeds"
    yield Table(title, header, cells, frozenset({len(by)}))
    for side, n in zip("AB", found.alone, strict=True):
        if n:
            many = "s" if n > 1 else ""
            yield f"{n} combination{many} of swept values only in {side}: left out."


def _interval(row: dict[str, Any]) -> str:
    text = f"{row['difference']:.3g}"
    if row["low"] == row["low"]:
        text += f" [{row['low']:.3g}, {row['high']:.3g}]"
    return text


if __name__ == "__main__":
    sys.exit(main())
