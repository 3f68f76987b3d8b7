"""What a study answers, as tables for a person: verdicts, means, slopes, notes."""

import math
from typing import TYPE_CHECKING, Any

from experiments.grouping import groups, is_number, key_columns, numbers
from experiments.intervals import NONE, mean_interval
from experiments.screen import Table, number
from experiments.study import Study
from experiments.tables import is_config_column
from experiments.verdicts import MET, NOT_MET

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

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


def notes(study: Study) -> list[str]:
    """What a reader of the tables should know: what was left out, and why."""
    found = []
    if study.slopes_matter:
        rows = _slopes_asked_for(study).to_dict("records")
        found += [f"{row['metric']}: {row['note']}" for row in rows if row["note"]]
        n_more = len(study.slopes) - len(rows)
        if n_more:
            found.append(f"Slopes of what was not asked for: {n_more}, in slopes.csv.")
    rows = study.verdicts.to_dict("records")
    found += [f"{row['expectation']}: {row['note']}" for row in rows if row["note"]]
    return list(dict.fromkeys(found)) + study.notes


def means(study: Study, *, intervals: bool) -> Table:
    """A row per combination of swept values: what the study is about, over seeds.

    Args:
        study: the study.
        intervals: show the 95 % interval of each mean, or the standard deviation.
    """
    summaries, asked = study.runs.summaries, study.asked
    x = asked.x
    first = [x] if x and x in summaries and is_config_column(x) else []
    keys = key_columns(summaries, first)
    shown = [name for name in _declared(study) if name in summaries]
    shown = (shown or [name for name in SHOWN if name in summaries])[:_MOST_SHOWN]
    mean = _with_interval if intervals else _with_deviation
    rows = [
        [
            *map(number, values),
            str(len(group)),
            *(mean(numbers(group, name)) for name in shown),
        ]
        for values, group in groups(summaries, keys)
    ]
    n = len(summaries)
    what = "mean [95 % interval]" if intervals else "mean ± standard deviation"
    title = f"{n} run{'s' * (n > 1)}; {what} over seeds"
    left = {i for i, key in enumerate(keys) if not is_number(summaries, key)}
    return Table(title, [*keys, "seeds", *shown], rows, frozenset(left))


def slopes(study: Study) -> Table:
    """A row per metric, and per combination of what else was swept."""
    slopes, asked = _slopes_asked_for(study), study.asked
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


def verdicts(study: Study) -> Table:
    """A row per expectation, with its band and whether it was met."""
    rows = []
    for row in study.verdicts.to_dict("records"):
        where = row["where"]
        if row["versus"]:
            where = f"{where or 'others'} against {row['versus']}"
        rows.append([
            row["expectation"], f"{row['quantity']} of {row['metric']}", where,
            _measured(row), _band(row), row["published"], _loud(row["verdict"]),
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


def _declared(study: Study) -> list[str]:
    """The metrics that a study names."""
    expected = [e.metric for e in study.asked.expect.values()]
    return list(dict.fromkeys([*expected, *study.asked.show]))


def _slopes_asked_for(study: Study) -> "pd.DataFrame":
    """Of a study that says what it is about, the slopes of that; of others, all."""
    declared = _declared(study)
    asked = [metric in declared for metric in study.slopes["metric"]]
    return study.slopes.loc[asked] if any(asked) else study.slopes


def _measured(row: dict[str, Any]) -> str:
    """What a row of the verdicts measured, with its interval."""
    if math.isnan(row["measured"]):
        return "-"
    if math.isnan(row["low"]):
        return f"{row['measured']:.3g}"
    return f"{row['measured']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"


def _band(row: dict[str, Any]) -> str:
    """The band of a row of the verdicts, in words where an end is open."""
    low, high = row["band_low"], row["band_high"]
    if math.isinf(low):
        return f"at most {high:g}"
    return f"at least {low:g}" if math.isinf(high) else f"{low:g} to {high:g}"


def _loud(verdict: str) -> str:
    """A verdict as it stands out in a table."""
    return {MET: "met", NOT_MET: "NOT met"}.get(verdict, verdict.upper())


def _slope(row: dict[str, Any], suffix: str = "") -> str:
    slope, low, high = (row[name + suffix] for name in ("slope", "low", "high"))
    return "" if math.isnan(slope) else f"{slope:.2f} [{low:.2f}, {high:.2f}]"


def _with_deviation(values: "NDArray") -> str:
    import numpy as np

    values = values[~np.isnan(values)]
    if len(values) < 2:
        return "".join(f"{value:.3g}" for value in values)
    with np.errstate(invalid="ignore"):  # a diverged run is infinite
        return f"{values.mean():.3g} ± {values.std(ddof=1):.2g}"


def _with_interval(values: "NDArray") -> str:
    import numpy as np

    values = values[~np.isnan(values)]
    if not len(values):
        return ""
    found = mean_interval(values)
    if found.method == NONE:
        return f"{found.estimate:.3g}"
    return f"{found.estimate:.3g} [{found.low:.3g}, {found.high:.3g}]"
