"""What was measured at each recorded step of training."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from experiments.grouping import n_distinct
from experiments.tables import (
    CURVE_COLUMNS,
    NETWORKS,
    TEST,
    TRAIN,
    describe,
    summary_column,
)

from .encoding import Encoding, Line, encoding
from .style import (
    footnote,
    grid,
    is_logarithmic,
    log_x,
    log_y,
    share_y,
    tidy,
    value_label,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_PANELS = 9
_MOST_MARKED = 20  # steps: more marks than that hide the line
_USUAL = tuple(f"relative_divergence_{split}" for split in (TRAIN, TEST))


def through_training(
    curves: "pd.DataFrame", summaries: "pd.DataFrame", metrics: Sequence[str] = ()
) -> "Figure | None":
    """Metrics against training steps: a panel for each, and for each network.

    Args:
        curves: as `load_runs` returns them.
        summaries: the runs to draw, and the values that were swept over them.
        metrics: named as in `summary.csv`; by default the relative divergence of both
            splits.

    Returns:
        a line per combination of swept values, the median over seeds, in a band from
        the least seed to the greatest, which is left out where dashes tell lines
        apart. Step 0 has no place on a logarithmic axis.
    """
    metrics = metrics or _USUAL
    tables = dict(iter(_named(curves, metrics).groupby(["column", "network"])))
    panels = [
        (metric, network, tables[metric, network])
        for metric in metrics
        for network in NETWORKS
        if (metric, network) in tables
    ][:_MOST_PANELS]
    if not panels:
        return None
    looks = encoding(summaries)
    several = len({network for _, network, _ in panels}) > 1
    facets = looks.facets(at_most=_MOST_PANELS // len(panels))
    figure, grid_axes = grid(len(panels) * len(facets), (4.8, 3.4))
    each = [(panel, facet) for panel in panels for facet in facets]
    for axes, ((metric, network, table), (name, facet)) in zip(
        grid_axes, each, strict=True
    ):
        _draw(axes, table, facet)
        trained = f" ({network} trained)" if several else ""
        tidy(axes, describe(metric).label + trained + (f": {name}" if name else ""))
        axes.set_ylabel(value_label(metric))
        axes.set_xlabel(CURVE_COLUMNS["step"].label)
    share_y(grid_axes, len(facets))
    facets[0][1].draw_legend(figure)
    if n_distinct(summaries, "seed") > 1:
        banded = not _dashed(facets[0][1])
        bands = " Bands: from the least seed to the greatest." if banded else ""
        footnote(figure, f"Lines: median over seeds.{bands}")
    return figure


def _named(curves: "pd.DataFrame", metrics: Sequence[str]) -> "pd.DataFrame":
    """The curves of these metrics after step 0, each under its summary's name."""
    names = {}
    for metric, split in curves[["metric", "split"]].drop_duplicates().to_numpy():
        try:
            names[metric, split] = summary_column(metric, split)
        except ValueError:  # of a newer version
            names[metric, split] = f"{metric}_{split}"
    wanted = [metric for (metric, _), name in names.items() if name in metrics]
    shown = curves.loc[(curves["step"] > 0) & curves["metric"].isin(wanted)]
    keys = zip(shown["metric"], shown["split"], strict=True)
    return shown.assign(column=[names[key] for key in keys])


def _draw(axes: "Axes", table: "pd.DataFrame", looks: Encoding) -> None:
    values = table["value"].to_numpy(float)
    finite = values[(values > 0) & (values < float("inf"))]
    logarithmic = is_logarithmic(finite, 10) and not bool((values < 0).any())
    if logarithmic:
        table = table.loc[(table["value"] > 0) & (table["value"] < float("inf"))]
    drawn = []
    for line in looks.lines:
        mine = table.loc[table["run"].isin(line.runs["run"])]
        if len(mine):
            by_step = mine.groupby("step")["value"]
            drawn.append(_median(axes, by_step, line, banded=not _dashed(looks)))
    log_x(axes, set(table["step"]))
    if logarithmic and drawn:
        low, high = min(low for low, _ in drawn), max(high for _, high in drawn)
        log_y(axes, low * (low / high) ** 0.05, high * (high / low) ** 0.05)


def _median(
    axes: "Axes", by_step: Any, line: Line, banded: bool
) -> tuple[float, float]:
    """The median over seeds as a line, from the least to the greatest as a band."""
    table = by_step.agg(["median", "min", "max"])
    steps = table.index.to_numpy()
    if banded:
        axes.fill_between(
            steps, table["min"], table["max"], color=line.color, alpha=0.18, linewidth=0
        )
    axes.plot(
        steps, table["median"], line.dash, color=line.color, linewidth=1.8,
        marker=line.marker if len(steps) <= _MOST_MARKED else "", markersize=3.5,
    )  # fmt: skip
    low, high = ("min", "max") if banded else ("median", "median")
    return float(table[low].min()), float(table[high].max())


def _dashed(looks: Encoding) -> bool:
    return looks.dash.n_combinations > 1
