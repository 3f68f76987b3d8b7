"""Which runs a line stands for, and its looks: colours and dashes of swept values."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.grouping import groups, is_number, key_columns

from .style import DASHES, MARKERS, PALETTE, key_name, short, spread

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_MAX_RAMP = 9  # colours of a ramp that can be told apart


@dataclass(frozen=True)
class Line:
    """The runs of one combination of swept values, and their looks."""

    runs: "pd.DataFrame"  # rows of the summaries
    color: Any
    marker: str
    dash: str


@dataclass(frozen=True)
class _Channel:
    """The keys that one property of a line tells apart, and its value for each."""

    keys: list[str]
    looks: dict[tuple, dict[str, Any]]
    n_combinations: int

    @property
    def title(self) -> str:
        n, of = len(self.looks), self.n_combinations
        some = f" ({n} of {of} shown)" if n < of else ""
        return ", ".join(map(key_name, self.keys)) + some


@dataclass(frozen=True)
class Encoding:
    """The swept key with the most values sets the colour, the others the dashes."""

    summaries: "pd.DataFrame"
    color: _Channel
    dash: _Channel

    @property
    def lines(self) -> list[Line]:
        """A line for each combination shown."""
        plain = {"marker": "o", "dash": "-"}
        return [
            Line(runs, **plain | self.color.looks[one] | self.dash.looks[other])
            for one, group in groups(self.summaries, self.color.keys)
            for other, runs in groups(group, self.dash.keys)
            if one in self.color.looks and other in self.dash.looks
        ]

    def facets(self, at_most: int) -> "list[tuple[str, Encoding]]":
        """A panel for each value that dashes would tell apart, where they are few."""
        if not 1 < self.dash.n_combinations <= at_most:
            return [("", self)]
        return [
            (short(values), Encoding(runs, self.color, _Channel([], {(): {}}, 1)))
            for values, runs in groups(self.summaries, self.dash.keys)
        ]

    def draw_legend(self, figure: "Figure") -> None:
        """What colours and dashes mean, and how many combinations were left out."""
        from matplotlib.lines import Line2D

        dashed = self.dash.n_combinations > 1
        handles = []
        for channel in (self.color, self.dash):
            if channel.n_combinations == 1:
                continue
            handles.append(Line2D([], [], linestyle="none", label=channel.title))
            for values, look in channel.looks.items():
                handles.append(
                    Line2D(
                        [], [],
                        color=look.get("color", "0.3"),
                        marker="" if dashed and "color" in look else look.get("marker"),
                        linestyle=look.get("dash", "-"),
                        linewidth=1.8, markersize=5, label=short(values),
                    )
                )  # fmt: skip
        if handles:
            figure.legend(handles=handles, loc="outside right upper", frameon=False)


def encoding(summaries: "pd.DataFrame", without: str | None = None) -> Encoding:
    """Looks for what varies between runs beside the column `without`."""
    keys = key_columns(summaries, [without] if without else [])
    keys = [key for key in keys if key != without]
    n_values = {key: _combinations(summaries, [key]) for key in keys}
    most = max(
        keys,
        key=lambda key: (is_number(summaries, key), len(n_values[key])),
        default=None,
    )
    rest = [key for key in keys if key != most]
    color_keys = [] if most is None else [most]
    if len(_combinations(summaries, rest)) > len(DASHES) and (
        len(_combinations(summaries, keys)) <= len(PALETTE)
    ):
        color_keys, rest = keys, []
    dashes = _combinations(summaries, rest)
    colors = _combinations(summaries, color_keys)
    looks = _color_looks(summaries, color_keys, colors)
    dash_looks = {
        values: {"dash": dash, "marker": marker} if len(dashes) > 1 else {}
        for values, dash, marker in zip(
            spread(dashes, len(DASHES)), DASHES, MARKERS, strict=False
        )
    }
    return Encoding(
        summaries,
        _Channel(color_keys, looks, len(colors)),
        _Channel(rest, dash_looks, len(dashes)),
    )


def _combinations(summaries: "pd.DataFrame", keys: list[str]) -> list[tuple]:
    return [values for values, _ in groups(summaries, keys)]


def _color_looks(
    summaries: "pd.DataFrame", keys: list[str], combinations: list[tuple]
) -> dict[tuple, dict[str, Any]]:
    """A ramp from dark to light for numbers, colours far apart for the rest."""
    from matplotlib import colormaps

    if len(keys) == 1 and is_number(summaries, keys[0]) and len(combinations) > 2:
        drawn = spread(combinations, _MAX_RAMP)
        # not to the end, where viridis vanishes on white
        at = [0.88 * i / (len(drawn) - 1) for i in range(len(drawn))]
        ramp = zip(drawn, map(tuple, colormaps["viridis"](at)), strict=True)
        return {values: {"color": color} for values, color in ramp}
    looks = zip(spread(combinations, len(PALETTE)), PALETTE, MARKERS, strict=False)
    return {
        values: {"color": color, "marker": marker} for values, color, marker in looks
    }
