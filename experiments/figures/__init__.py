"""Figures of a study, from its tables and from what it declares; knows no JAX.

Figures belong to nobody: nothing global is touched, so no display is needed and nothing
has to be closed.
"""

from typing import TYPE_CHECKING

from experiments.study import Study

from .along_x import along_x, x_columns
from .spectrum import spectrum
from .style import key_name
from .through_training import through_training

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(study: Study) -> "dict[str, Figure]":
    """All figures of a study, by name: what it has nothing to show of is left out."""
    summaries, curves = study.runs.summaries, study.runs.curves
    figures = {
        f"along {key_name(x)}": along_x(summaries, study.asked, x)
        for x in x_columns(summaries, study.asked)
    }
    figures["through training"] = through_training(
        curves, summaries, study.asked.through_training
    )
    figures["spectrum"] = spectrum(curves, summaries)
    return {name: figure for name, figure in figures.items() if figure is not None}
