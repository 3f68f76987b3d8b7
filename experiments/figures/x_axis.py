"""Where each run stands on the horizontal axis: at a number, or at a name's place."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.grouping import is_number, numbers

from .style import column_label, is_logarithmic, log_x

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray


@dataclass(frozen=True)
class XAxis:
    """A swept column, and the names that stand side by side where it is no number."""

    column: str
    names: list[str]  # empty for numbers
    law_expected: bool  # some power of it, of something

    def places(self, runs: "pd.DataFrame") -> "NDArray":
        """The place of each run, NaN for one without a number."""
        import numpy as np

        if not self.names:
            return numbers(runs, self.column)
        return np.array([self.names.index(_name(v)) for v in runs[self.column]], float)

    def beside(self, places: "NDArray", i: int, n: int) -> "NDArray":
        """The places moved a little, so that n series do not hide one another."""
        import numpy as np

        if n == 1:
            return places
        shift = i / (n - 1) - 0.5
        if self.names:
            return places + 0.5 * shift
        values = np.unique(places)
        if len(values) < 2 or values[0] <= 0:
            return places
        return places * (values[1:] / values[:-1]).min() ** (0.16 * shift)

    def draw(self, axes: "Axes", runs: "pd.DataFrame") -> None:
        """Scale, ticks and label."""
        axes.set_xlabel(column_label(self.column))
        if self.names:
            axes.set_xticks(range(len(self.names)), self.names)
            long = max(map(len, self.names)) * len(self.names) > 40
            axes.tick_params("x", rotation=25 if long else 0)
            axes.set_xlim(-0.6, len(self.names) - 0.4)
            return
        values = sorted(set(self.places(runs).tolist()))
        if is_logarithmic(values, 1 if self.law_expected else 8):
            log_x(axes, values)
        elif len(values) <= 9:
            axes.set_xticks(values, [f"{value:g}" for value in values])


def x_axis(runs: "pd.DataFrame", column: str, law_expected: bool) -> XAxis:
    """The axis of a column of the summaries."""
    if is_number(runs, column):
        return XAxis(column, [], law_expected)
    return XAxis(column, sorted({_name(value) for value in runs[column]}), law_expected)


def _name(value: Any) -> str:
    return "none" if value is None or value != value else str(value)
