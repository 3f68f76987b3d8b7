"""What the runs of a study are asked together: the `analysis` block of a config.

A study says beforehand what it expects; `experiments.verdicts` says whether it came so.
Imports neither hydra nor pandas: configs are typed with it, and analyses read it back.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple


@dataclass
class ExpectationConfig:
    """One thing expected of the runs: a quantity of a metric, and the band it lies in.

    Exactly one of `slope`, `value`, `ratio` and `difference` is given, as the lowest
    and the highest value expected; `null` leaves an end open.
    """

    metric: str  # summary column
    slope: list[float | None] | None = None  # of log metric on log x, run by run
    value: list[float | None] | None = None  # of the mean over runs
    ratio: list[float | None] | None = None  # of the mean to that of the runs `versus`
    difference: list[float | None] | None = None  # of the two means
    relative_to: str | None = None  # summary column to divide the metric by, such as
    # the value that a law predicts; figures draw it as a line
    where: dict[str, Any] = field(default_factory=dict)  # summary column: value or list
    versus: dict[str, Any] = field(default_factory=dict)  # what differs in the others
    by: list[str] | None = None  # a verdict per combination of these summary columns;
    # null: of all that vary beside those of `versus`, and beside a slope's x
    x: str | None = None  # null: that of the study
    x_from: float | None = None  # null: that of the study
    x_to: float | None = None
    published: str = ""  # what theory or a paper says, with its name


@dataclass
class AnalysisConfig:
    """What the runs of a study are asked together. No part of a run's identity."""

    question: str = ""
    after_sweep: bool = False  # whether a sweep ends by analysing itself
    x: str | None = None  # summary column that figures and slopes go along
    x_from: float | None = None  # what is expected holds from here up
    show: list[str] = field(default_factory=list)  # summary columns to draw as well
    # Metrics of `curves.csv` to draw against steps, named as in `summary.csv`.
    through_training: list[str] = field(default_factory=list)
    expect: dict[str, ExpectationConfig] = field(default_factory=dict)


class Expected(NamedTuple):
    """The quantity that an expectation is about, and its band."""

    quantity: str  # one of `QUANTITIES`
    low: float
    high: float


QUANTITIES = ("slope", "value", "ratio", "difference")


def expected(expectation: ExpectationConfig) -> Expected:
    """The one quantity with a band; an end left open is infinite."""
    (name,) = (name for name in QUANTITIES if getattr(expectation, name) is not None)
    low, high = getattr(expectation, name)
    return Expected(
        name, -math.inf if low is None else low, math.inf if high is None else high
    )


def problems(analysis: AnalysisConfig) -> Iterator[str]:
    """One line for each expectation that says nothing that can be met."""
    for name, expectation in analysis.expect.items():
        here = f"analysis.expect.{name}"
        given = [q for q in QUANTITIES if getattr(expectation, q) is not None]
        if len(given) != 1:
            what = "none" if not given else " and ".join(given)
            yield (
                f"{here} has {what} of {', '.join(QUANTITIES)}; it must have one, such "
                "as `slope: [-1.2, -0.65]`."
            )
            continue
        band = getattr(expectation, given[0])
        if not _is_band(band):
            yield (
                f"{here}.{given[0]}={band} must be the lowest and the highest value "
                "expected, such as [-1.2, -0.65], or [null, 0.05] for an open end."
            )
        compares = given[0] in ("ratio", "difference")
        if compares and not expectation.versus:
            yield (
                f"{here}.{given[0]} compares two sets of runs; give the other one, "
                "such as `versus: {parameterization.scheme: ntk}`."
            )
        if expectation.versus and not compares:
            yield f"{here}.versus is for `ratio` and `difference`, not {given[0]}."
        if given[0] == "slope" and not (expectation.x or analysis.x):
            yield f"{here}.slope needs an x: type analysis.x, such as model.width."


def from_plain(block: Mapping[str, Any]) -> AnalysisConfig:
    """The block of a `config.yaml`; keys that this version does not know are left out.

    Raises:
        TypeError, ValueError: if it is no such block.
    """
    expect = {
        name: ExpectationConfig(**_known(ExpectationConfig, one))
        for name, one in (block.get("expect") or {}).items()
    }
    values = {**_known(AnalysisConfig, block), "expect": expect}
    found = AnalysisConfig(**values)
    if wrong := list(problems(found)):
        raise ValueError("\n".join(wrong))
    return found


def _known(node: type, block: Mapping[str, Any]) -> dict[str, Any]:
    return {f.name: block[f.name] for f in fields(node) if f.name in block}


def _is_band(band: list[float | None]) -> bool:
    if len(band) != 2 or band == [None, None]:
        return False
    low = -math.inf if band[0] is None else band[0]
    high = math.inf if band[1] is None else band[1]
    return low <= high  # not so when one is NaN
