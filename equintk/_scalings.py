r"""How parameters are drawn and multiplied in each parameterization: the one table.

A parameter is multiplier × raw, and trained is what is raw. With $n$ the fan-in of a
weight, or the fan-out of an input weight, or the size of a bias or a gain between
weights, $w$ = W_std and $b$ = b_std:

| scheme   | parameter            | raw: standard deviation   | multiplier  |
|----------|----------------------|---------------------------|-------------|
| ntk      | weight               | 1                         | w / sqrt(n) |
|          | bias                 | 1                         | b           |
| standard | weight               | w / sqrt(n)               | 1           |
|          | bias                 | b                         | 1           |
| mup      | input weight         | w / sqrt(fan-in) / sqrt(n)| sqrt(n)     |
|          | hidden weight        | w / sqrt(n)               | 1           |
|          | output weight        | w / sqrt(n)               | 1 / sqrt(n) |
|          | bias between weights | b / sqrt(n)               | sqrt(n)     |
|          | gain between weights | its start / sqrt(n)       | sqrt(n)     |
|          | all others           | as in standard            | 1           |

Gains of `ntk` and `standard` keep their start, with a multiplier of 1. `mean_field` is
`mup` of one hidden layer.

Source: `ntk`: Jacot, Gabriel and Hongler, arXiv:1806.07572, section 2; `standard`:
Sohl-Dickstein et al., arXiv:2001.07301; `mup`: Yang and Hu, arXiv:2011.14522, section
5, a = (-1/2, 0, ..., 0, 1/2), b = 1/2, c = 0; `mean_field`: Mei, Montanari and Nguyen,
arXiv:1804.06561.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from ._trace.roles import Role
from ._types import Number


class Scaling(NamedTuple):
    """Standard deviation of the raw parameter if it is drawn, and its multiplier."""

    std: Number
    multiplier: Number


def scaling(scheme: str, role: Role, W_std: Number, b_std: Number) -> Scaling:
    """How a parameter of this role is drawn and multiplied."""
    if role.kind == "gain":
        is_mup = SCHEMES[scheme] is _mup
        return Scaling(0.0, _mup_multiplier(role) if is_mup else 1.0)
    is_weight = role.kind == "weight"
    return SCHEMES[scheme](role, W_std / math.sqrt(role.fan_in) if is_weight else b_std)


def vanishes(scheme: str, role: Role) -> bool:
    """Whether what a weight gives goes to zero with the width, but not how it moves."""
    is_output = role.kind == "weight" and role.layer == "output"
    return is_output and SCHEMES[scheme] is _mup


def _ntk(role: Role, std: Number) -> Scaling:
    return Scaling(1.0, std)


def _standard(role: Role, std: Number) -> Scaling:
    return Scaling(std, 1.0)


def _mup(role: Role, std: Number) -> Scaling:
    multiplier = _mup_multiplier(role)
    # Outputs of a wide network vanish: of an output weight the raw one is of order std.
    is_output = role.kind == "weight" and role.layer == "output"
    return Scaling(std if is_output else std / multiplier, multiplier)


def _mup_multiplier(role: Role) -> float:
    if role.kind != "weight":
        return math.sqrt(role.fan_out) if role.layer == "hidden" else 1.0
    if role.layer == "input":
        return math.sqrt(role.fan_out)
    return 1 / math.sqrt(role.fan_in) if role.layer == "output" else 1.0


SCHEMES: dict[str, Callable[[Role, Number], Scaling]] = {
    "ntk": _ntk,
    "standard": _standard,
    "mup": _mup,
    "mean_field": _mup,
}
"""By name: a scaling from a role and the standard deviation of weight or bias."""
