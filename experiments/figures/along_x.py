"""What was measured at the end of training, against the value that was swept.

A dot is a run; a mark with a bar is the mean over seeds with its 95 % interval. Slopes
expected are drawn as fitted laws in a wedge, values expected as bands, and what a
metric is expected relative to as a line of its own.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.grouping import is_number, n_distinct, numbers
from experiments.intervals import mean_interval
from experiments.question import AnalysisConfig, ExpectationConfig
from experiments.tables import ALL_LAYERS, METRICS, describe
from experiments.verdicts import Unanswerable, runs_about

from .encoding import Encoding, Line, encoding
from .expected_marks import draw_band, draw_law, draw_reference, laws
from .style import (
    MARKERS,
    PALETTE,
    footnote,
    grid,
    is_logarithmic,
    legend_above,
    log_y,
    share_y,
    tidy,
    value_label,
)
from .x_axis import XAxis, x_axis

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_MOST_PANELS = 9
_MOST_NAMED = 6  # slopes in one panel
# What is drawn when a study declares nothing; those that the runs have.
_USUAL = (
    "relative_divergence_test", "kernel_drift", f"movement_relative/{ALL_LAYERS}",
    "accuracy_network_test", "relative_divergence_test@all",
)  # fmt: skip


def x_columns(summaries: "pd.DataFrame", asked: AnalysisConfig) -> list[str]:
    """The columns to draw along: the study's own, and those of single expectations."""
    own = asked.x
    if own is None or own not in summaries or n_distinct(summaries, own) < 2:
        own = next(iter(encoding(summaries).color.keys), None)
    others = [e.x for e in asked.expect.values()]
    columns = dict.fromkeys(x for x in (own, *others) if x is not None)
    return [x for x in columns if x in summaries and n_distinct(summaries, x) > 1]


def along_x(
    summaries: "pd.DataFrame", asked: AnalysisConfig, x: str
) -> "Figure | None":
    """A panel per metric that the study expects something of, or asks to be shown.

    Args:
        summaries: one row per run.
        asked: the metrics and what is expected of them.
        x: the column on the horizontal axis, a number or a name.

    Returns:
        a figure with a colour for each value of what else was swept; `None` when the
        runs have none of the metrics.
    """
    runs = summaries.dropna(subset=[x]) if is_number(summaries, x) else summaries
    looks = encoding(runs, without=x)
    panels = _panels(runs, asked, x, one_line=len(looks.lines) == 1)[:_MOST_PANELS]
    if not panels:
        return None
    facets = looks.facets(at_most=_MOST_PANELS // len(panels))
    # one horizontal scale for all, so that panels can be compared
    axis = x_axis(runs, x, any(panel.law_expected for panel in panels))
    figure, grid_axes = grid(len(panels) * len(facets), (5.0, 3.8))
    each = [(panel, name, facet) for panel in panels for name, facet in facets]
    for axes, (panel, name, facet) in zip(grid_axes, each, strict=True):
        _draw(axes, panel, facet, axis, asked)
        if name:
            axes.set_title(f"{axes.get_title()}: {name}", fontsize=11)
    share_y(grid_axes, len(facets))
    facets[0][1].draw_legend(figure)
    footnote(figure, _note(runs, panels))
    return figure


@dataclass(frozen=True)
class _Panel:
    """Metrics that share an axis, and what is expected of them."""

    metrics: list[str]  # several only where they are layers of one measurement
    expect: list[ExpectationConfig]

    @property
    def title(self) -> str:
        if len(self.metrics) == 1:
            return describe(self.metrics[0]).label or self.metrics[0]
        return METRICS[self.metrics[0].split("/")[0]].label + " of each layer"

    @property
    def references(self) -> list[str]:
        """The columns that metrics are expected relative to."""
        return list(dict.fromkeys(e.relative_to for e in self.expect if e.relative_to))

    @property
    def law_expected(self) -> bool:
        """Whether a power of x, or a column of the runs, is expected of them."""
        return bool(self.references) or any(e.slope for e in self.expect)


def _panels(
    runs: "pd.DataFrame", asked: AnalysisConfig, x: str, one_line: bool
) -> list[_Panel]:
    own = [e for e in asked.expect.values() if (e.x or asked.x or x) == x]
    wanted = [e.metric for e in own] + (asked.show if asked.x in (x, None) else [])
    panels: dict[str, list[str]] = {}
    for metric in dict.fromkeys(wanted or _USUAL):
        if metric in runs and is_number(runs, metric) and n_distinct(runs, metric):
            key = metric.split("/")[0] if one_line else metric  # layers on one panel
            panels.setdefault(key, []).append(metric)
    return [
        _Panel(names[: len(PALETTE)], [e for e in own if e.metric in names])
        for names in panels.values()
    ]


def _draw(
    axes: "Axes",
    panel: _Panel,
    looks: Encoding,
    x: XAxis,
    asked: AnalysisConfig,
) -> None:
    import numpy as np

    runs = looks.summaries
    values = np.concatenate([numbers(runs, name) for name in panel.metrics])
    values = values[np.isfinite(values)]
    logarithmic = panel.law_expected or is_logarithmic(values, 5)
    if logarithmic:  # what is zero has no place there
        values = values[values > 0]
    tidy(axes, panel.title if len(values) else f"{panel.title}: no values")
    if not len(values):
        return
    x.draw(axes, runs)
    axes.set_ylabel(value_label(panel.metrics[0]))
    _limits(axes, values, logarithmic)
    series = list(_series(panel, looks.lines, x, logarithmic))
    for one in series:
        fitted = list(laws(one.line.runs, one.metric, asked, x.column))
        for law, band in fitted:
            wedge = band if looks.dash.n_combinations == 1 else None
            draw_law(axes, law, wedge, one.line.color, one.line.dash)
        _draw_runs(axes, one, joined=not x.names and not fitted)
        slopes = [f"slope {law}".replace("-", "−") for law, _ in fitted]
        words = ": ".join(filter(None, [one.name, ", ".join(slopes)]))
        if words and len(series) <= _MOST_NAMED:
            axes.plot(
                [], [], label=words, color=one.line.color, marker=one.line.marker,
                linestyle=one.line.dash if fitted else "none",
            )  # fmt: skip
    for column in panel.references:
        if column in runs:
            draw_reference(axes, runs, x, column)
    for expectation in panel.expect:
        if expectation.value is not None:
            color = _color_of(series, expectation, runs, asked)
            draw_band(axes, runs, x, expectation, asked, color)
    legend_above(axes)


@dataclass(frozen=True)
class _Series:
    """One metric of the runs of one line."""

    metric: str
    line: Line
    at: "NDArray"
    y: "NDArray"
    name: str


def _series(
    panel: _Panel, lines: list[Line], x: XAxis, logarithmic: bool
) -> Iterator[_Series]:
    """What can be drawn of each metric and line."""
    import numpy as np

    for i, line in enumerate(lines):
        at = x.beside(x.places(line.runs), i, len(lines))
        for j, metric in enumerate(panel.metrics):
            y = numbers(line.runs, metric)
            kept = np.isfinite(y) & ((y > 0) | (not logarithmic))
            looks, name = line, ""
            if len(panel.metrics) > 1:
                looks = dataclasses.replace(line, color=PALETTE[j], marker=MARKERS[j])
                name = metric.split("/", 1)[-1]
            if kept.any():
                yield _Series(metric, looks, at[kept], y[kept], name)


def _draw_runs(axes: "Axes", one: _Series, joined: bool) -> None:
    """Every run as a dot; the mean of those at one place, with its interval."""
    import numpy as np

    looks: dict[str, Any] = {"color": one.line.color, "marker": one.line.marker}
    places = np.unique(one.at)
    found = [mean_interval(one.y[one.at == place]) for place in places]
    means = [interval.estimate for interval in found]
    several = len(one.at) > len(places)
    axes.plot(
        one.at, one.y, linestyle="none", alpha=0.5 if several else 0.9,
        markersize=4 if several else 6, markeredgewidth=0, **looks,
    )  # fmt: skip
    if joined and len(places) > 1:
        axes.plot(
            places, means, one.line.dash, color=one.line.color, linewidth=1.2, alpha=0.8
        )
    if several:
        ends = np.array([[interval.low, interval.high] for interval in found]).T
        axes.vlines(places, *ends, color=one.line.color, linewidth=1.3)
        axes.plot(
            places, means, linestyle="none", markersize=6, markerfacecolor="white",
            markeredgewidth=1.5, **looks,
        )  # fmt: skip


def _color_of(
    series: list[_Series],
    expectation: ExpectationConfig,
    runs: "pd.DataFrame",
    asked: AnalysisConfig,
) -> Any:
    """The colour of the only line that an expectation is about, or grey."""
    try:
        about = set(runs_about(runs, expectation, asked)["run"])
    except Unanswerable:
        return "0.4"
    colors = [
        one.line.color
        for one in series
        if one.metric == expectation.metric and about & set(one.line.runs["run"])
    ]
    return colors[0] if len(colors) == 1 and len(series) > 1 else "0.4"


def _limits(axes: "Axes", values: "NDArray", logarithmic: bool) -> None:
    """Limits from the runs: an interval that leaves them is cut off."""
    low, high = float(values.min()), float(values.max())
    if logarithmic:
        room = (high / low) ** 0.08 if high > low else 1.2
        log_y(axes, low / room, high * room)
    else:
        room = 0.08 * (high - low) or abs(high) * 0.1 or 1.0
        axes.set_ylim(low - room, high + room)


def _note(runs: "pd.DataFrame", panels: list[_Panel]) -> str:
    expect = [expectation for panel in panels for expectation in panel.expect]
    note = "Dots: single runs."
    if n_distinct(runs, "seed") > 1:
        note += " Marks with bars: means over seeds, 95 % intervals."
    if any(e.slope for e in expect):
        note += " Lines: least squares, with the slope's 95 % interval."
    if any(e.slope or e.value for e in expect):
        note += " Shaded: expected."
    return note
