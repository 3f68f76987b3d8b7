"""Which values were swept, the runs that share them, and means over their seeds."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from experiments.intervals import mean_interval
from experiments.tables import AGGREGATE_COLUMNS, is_config_column

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray


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


def is_number(frame: "pd.DataFrame", column: str) -> bool:
    """Whether a column holds numbers; booleans are none."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    return is_numeric_dtype(frame[column]) and not is_bool_dtype(frame[column])


def numbers(frame: "pd.DataFrame", column: str) -> "NDArray":
    """A column as floats; no value is NaN."""
    import numpy as np

    return frame[column].to_numpy(float, na_value=np.nan)


def n_distinct(frame: "pd.DataFrame", column: str) -> int:
    """How many values a column takes; having none is no value."""
    return len(set(frame[column].dropna()))


def aggregate(summaries: "pd.DataFrame") -> "pd.DataFrame":
    """Mean over seeds of everything measured, with its interval, one row per metric.

    Args:
        summaries: one row per run.

    Returns:
        the config columns that vary between runs, then `AGGREGATE_COLUMNS`. A metric
        that a group of runs lacks has no row; one seed has no std and no interval.
    """
    import numpy as np
    import pandas as pd

    by, metrics = varying_columns(summaries), measured_columns(summaries)
    values = summaries[metrics].to_numpy(float, na_value=np.nan)
    rows = []
    for key, group in groups(summaries.reset_index(drop=True), by):
        for metric, sample in zip(metrics, values[group.index].T, strict=True):
            sample = sample[~np.isnan(sample)]
            n = len(sample)
            if n == 0:
                continue
            found = mean_interval(sample)
            with np.errstate(invalid="ignore"):  # a diverged run is infinite
                std = sample.std(ddof=1) if n > 1 else np.nan
            rows.append(
                (
                    *key,
                    metric,
                    n,
                    found.estimate,
                    std,
                    found.low,
                    found.high,
                    found.method,
                )
            )
    table = pd.DataFrame(rows, columns=[*by, *AGGREGATE_COLUMNS])
    return table.astype({column: summaries[column].dtype for column in by})
