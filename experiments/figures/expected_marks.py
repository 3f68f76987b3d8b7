"""What a study expects, drawn beside what was measured: laws, bands, references."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from experiments.grouping import numbers
from experiments.question import AnalysisConfig, ExpectationConfig, expected
from experiments.slopes import PowerLaw, fit_power_law, fittable_columns
from experiments.tables import describe
from experiments.verdicts import Unanswerable, runs_about

from .x_axis import XAxis

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

Band = tuple[float, float]


def laws(
    runs: "pd.DataFrame", metric: str, asked: AnalysisConfig, x: str
) -> Iterator[tuple[PowerLaw, Band | None]]:
    """The power laws of a metric of these runs, each with the slopes expected."""
    for expectation in asked.expect.values():
        if expectation.metric != metric or expectation.slope is None:
            continue
        if expectation.relative_to or (expectation.x or asked.x) != x:
            continue
        try:
            about = runs_about(runs, expectation, asked)
            law = fit_power_law(numbers(about, x), numbers(about, metric))
        except (Unanswerable, ValueError):
            continue
        _, low, high = expected(expectation)
        yield law, (low, high)
    # where a study expects nothing at all, the laws that anybody would look for
    if not asked.expect and asked.x == x and metric in fittable_columns(runs):
        upper = numbers(runs, x) >= (asked.x_from or 0)
        try:
            law = fit_power_law(numbers(runs, x)[upper], numbers(runs, metric)[upper])
        except ValueError:
            return
        yield law, None


def draw_law(
    axes: "Axes", law: PowerLaw, band: Band | None, color: Any, dash: str
) -> None:
    """A fitted law over the range fitted, in a wedge of the slopes expected."""
    import numpy as np

    x = np.geomspace(law.x_min, law.x_max, 33)
    if band is not None and np.isfinite(band).all():
        low, high = (law.turned(slope)(x) for slope in band)
        axes.fill_between(x, low, high, color=color, alpha=0.13, linewidth=0)
    axes.plot(x, law(x), dash, color=color, linewidth=1.6)


def draw_reference(axes: "Axes", runs: "pd.DataFrame", x: XAxis, column: str) -> None:
    """What a metric is expected relative to, as a line of its mean over runs."""
    places, means = _means(x.places(runs), numbers(runs, column))
    axes.plot(
        places, means, color="0.15", linestyle="--", linewidth=1.6, zorder=1.5,
        label=describe(column).label or column,
    )  # fmt: skip


def draw_band(
    axes: "Axes",
    runs: "pd.DataFrame",
    x: XAxis,
    expectation: ExpectationConfig,
    asked: AnalysisConfig,
    color: Any,
) -> None:
    """Where values are expected, over the runs that it is said of."""
    import numpy as np

    try:
        about = runs_about(runs, expectation, asked)
    except Unanswerable:
        return
    _, low, high = expected(expectation)
    reference = np.ones(len(about))
    if expectation.relative_to is not None:
        reference = numbers(about, expectation.relative_to)
    places, reference = _means(x.places(about), reference)
    bottom, top = axes.get_ylim()
    for ends, scale in _spans(x, places, reference):
        lower = np.full(len(ends), bottom) if np.isinf(low) else low * scale
        upper = np.full(len(ends), top) if np.isinf(high) else high * scale
        axes.fill_between(ends, lower, upper, color=color, alpha=0.13, linewidth=0)
        for value, edge in ((low, lower), (high, upper)):
            if np.isfinite(value):
                axes.plot(ends, edge, ":", color=color, linewidth=1.2)
    axes.set_ylim(bottom, top)


def _means(places: "NDArray", values: "NDArray") -> tuple["NDArray", "NDArray"]:
    """The mean of the values at each place."""
    import numpy as np

    kept = np.isfinite(places) & np.isfinite(values)
    found = np.unique(places[kept])
    means = [values[kept & (places == place)].mean() for place in found]
    return found, np.array(means)


def _spans(
    x: XAxis, places: "NDArray", reference: "NDArray"
) -> Iterator[tuple["NDArray", "NDArray"]]:
    """Stretches of the axis to shade; a single place gets some width."""
    import numpy as np

    if not x.names and len(places) > 1:
        yield places, reference
        return
    for place, value in zip(places, reference, strict=True):
        ends = [place - 0.4, place + 0.4] if x.names else [place / 1.1, place * 1.1]
        yield np.array(ends), np.array([value, value])
