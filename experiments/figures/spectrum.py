"""The eigenvalues of the kernel, before training and after."""

from typing import TYPE_CHECKING

from .encoding import encoding
from .style import DASHES, footnote, grid, log_x, log_y, tidy

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_METRIC = "eigenvalue/"


def spectrum(curves: "pd.DataFrame", summaries: "pd.DataFrame") -> "Figure | None":
    """Eigenvalues by their rank, the median over seeds, at the first and the last step.

    Args:
        curves: with metrics `eigenvalue/1`, the largest, `eigenvalue/2`, ...
        summaries: the runs to draw, and the values that were swept over them.

    Returns:
        a line per combination of swept values and step; `None` where runs have no
        eigenvalues.
    """
    from matplotlib.lines import Line2D

    found = curves.loc[curves["metric"].str.startswith(_METRIC) & (curves["value"] > 0)]
    if not len(found):
        return None
    found = found.assign(rank=found["metric"].str.removeprefix(_METRIC).astype("int64"))
    looks = encoding(summaries)
    figure, (axes,) = grid(1, (6.4, 4.2))
    steps = sorted({found["step"].min(), found["step"].max()}, reverse=True)
    for line in looks.lines:
        mine = found.loc[found["run"].isin(line.runs["run"])]
        for step, dash in zip(steps, DASHES, strict=False):
            by_rank = mine.loc[mine["step"] == step].groupby("rank")["value"].median()
            axes.plot(
                by_rank.index, by_rank, dash, color=line.color, linewidth=1.6,
                marker=line.marker if len(by_rank) < 20 else "", markersize=3.5,
            )  # fmt: skip
    ranks = [10**k * m for k in range(5) for m in (1, 2, 5)]
    log_x(axes, [rank for rank in ranks if rank <= found["rank"].max()])
    low, high = float(found["value"].min()), float(found["value"].max())
    log_y(axes, low * (low / high) ** 0.05, high * (high / low) ** 0.05)
    axes.set_xlabel("rank of the eigenvalue")
    axes.set_ylabel("eigenvalue of the train-train kernel")
    tidy(axes, "spectrum of the kernel")
    handles = [
        Line2D([], [], color="0.3", linestyle=dash, label=f"step {step}")
        for step, dash in zip(steps, DASHES, strict=False)
    ]
    axes.legend(handles=handles, loc="upper right", fontsize=9)
    looks.draw_legend(figure)
    footnote(figure, "Median over seeds.")
    return figure
