"""What a study expected, held against its runs: met or not met, with measured values.

The verdict is on the measured value; its interval says how far the runs can be trusted
to have found it.
"""

import difflib
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from experiments.grouping import groups, key_columns, varying_columns
from experiments.intervals import (
    STUDENT,
    Interval,
    difference_interval,
    mean_interval,
    ratio_interval,
)
from experiments.question import AnalysisConfig, ExpectationConfig, expected
from experiments.slopes import fit_power_law
from experiments.tables import VERDICT_COLUMNS

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

MET, NOT_MET, NO_ANSWER = "met", "not met", "no answer"


class Unanswerable(Exception):
    """Why the runs say nothing about an expectation."""


def verdict_table(
    summaries: "pd.DataFrame", analysis: AnalysisConfig
) -> "pd.DataFrame":
    """A row per expectation, or per expectation and combination of the values `by`.

    Args:
        summaries: one row per run.
        analysis: what is expected of them.

    Returns:
        `VERDICT_COLUMNS`. The verdict is `met` when the measured value lies in its
        band, `no answer` when the runs do not say, with the reason in `note`.
    """
    import pandas as pd

    rows = []
    for name, expectation in analysis.expect.items():
        what = _described(name, expectation, analysis)
        try:
            for answer in _answers(summaries, expectation, analysis):
                rows.append(what | answer)
        except Unanswerable as why:
            rows.append(what | {"verdict": NO_ANSWER, "note": str(why)})
    table = pd.DataFrame(rows, columns=list(VERDICT_COLUMNS))
    return table.astype({name: col.dtype for name, col in VERDICT_COLUMNS.items()})


def overall(verdicts: "pd.DataFrame") -> str:
    """The study's verdict in a few words; empty when nothing was expected."""
    if not len(verdicts):
        return ""
    counts = verdicts["verdict"].value_counts()
    if counts.get(MET, 0) == len(verdicts):
        n = len(verdicts)
        return "met" if n == 1 else f"all {n} expectations met"
    parts = [f"{counts[v]} {v}" for v in (MET, NOT_MET, NO_ANSWER) if v in counts]
    return f"of {len(verdicts)} expectations {', '.join(parts)}"


def runs_about(
    summaries: "pd.DataFrame", expectation: ExpectationConfig, analysis: AnalysisConfig
) -> "pd.DataFrame":
    """The runs of which something is expected, without those they are compared with.

    Raises:
        Unanswerable: if there are none.
    """
    return _selected(_in_range(summaries, expectation, analysis), expectation.where)


def _described(
    name: str, expectation: ExpectationConfig, analysis: AnalysisConfig
) -> dict[str, Any]:
    quantity, low, high = expected(expectation)
    metric = expectation.metric
    if expectation.relative_to:
        metric += f" / {expectation.relative_to}"
    return dict.fromkeys(("where", "interval", "note"), "") | {
        "n_runs": 0,
        "expectation": name,
        "metric": metric,
        "quantity": quantity,
        "x": (expectation.x or analysis.x or "") if quantity == "slope" else "",
        "versus": _words(expectation.versus),
        "where": _words(expectation.where),
        "band_low": low,
        "band_high": high,
        "published": expectation.published,
    }


def _answers(
    summaries: "pd.DataFrame", expectation: ExpectationConfig, analysis: AnalysisConfig
) -> Iterator[dict[str, Any]]:
    """One answer per combination of the values `by`."""
    quantity, low, high = expected(expectation)
    x = expectation.x or analysis.x
    runs = runs_about(summaries, expectation, analysis)
    others = None
    if expectation.versus:
        ranged = _in_range(summaries, expectation, analysis)
        others = _selected(ranged, expectation.where | expectation.versus)
        runs = runs.loc[~runs["run"].isin(others["run"])]
        if not len(runs):
            raise Unanswerable("no runs are left beside those compared with")
    by = _by(runs, others, expectation, x)
    for values, group in groups(runs, by):
        at = dict(zip(by, values, strict=True))
        answer: dict[str, Any] = {"where": _words(expectation.where | at)}
        y, n_missing = _measured(group, expectation)
        try:
            if quantity == "slope":
                law = fit_power_law(group[x].to_numpy(float), y)
                found = Interval(law.slope, law.low, law.high, STUDENT)
                n_missing += law.n_excluded
            elif others is None:
                found = mean_interval(y)
            else:
                match = {
                    key: v for key, v in at.items() if key not in expectation.versus
                }
                other, missing = _measured(_selected(others, match), expectation)
                n_missing += missing
                compare = ratio_interval if quantity == "ratio" else difference_interval
                found = compare(y, other)
        except (Unanswerable, ValueError) as why:
            yield answer | {"verdict": NO_ANSWER, "note": str(why)}
            continue
        answer |= {"n_runs": len(group), "measured": found.estimate}
        answer |= {"low": found.low, "high": found.high, "interval": found.method}
        if n_missing:
            answer["note"] = f"{n_missing} run{'s' * (n_missing > 1)} without a value"
        answer["verdict"] = MET if low <= found.estimate <= high else NOT_MET
        yield answer


def _in_range(
    summaries: "pd.DataFrame", expectation: ExpectationConfig, analysis: AnalysisConfig
) -> "pd.DataFrame":
    """The runs between x_from and x_to; those without an x lie in no range."""
    from pandas.api.types import is_numeric_dtype

    x = expectation.x or analysis.x
    x_from, x_to = expectation.x_from, expectation.x_to
    x_from = analysis.x_from if x_from is None and expectation.x is None else x_from
    if expectation.slope is None and x_from is None and x_to is None:
        return summaries
    if x is None or x not in summaries or not is_numeric_dtype(summaries[x]):
        raise Unanswerable(f"the runs have no numeric column {x!r} to go along")
    at = summaries[x].to_numpy(float, na_value=math.nan)
    low = -math.inf if x_from is None else x_from
    high = math.inf if x_to is None else x_to
    inside = summaries.loc[(at >= low) & (at <= high)]
    if not len(inside):
        raise Unanswerable(f"no run has {x} between {low:g} and {high:g}")
    return inside


def _selected(runs: "pd.DataFrame", where: Mapping[str, Any]) -> "pd.DataFrame":
    """The runs that have these values; `None` is no value."""
    for column, wanted in where.items():
        if column not in runs:
            raise Unanswerable(_no_column(column, runs))
        wanted = wanted if isinstance(wanted, list) else [wanted]
        kept = runs[column].isin([value for value in wanted if value is not None])
        if None in wanted:
            kept |= runs[column].isna()
        found = runs.loc[kept.astype(bool)]
        if not len(found):
            present = sorted({str(value) for value in runs[column].dropna()})
            raise Unanswerable(
                f"no run has {_words({column: wanted})}; there are {', '.join(present)}"
            )
        runs = found
    return runs


def _measured(
    runs: "pd.DataFrame", expectation: ExpectationConfig
) -> tuple["NDArray", int]:
    """The metric of each run that has one, and how many have none."""
    import numpy as np

    y = _numbers(runs, expectation.metric)
    if expectation.relative_to:
        with np.errstate(divide="ignore", invalid="ignore"):
            y = y / _numbers(runs, expectation.relative_to)
    missing = np.isnan(y)
    if missing.all():
        raise Unanswerable(f"no run has a value of {expectation.metric}")
    if expectation.slope is not None:
        return y, 0  # the fit leaves out and counts them
    return y[~missing], int(missing.sum())


def _numbers(runs: "pd.DataFrame", column: str) -> "NDArray":
    from pandas.api.types import is_numeric_dtype

    if column not in runs:
        raise Unanswerable(_no_column(column, runs))
    if not is_numeric_dtype(runs[column]):
        raise Unanswerable(f"{column} is no number")
    return runs[column].to_numpy(float, na_value=math.nan)


def _by(
    runs: "pd.DataFrame",
    others: "pd.DataFrame | None",
    expectation: ExpectationConfig,
    x: str | None,
) -> list[str]:
    """The columns whose combinations are judged apart."""
    if expectation.by is not None:
        for column in expectation.by:
            if column not in runs:
                raise Unanswerable(_no_column(column, runs))
        return expectation.by
    if expectation.slope is not None:
        return [column for column in key_columns(runs, [x] if x else []) if column != x]
    first = [x] if x in varying_columns(runs) else []
    keys = key_columns(runs, [column for column in first if column])
    if others is None:
        return keys
    # what the others do not have, such as another method's settings, is pooled
    return [
        key
        for key in keys
        if key in expectation.versus or bool(others[key].notna().to_numpy().any())
    ]


def _no_column(column: str, runs: "pd.DataFrame") -> str:
    near = difflib.get_close_matches(column, list(runs.columns), 1)
    meant = f"; did you mean {near[0]}?" if near else ""
    return f"the runs have no column {column}{meant}"


def _words(values: Mapping[str, Any]) -> str:
    """`model.width=256, kernel.name=exact or mc`."""
    return ", ".join(
        f"{key}=" + (" or ".join(map(_word, v)) if isinstance(v, list) else _word(v))
        for key, v in values.items()
    )


def _word(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
