"""What the equations of a model give, by their primitive: one file per kind.

A rule is called with the reader, the equation and the values of its operands, of which
at least one is random or a parameter, and returns the values of its results.
"""

from . import (
    axes as axes,
    contractions as contractions,
    control as control,
    places as places,
    sampled as sampled,
    selection as selection,
    side_by_side as side_by_side,
)
