"""What all figures share: colours, axes, words, legends."""

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from experiments.tables import METRICS, describe

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by readers of every colour vision; yellow is left
# out, too light for a line on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure, in inches, outside pyplot and so without global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def grid(n_panels: int, panel: tuple[float, float]) -> tuple["Figure", list["Axes"]]:
    """A figure of so many panels of this size in inches, two or three in a row."""
    n_columns = min(n_panels, 2 if n_panels in (2, 4) else 3)
    n_rows = -(-n_panels // n_columns)
    widths = {1: 1.5, 2: 1.0, 3: 0.85}  # of a panel, so that figures are about as wide
    width = panel[0] * n_columns * widths[n_columns]
    figure = new_figure(width, 0.6 + panel[1] * n_rows)
    axes = list(figure.subplots(n_rows, n_columns, squeeze=False).flat)
    for spare in axes[n_panels:]:
        spare.set_axis_off()
    return figure, axes[:n_panels]


def footnote(figure: "Figure", text: str) -> None:
    """How to read the figure, below it."""
    width = int(15.5 * figure.get_figwidth())  # letters of this size
    figure.supxlabel(textwrap.fill(text, width), fontsize=9, color="0.35")


def spread(items: Sequence, at_most: int) -> list:
    """At most so many of the items, the first and the last among them."""
    if len(items) <= at_most:
        return list(items)
    last = len(items) - 1
    return [items[round(i * last / (at_most - 1))] for i in range(at_most)]


def short(values: tuple[Any, ...]) -> str:
    """The values of one combination; which keys they belong to stands elsewhere."""
    texts = [
        f"{v:.4g}" if isinstance(v, float) else str(v) for v in values if v is not None
    ]
    return ", ".join(texts) or "none"


def key_name(key: str) -> str:
    """A config key without its group, unless nothing would be left of its meaning."""
    group, _, name = key.rpartition(".")
    return group if name in ("name", "scheme") else name.replace("_", " ")


def value_label(metric: str) -> str:
    """What a vertical axis shows: the metric's formula, or its unit."""
    declared = METRICS.get(metric.partition("@")[0].split("/")[0]) or next(
        (m for name, m in METRICS.items() if metric.startswith(f"{name}_")), None
    )
    if declared is not None and declared.formula:
        return declared.formula
    column = describe(metric)
    unit = "" if column.unit in ("", "1") else f" [{column.unit}]"
    unit = unit.replace("^2", "²").replace(" x ", " × ")
    return f"{column.label or metric}{unit}"


def column_label(column: str) -> str:
    """What a horizontal axis shows."""
    if column.endswith((".name", ".scheme")):
        return key_name(column)
    return describe(column).label or column


def is_logarithmic(values: Iterable[float], spread_over: float) -> bool:
    """Whether values are positive and spread over more than such a factor."""
    finite = [v for v in values if math.isfinite(v)]
    return bool(finite) and min(finite) > 0 and max(finite) > spread_over * min(finite)


def log_y(axes: "Axes", low: float, high: float) -> None:
    """A logarithmic vertical axis over a decade or more, labelled in plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    if high < 10 * low:  # what is constant should look constant
        middle = math.sqrt(low * high)
        low, high = middle / math.sqrt(10), middle * math.sqrt(10)
    axes.set_ylim(low, high)
    steps = (1, 2, 5) if high < 100 * low else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=steps))
    axes.yaxis.set_minor_formatter(NullFormatter())
    if low >= 1e-4 and high <= 1e5:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def log_x(axes: "Axes", ticks: Iterable[float]) -> None:
    """A logarithmic horizontal axis, labelled at the values that occur."""
    from matplotlib.ticker import FixedLocator, FuncFormatter

    axes.set_xscale("log")
    positive = sorted({value for value in ticks if value > 0})
    if not positive:
        return
    apart = math.log(positive[-1] / positive[0]) / 9
    kept = positive[:1]
    for value in positive[1:]:
        if math.log(value / kept[-1]) >= apart:
            kept.append(value)
    axes.xaxis.set_major_locator(FixedLocator(kept))
    axes.xaxis.set_minor_locator(FixedLocator([]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def share_y(axes: list["Axes"], n: int) -> None:
    """One vertical range for each n panels in a row: those of one metric."""
    for start in range(0, len(axes), n):
        same = [one for one in axes[start : start + n] if one.has_data()]
        limits = [one.get_ylim() for one in same]
        for one in same if len({one.get_yscale() for one in same}) == 1 else []:
            one.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


def tidy(axes: "Axes", title: str) -> None:
    """A light grid, two spines, a title."""
    axes.grid(True, which="major", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=11)


def legend_above(axes: "Axes", title: str = "") -> None:
    """A legend for which the vertical axis is extended, so that it hides no point."""
    handles, _ = axes.get_legend_handles_labels()
    if not handles:
        return
    room = min(0.5, 0.04 + 0.065 * (len(handles) + bool(title)))
    low, high = axes.get_ylim()
    if axes.get_yscale() == "log":
        axes.set_ylim(low, high * (high / low) ** (room / (1 - room)))
    else:
        axes.set_ylim(low, high + (high - low) * room / (1 - room))
    axes.legend(title=title or None, loc="upper right", fontsize=9, framealpha=0.9)
