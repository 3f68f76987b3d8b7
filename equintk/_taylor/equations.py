"""What each kind of equation does to series: one rule a kind."""

import functools
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from jax.core import eval_jaxpr
from jax.extend.core import JaxprEqn

from .._trace.flatten import Flat, evaluate
from .series import Coefficient, Rows, Series, summed
from .tangents import Tangent


@runtime_checkable
class Reader(Protocol):
    """The reading of a jaxpr, as its equations see it; `Reading` says more."""

    def walk(
        self, flat: Flat, args: Sequence[Series], degree: int
    ) -> tuple[list[Series], list[Any]]:
        """The results of a jaxpr, and the equations that they move by, in order."""
        ...

    def derivative(self, series: Series) -> Series:
        """The one derivative of a series that moves."""
        ...

    def tangent(self, eqn: JaxprEqn, active: tuple[int, ...]) -> Tangent:
        """The derivative of an equation by some of its operands."""
        ...

    def coefficients(
        self, flat: Flat, lines: Sequence[Sequence[Coefficient]], degree: int
    ) -> list[list[Coefficient]]:
        """Those of a jaxpr's results, from those of its inputs."""
        ...


class Equation:
    """An equation of the jaxpr that moves: one row of coefficients for each order."""

    def __init__(
        self,
        reading: Reader,
        eqn: JaxprEqn,
        operands: list[Series],
        active: tuple[int, ...],
        results: tuple[int, ...],
    ):
        self.reading = reading
        self.eqn = eqn
        self.operands = operands
        self.active = active  # the operands that move
        self.results = results  # the results that do
        self.rows: list[list[Coefficient]] = []

    def row(self, order: int) -> list[Coefficient]:
        """The coefficients of this order, one for each result."""
        while len(self.rows) <= order:
            self.rows.append(self.next_row(len(self.rows)))
        return self.rows[order]

    def next_row(self, order: int) -> list[Coefficient]:
        """The coefficients of this order, where those below are known."""
        raise NotImplementedError

    @property
    def values(self) -> list[Any]:
        """What the operands start from."""
        return [operand[0] for operand in self.operands]


class Linear(Equation):
    """The derivative does not depend on what moves, so each order is on its own."""

    def next_row(self, order: int) -> list[Coefficient]:
        if order == 0:
            return evaluate(self.eqn, self.values)
        there = tuple(i for i in self.active if self.operands[i][order] is not None)
        row: list[Coefficient] = [None] * len(self.eqn.outvars)
        if there:
            tangent = self.reading.tangent(self.eqn, there)
            moves = [self.operands[i][order] for i in there]
            results = eval_jaxpr(
                tangent.flat.jaxpr, tangent.flat.consts, *self.values, *moves
            )
            for i, result in zip(tangent.results, results, strict=True):
                row[i] = result
        return row


class Product(Equation):
    """A function of two operands that is linear in each."""

    def next_row(self, order: int) -> list[Coefficient]:
        one, two = self.operands
        # Not `evaluate`: in x * x the operands are one variable, but two coefficients.
        times = functools.partial(self.eqn.primitive.bind, **self.eqn.params)
        terms = [
            times(one[i], two[order - i])
            for i in range(order + 1)
            if one[i] is not None and two[order - i] is not None
        ]
        return [summed(terms)]


class Quotient(Equation):
    """q = x / y, from y q = x."""

    def next_row(self, order: int) -> list[Coefficient]:
        if order == 0:
            return evaluate(self.eqn, self.values)
        above, below = self.operands
        terms = [
            -below[i] * self.rows[order - i][0]
            for i in range(1, order + 1)
            if below[i] is not None and self.rows[order - i][0] is not None
        ]
        rest = summed(terms if above[order] is None else [above[order], *terms])
        return [None if rest is None else rest / below[0]]


class Differentiated(Equation):
    """Anything else: its derivative's series, one order lower, integrated."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._moves: dict[int, Series] | None = None
        self._equations: list[Rows] = []

    def next_row(self, order: int) -> list[Coefficient]:
        if order == 0:
            return evaluate(self.eqn, self.values)
        moves = self._expanded()
        for equation in self._equations:  # in order, so that recursion stays shallow
            equation.row(order - 1)
        row: list[Coefficient] = [None] * len(self.eqn.outvars)
        for i, series in moves.items():
            coefficient = series[order - 1]
            row[i] = None if coefficient is None else coefficient / order
        return row

    def _expanded(self) -> dict[int, Series]:
        if self._moves is None:
            tangent = self.reading.tangent(self.eqn, self.active)
            moving = [self.reading.derivative(self.operands[i]) for i in self.active]
            series, self._equations = self.reading.walk(
                tangent.flat, [*self.operands, *moving], degree=0
            )
            self._moves = dict(zip(tangent.results, series, strict=True))
        return self._moves


PRODUCTS = frozenset(("mul", "dot_general", "conv_general_dilated"))
