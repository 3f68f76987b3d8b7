"""Power series whose coefficients are computed when they are asked for."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp

Coefficient = Any
"""An array, or `None` for zero."""


@runtime_checkable
class Rows(Protocol):
    """An equation: for each order the coefficients of all its results."""

    def row(self, order: int) -> list[Coefficient]:
        """The coefficients of this order."""
        ...


class Known:
    """A series whose coefficients are given; those that are not are zero."""

    def __init__(self, coefficients: Sequence[Coefficient]):
        self._coefficients = list(coefficients)

    @property
    def moves(self) -> bool:
        return any(c is not None for c in self._coefficients[1:])

    @property
    def is_line(self) -> bool:
        """Whether it moves at an even pace at most."""
        return all(c is None for c in self._coefficients[2:])

    def __getitem__(self, order: int) -> Coefficient:
        there = order < len(self._coefficients)
        return self._coefficients[order] if there else None


class Result:
    """A series that is one result of an equation."""

    def __init__(self, equation: Rows, index: int, moves: bool):
        self._equation = equation
        self._index = index
        self.moves = moves

    def __getitem__(self, order: int) -> Coefficient:
        if order > 0 and not self.moves:
            return None
        return self._equation.row(order)[self._index]


class Derivative:
    """The derivative by t of a series."""

    def __init__(self, series: "Series"):
        self._series = series
        self._coefficients: dict[int, Coefficient] = {}
        # What moves at an even pace does not move any further.
        self.moves = not (isinstance(series, Known) and series.is_line)

    def __getitem__(self, order: int) -> Coefficient:
        if order not in self._coefficients:
            coefficient = self._series[order + 1]
            if coefficient is not None and order > 0:
                coefficient = coefficient * (order + 1)
            if coefficient is None and order == 0:
                coefficient = jnp.zeros_like(self._series[0])
            self._coefficients[order] = coefficient
        return self._coefficients[order]


Series = Known | Result | Derivative


def summed(terms: Sequence[Any]) -> Coefficient:
    """The sum of coefficients that are not zero."""
    if not terms:
        return None
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
