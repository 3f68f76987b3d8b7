"""The points of the curves, run by run, for tools that take one at a time."""

from typing import NamedTuple

from experiments.study import Study


class Point(NamedTuple):
    """A measurement of a run at a step."""

    step: int
    network: str
    split: str
    metric: str
    value: float


def points(study: Study) -> dict[str, list[Point]]:
    """The points of each run; a run without curves has none."""
    found: dict[str, list[Point]] = {
        str(run): [] for run in study.runs.summaries["run"]
    }
    columns = [study.runs.curves[name].tolist() for name in ("run", *Point._fields)]
    for run, *values in zip(*columns, strict=True):
        found[run].append(Point(*values))
    return found
