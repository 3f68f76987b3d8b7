"""Figures from tables: divergence through training, and power laws along the sweep.

Each function returns a `matplotlib.figure.Figure`; nothing global is touched, so no
display is needed and nothing has to be closed. Knows no JAX.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.grouping import groups, key_columns
from experiments.question import AnalysisConfig
from experiments.slopes import PowerLaw, fittable_columns, power_law
from experiments.tables import (
    ALL_LAYERS,
    CURVE_COLUMNS,
    METRICS,
    NETWORKS,
    TEST,
    TRAIN,
    describe,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

# Okabe and Ito's colours, told apart by readers of every colour vision; yellow is left
# out, too light for a line on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")
MAX_COLORS = 9  # of the divergence figure; more cannot be told apart
MAX_SERIES = len(PALETTE)  # of a panel of the scaling figure


def divergence_figure(curves: "pd.DataFrame", summaries: "pd.DataFrame") -> "Figure":
    """Relative divergence against training steps: a panel per split and network.

    Args:
        curves: as `load_runs` returns them.
        summaries: the runs to draw, and the values that were swept over them.

    Returns:
        a line per combination of swept values, the median over seeds, in a band from
        the least seed to the greatest. When several values were swept, the number with
        the most values sets the colour and the others the dashes, and bands are left
        out. Step 0, where network and prediction agree, has no place on a logarithmic
        axis.
    """
    shown = curves.loc[
        (curves["metric"] == "relative_divergence")
        & (curves["step"] > 0)
        & (curves["value"] > 0)
        & (curves["value"] < float("inf"))
    ]
    styles = list(_line_styles(summaries))
    networks = [n for n in NETWORKS if (shown["network"] == n).any()] or [NETWORKS[0]]
    figure = _new_figure(9.6, 0.9 + 3.3 * len(networks))
    grid = figure.subplots(len(networks), 2, sharex=True, sharey="row", squeeze=False)
    for panels, network in zip(grid, networks, strict=True):
        for axes, split in zip(panels, (TRAIN, TEST), strict=True):
            here = shown.loc[(shown["network"] == network) & (shown["split"] == split)]
            for runs, style, banded in styles:
                lines = here.loc[here["run"].isin(runs)].groupby("step")["value"]
                _median(axes, lines, style, banded)
            trained = "" if len(networks) == 1 else f" ({network} trained)"
            axes.set_title(f"{split} examples{trained}", fontsize=11)
            _log_axes(axes, sorted(set(shown["step"])))
        divergence = METRICS["relative_divergence"]
        panels[0].set_ylabel(f"{divergence.label}\n{divergence.formula}")
    for axes in grid[-1]:
        axes.set_xlabel(CURVE_COLUMNS["step"].label)
    _style_legend(figure, summaries)
    if len(set(summaries["seed"])) > 1:
        banded = any(banded for _, _, banded in styles)
        bands = " Bands: from the least seed to the greatest." if banded else ""
        _footnote(figure, f"Lines: median over seeds.{bands}")
    return figure


def scaling_figure(
    summaries: "pd.DataFrame", slopes: "pd.DataFrame", asked: AnalysisConfig
) -> "Figure":
    """Divergence, drift and movement against x: points, fitted laws, slopes expected.

    Args:
        summaries: one row per run.
        slopes: from `scaling_table` along the same x.
        asked: the x, and the slopes expected.

    Returns:
        four panels at most. A point is a run; a line is the law over the range fitted;
        a light wedge spans the slopes expected, through the middle of the line. When
        more than x was swept there is a colour for each combination of the rest, and
        layers are left to `slopes.csv`.
    """
    x = asked.x or ""
    by = [column for column in key_columns(summaries, [x]) if column != x]
    bands = {
        e.metric: e.slope for e in asked.expect.values() if e.slope and not e.where
    }
    combinations = [values for values, _ in groups(summaries, by)]
    panels = [
        panel
        for panel in _panels(summaries, one_series=len(combinations) == 1)
        if panel
    ]
    n_columns = 2 if len(panels) > 1 else 1
    n_rows = -(-len(panels) // n_columns)
    figure = _new_figure(5.0 * n_columns, 0.6 + 3.8 * n_rows)
    grid = figure.subplots(n_rows, n_columns, squeeze=False)
    for spare in grid.flat[len(panels) :]:
        spare.set_axis_off()
    for axes, metrics in zip(grid.flat, panels, strict=False):
        series = list(_series(summaries, slopes, x, by, metrics, bands))
        for i, one in enumerate(_spread(series, MAX_SERIES)):
            _points_and_law(axes, one, PALETTE[i], MARKERS[i])
        title = ", ".join(map(_name, by))
        if len(series) > MAX_SERIES:
            title += f" ({MAX_SERIES} of {len(series)} shown)"
        _finish_panel(axes, metrics, summaries[x], title)
    note = "Points: single runs. Lines: least squares, with the slope's 95 % interval."
    if bands:
        note += " Shaded: the slopes expected."
    _footnote(figure, note)
    return figure


@dataclass(frozen=True)
class _Series:
    """One metric of one combination of swept values."""

    name: str
    x: "NDArray"
    y: "NDArray"
    law: PowerLaw | None
    band: tuple[float, float] | None


def _panels(summaries: "pd.DataFrame", one_series: bool) -> list[list[str]]:
    """The metrics of each panel: those of one unit and one order of magnitude."""
    columns = fittable_columns(summaries)
    start = "movement_relative/"
    layers = [name for name in columns if name.startswith(start)]
    total = [name for name in layers if name.startswith(start + ALL_LAYERS)]
    return [
        [name for name in columns if name.startswith(f"relative_divergence_{TEST}")],
        [name for name in columns if name.startswith("kernel_drift")],
        layers if one_series else total,
        [
            name
            for name in columns
            if name.startswith(f"movement_absolute/{ALL_LAYERS}")
        ],
    ]


def _series(
    summaries: "pd.DataFrame",
    slopes: "pd.DataFrame",
    x: str,
    by: list[str],
    metrics: list[str],
    bands: dict[str, Any],
) -> Iterator[_Series]:
    import numpy as np

    fits = {
        (values, row["metric"]): row
        for values, group in groups(slopes, by)
        for row in group.to_dict("records")
    }
    for values, group in groups(summaries, by):
        for metric in metrics:
            at = group[x].to_numpy(float, na_value=np.nan)
            y = group[metric].to_numpy(float, na_value=np.nan)
            kept = (at > 0) & (y > 0) & np.isfinite(y)
            if not kept.any():
                continue
            row = fits.get((values, metric))
            law = band = None
            if row is not None and row["slope"] == row["slope"]:
                law, band = power_law(row), bands.get(metric)
            name = _series_name(metric, metrics, values)
            yield _Series(name, at[kept], y[kept], law, band)


def _series_name(metric: str, metrics: list[str], values: tuple[Any, ...]) -> str:
    words = [_short(values)] if values else []
    if len(metrics) > 1:
        words.append(metric.split("/")[-1] if "/" in metric else describe(metric).label)
    return ", ".join(words)


def _points_and_law(axes: "Axes", one: _Series, color: str, marker: str) -> None:
    import numpy as np

    axes.plot(
        one.x, one.y, marker, color=color, alpha=0.45, markersize=5, markeredgewidth=0
    )
    slope = "no fit" if one.law is None else f"slope {one.law}".replace("-", "−")
    label = f"{one.name}: {slope}" if one.name else slope
    if one.law is None:
        axes.plot([], [], marker, color=color, label=label)
        return
    ends = np.array([one.law.x_min, one.law.x_max])
    if one.band is not None:
        low, high = (one.law.turned(slope) for slope in one.band)
        dense = np.geomspace(one.law.x_min, one.law.x_max, 33)
        axes.fill_between(
            dense, low(dense), high(dense), color=color, alpha=0.13, linewidth=0
        )
    axes.plot(
        ends, one.law(ends), color=color, marker=marker, markevery=[], label=label
    )


def _finish_panel(
    axes: "Axes", metrics: list[str], x: "pd.Series | pd.DataFrame", title: str
) -> None:
    """Scales and labels, and a legend titled `title` above all points."""
    _log_axes(axes, sorted(set(x.dropna())))
    axes.set_xlabel(describe(str(x.name)).label)
    metric = next(m for name, m in METRICS.items() if metrics[0].startswith(name))
    axes.set_ylabel(metric.formula)
    several = metric.label + (" of each layer" if metric.per_layer else "")
    single = describe(metrics[0]).label
    axes.set_title(single if len(metrics) == 1 else several, fontsize=11)
    # room for the legend above the points, in parts of the axes' height
    handles, _ = axes.get_legend_handles_labels()
    room = 0.04 + 0.065 * (len(handles) + bool(title))
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** (room / (1 - room)))
    axes.legend(title=title or None, loc="upper right", fontsize=9, framealpha=0.9)


def _median(axes: "Axes", by_step: Any, style: dict[str, Any], banded: bool) -> None:
    """The median over seeds as a line, from the least to the greatest as a band."""
    if not len(by_step):
        return
    table = by_step.agg(["median", "min", "max"])
    steps = table.index.to_numpy()
    if banded:
        axes.fill_between(
            steps,
            table["min"],
            table["max"],
            color=style["color"],
            alpha=0.18,
            linewidth=0,
        )
    axes.plot(steps, table["median"], linewidth=1.8, marker="o", markersize=3, **style)


def _line_styles(
    summaries: "pd.DataFrame",
) -> Iterator[tuple[list[str], dict[str, Any], bool]]:
    """For each line: its runs, its colour and dashes, and whether it has a band."""
    colors, dashes = _legend_keys(summaries)
    color_of = _colors(summaries, colors)
    dash_of = _dashes(summaries, dashes)
    for color_values, group in groups(summaries, colors):
        for dash_values, runs in groups(group, dashes):
            if color_values in color_of and dash_values in dash_of:
                style = {"color": color_of[color_values]}
                style["linestyle"] = dash_of[dash_values]
                yield list(runs["run"]), style, len(dash_of) == 1


def _legend_keys(summaries: "pd.DataFrame") -> tuple[list[str], list[str]]:
    """The swept keys that the colour tells apart, and those that the dashes do."""
    keys = key_columns(summaries)
    numbers = [key for key in keys if _is_number(summaries, key)]
    if len(keys) < 2 or not numbers:
        return keys, []
    most = max(numbers, key=lambda key: len(set(summaries[key].dropna())))
    return [most], [key for key in keys if key != most]


def _colors(summaries: "pd.DataFrame", keys: list[str]) -> dict[tuple, Any]:
    """A ramp from dark to light for numbers, colours far apart for the rest."""
    from matplotlib import colormaps

    drawn = _spread([values for values, _ in groups(summaries, keys)], MAX_COLORS)
    if len(keys) == 1 and _is_number(summaries, keys[0]):
        # not to the end, where viridis vanishes on white
        at = [0.88 * i / max(1, len(drawn) - 1) for i in range(len(drawn))]
        return dict(zip(drawn, colormaps["viridis"](at), strict=True))
    return dict(zip(_spread(drawn, len(PALETTE)), PALETTE, strict=False))


def _dashes(summaries: "pd.DataFrame", keys: list[str]) -> dict[tuple, str]:
    drawn = _spread([values for values, _ in groups(summaries, keys)], len(DASHES))
    return dict(zip(drawn, DASHES, strict=False))


def _style_legend(figure: "Figure", summaries: "pd.DataFrame") -> None:
    """What colours and dashes mean, and how many combinations were left out."""
    from matplotlib.lines import Line2D

    colors, dashes = _legend_keys(summaries)
    color_of, dash_of = _colors(summaries, colors), _dashes(summaries, dashes)
    handles = []
    for keys, style_of, style in (
        (colors, color_of, lambda color: {"color": color}),
        (dashes, dash_of, lambda dash: {"color": "0.3", "linestyle": dash}),
    ):
        n = len(list(groups(summaries, keys)))
        if n == 1:
            continue
        some = f" ({len(style_of)} of {n} shown)" if len(style_of) < n else ""
        title = ", ".join(_name(key) for key in keys) + some
        handles.append(Line2D([], [], linestyle="none", label=title))
        handles += [
            Line2D([], [], linewidth=1.8, label=_short(values), **style(what))
            for values, what in style_of.items()
        ]
    if handles:
        figure.legend(handles=handles, loc="outside right upper", frameon=False)


def _is_number(summaries: "pd.DataFrame", key: str) -> bool:
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    return is_numeric_dtype(summaries[key]) and not is_bool_dtype(summaries[key])


def _spread(items: Sequence, at_most: int) -> list:
    """At most so many of the items, the first and the last among them."""
    if len(items) <= at_most:
        return list(items)
    last = len(items) - 1
    return [items[round(i * last / (at_most - 1))] for i in range(at_most)]


def _short(values: tuple[Any, ...]) -> str:
    """The values of one combination; which keys they belong to stands elsewhere."""
    texts = [
        f"{v:.4g}" if isinstance(v, float) else str(v) for v in values if v is not None
    ]
    return ", ".join(texts) or "none"


def _name(key: str) -> str:
    """A key without its group, unless nothing would be left of its meaning."""
    group, _, name = key.rpartition(".")
    return group if name in ("name", "scheme") else name.replace("_", " ")


def _new_figure(width: float, height: float) -> "Figure":
    """An empty figure, in inches, outside pyplot and so without global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def _footnote(figure: "Figure", text: str) -> None:
    figure.supxlabel(text, fontsize=9, color="0.35")


def _log_axes(axes: "Axes", ticks: Sequence[float]) -> None:
    """Logarithmic axes, of one decade or more, labelled in x at the values swept."""
    import math

    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

    axes.set(xscale="log", yscale="log")
    low, high = axes.get_ylim()
    if high < 10 * low:  # what is constant should look constant
        middle = math.sqrt(low * high)
        low, high = middle / math.sqrt(10), middle * math.sqrt(10)
        axes.set_ylim(low, high)
    steps = (1, 2, 5) if high < 30 * low else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=steps))
    axes.yaxis.set_minor_formatter(NullFormatter())
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    if low >= 1e-4:
        axes.yaxis.set_major_formatter(plain)

    positive = [value for value in ticks if value > 0]
    if positive:
        apart = math.log(positive[-1] / positive[0]) / 9
        kept = positive[:1]
        for value in positive[1:]:
            if math.log(value / kept[-1]) >= apart:
                kept.append(value)
        axes.xaxis.set_major_locator(FixedLocator(kept))
        axes.xaxis.set_minor_locator(FixedLocator([]))
        axes.xaxis.set_major_formatter(plain)
    axes.grid(True, which="major", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
