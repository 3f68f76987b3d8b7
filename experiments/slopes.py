"""Power laws through the runs: slopes with intervals.

A slope is fitted over single runs, not over means, so that its interval knows how much
seeds differ. The range of x is set before looking: small x bends the law.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from experiments.grouping import groups, key_columns, measured_columns
from experiments.reading import InputError
from experiments.tables import SLOPE_COLUMNS

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class PowerLaw:
    """`y = exp(intercept) * x^slope`, fitted to `n_points` points."""

    slope: float
    intercept: float
    low: float  # of the slope's 95 % interval
    high: float
    n_points: int
    x_min: float
    x_max: float
    n_excluded: int = 0  # points left out: y missing, infinite, zero or negative

    def __call__(self, x: "ArrayLike") -> "NDArray":
        """The law's y at any x > 0, of the shape of x."""
        import numpy as np

        return np.exp(self.intercept) * np.asarray(x, float) ** self.slope

    def turned(self, slope: float) -> "PowerLaw":
        """The law of another slope through the centre, in logarithms, of this one."""
        centre = (math.log(self.x_min) + math.log(self.x_max)) / 2
        intercept = self.intercept + (self.slope - slope) * centre
        return replace(self, slope=slope, intercept=intercept)

    def __str__(self) -> str:
        return f"{self.slope:.2f} [{self.low:.2f}, {self.high:.2f}]"


def fit_power_law(x: "ArrayLike", y: "ArrayLike") -> PowerLaw:
    """Least squares of log y on log x, with the 95 % t-interval of the slope.

    Args:
        x: `[n]`, positive.
        y: `[n]`; a point whose y is missing, infinite, zero or negative has no
            logarithm: it is left out and counted in `n_excluded`.

    Raises:
        ValueError: if shapes differ, an x is not positive, fewer than three points are
            left, or they share one x.

    The interval takes the scatter about the line as independent between points.
    """
    import numpy as np
    from scipy import stats

    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(
            f"`x` and `y` must be two lists of one length, but have shapes {x.shape} "
            f"and {y.shape}. Pass one x and one y per run."
        )
    if not np.all(np.isfinite(x) & (x > 0)):
        bad = x[~(np.isfinite(x) & (x > 0))]
        raise ValueError(
            f"A power law needs x > 0, but x holds {bad[:3].tolist()} ({len(bad)} of "
            f"{len(x)} values). Leave those runs out, e.g. `x > 0`."
        )
    kept = np.isfinite(y) & (y > 0)
    n, n_excluded = int(kept.sum()), int((~kept).sum())
    if n < 3:
        left_out = f" after leaving out {n_excluded} whose y is not positive"
        raise ValueError(
            f"A slope with an interval needs 3 points or more, got {n}"
            f"{left_out if n_excluded else ''}. Run more values of x or more seeds."
        )
    log_x, log_y = np.log(x[kept]), np.log(y[kept])
    if np.ptp(log_x) == 0:
        raise ValueError(
            f"A slope needs two values of x or more, but all {n} points have "
            f"x = {x[kept][0]:g}. Run more values of x."
        )
    centred = log_x - log_x.mean()
    spread = centred @ centred
    slope = centred @ log_y / spread
    residual = log_y - log_y.mean() - slope * centred
    error = np.sqrt(residual @ residual / (n - 2) / spread)
    half = stats.t.ppf(0.975, n - 2) * error
    return PowerLaw(
        slope=float(slope),
        intercept=float(log_y.mean() - slope * log_x.mean()),
        low=float(slope - half),
        high=float(slope + half),
        n_points=n,
        x_min=float(x[kept].min()),
        x_max=float(x[kept].max()),
        n_excluded=n_excluded,
    )


def scaling_table(
    summaries: "pd.DataFrame",
    x: str,
    x_from: float | None = None,
    metrics: Iterable[str] = (),
) -> "pd.DataFrame":
    """The slope of each metric along x: over all x, and over x >= x_from.

    Args:
        summaries: one row per run.
        x: the numeric column along which to fit.
        x_from: where the law is expected to hold from; `None` for all x.
        metrics: columns to fit.

    Returns:
        one row per metric, or per metric and combination of the other values swept:
        their columns, then `SLOPE_COLUMNS`. A metric that cannot be fitted has a row
        that notes why.

    Raises:
        InputError: if x is no column.
    """
    import pandas as pd

    if x not in summaries:
        raise InputError(
            f"There is no column {x!r} to fit along. The columns are "
            f"{list(summaries.columns)}."
        )
    by = [column for column in key_columns(summaries, [x]) if column != x]
    rows = []
    for values, group in groups(summaries.dropna(subset=[x]), by):
        for metric in dict.fromkeys(metrics):
            row = _row(group, x, x_from, metric)
            rows.append(dict(zip(by, values, strict=True)) | row)
    table = pd.DataFrame(rows, columns=[*by, *SLOPE_COLUMNS])
    types = {column: summaries[column].dtype for column in by}
    return table.astype(
        types | {name: column.dtype for name, column in SLOPE_COLUMNS.items()}
    )


def power_law(row: Mapping[str, Any]) -> PowerLaw:
    """The law from x_from up that a row of `scaling_table` with a fit describes."""
    return PowerLaw(**{field.name: row[field.name] for field in fields(PowerLaw)})


def fittable_columns(summaries: "pd.DataFrame") -> list[str]:
    """The measured columns of which a power law says something."""
    starts = ("relative_divergence", "rmse", "kernel_drift", "movement_")
    return [name for name in measured_columns(summaries) if name.startswith(starts)]


def _row(
    group: "pd.DataFrame",
    x: str,
    x_from: float | None,
    metric: str,
) -> dict[str, Any]:
    nan = float("nan")
    row: dict[str, Any] = dict.fromkeys(SLOPE_COLUMNS, nan)
    row |= {"metric": metric, "x": x, "x_from": x_from, "note": ""}
    row |= {"n_points": 0, "n_excluded": 0, "n_points_all": 0}

    whole, _ = _fit(group, x, metric)
    if whole is not None:
        row["slope_all"], row["n_points_all"] = whole.slope, whole.n_points
        row["low_all"], row["high_all"] = whole.low, whole.high

    upper = group if x_from is None else group.loc[group[x] >= x_from]
    law, why = _fit(upper, x, metric)
    if law is None:
        start = "" if x_from is None else f"from {x} = {x_from:g} up: "
        return row | {"note": start + why}
    row |= {name: value for name, value in vars(law).items() if name in SLOPE_COLUMNS}
    if law.n_excluded:
        n = law.n_excluded
        row["note"] = f"{n} run{'s' * (n > 1)} left out: the value is not positive"
    return row


def _fit(group: "pd.DataFrame", x: str, metric: str) -> tuple[PowerLaw | None, str]:
    """The law, or why there is none."""
    from pandas.api.types import is_numeric_dtype

    if metric not in group or not is_numeric_dtype(group[metric]):
        return None, f"the runs have no numeric column {metric!r}"
    try:
        y = group[metric].to_numpy(float, na_value=float("nan"))
        return fit_power_law(group[x].to_numpy(float), y), ""
    except ValueError as error:
        return None, str(error)
