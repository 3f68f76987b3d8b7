r"""Taylor series of a function along a line, from one reading of its jaxpr.

Every value is a power series in $t$, $x(t) = \sum_j x_j t^j$. What an equation
$y = f(x)$ does to series follows from its own derivative $T(x, \dot x)$, which JAX
knows for every primitive and every custom rule:

- $T$ does not depend on $x$ (linear functions): $y_j = T(x_j)$;
- products: $y_j = \sum_i f(x_i, x'_{j-i})$, quotients alike;
- loops and branches: their bodies, on series;
- anything else: $j\, y_j = [t^{j-1}]\, T(x(t), \dot x(t))$, where $T$'s own equations
  are read in the same way, one order lower. Equal equations on equal operands are one
  value here, so `tanh` in the derivative of `tanh` is the series that is being
  computed, and this is the usual recurrence.

Nested `jax.jvp` gives the same numbers, but repeats the function 2^degree times.
"""

from collections.abc import Callable, Sequence
from typing import Any

from jax.extend.core import JaxprEqn, Literal

from .._trace.flatten import Environment, Flat, evaluate, flatten
from .equations import PRODUCTS, Differentiated, Equation, Linear, Product, Quotient
from .loops import CONTROL
from .series import Coefficient, Derivative, Known, Result, Series
from .tangents import Tangent, identity_of, is_inexact, signature, tangent_of


def taylor_coefficients(
    function: Callable[..., Sequence[Any]],
    point: Sequence[Any],
    direction: Sequence[Any],
    degree: int,
) -> list[list[Coefficient]]:
    """Coefficients of `function(point + t * direction)`, from t^0 to t^degree.

    Args:
        function: from inexact arrays to a list of arrays.
        point: where the series starts.
        direction: arrays of the same shapes and dtypes.
        degree: the order of the last coefficient.

    Returns:
        For each output its `degree + 1` coefficients; outputs that are not inexact, or
        do not move, have `None` in all but the first.

    The number of equations grows as degree² for most functions, degree³ at worst.
    """
    flat = flatten(function, *point)
    lines = [[p, v] for p, v in zip(point, direction, strict=True)]
    return Reading().coefficients(flat, lines, degree)


class Reading:
    """One reading of a jaxpr: equal equations on equal operands are one value."""

    def __init__(self) -> None:
        # What is compared by its id is kept beside, so that no id is used again.
        self._results: dict[Any, tuple[list[Series], list[Series]]] = {}
        self._derivatives: dict[int, tuple[Series, Series]] = {}
        self._tangents: dict[Any, Tangent] = {}
        self._literals: dict[Any, Series] = {}

    def walk(
        self, flat: Flat, args: Sequence[Series], degree: int
    ) -> tuple[list[Series], list[Equation]]:
        """The results of a jaxpr, and the equations that they move by, in order.

        Each is computed up to `degree`, and further when it is asked.
        """
        consts = tuple(Known([const]) for const in flat.consts)
        environment = Environment(Flat(flat.jaxpr, consts), args)
        equations = []
        for eqn in flat.jaxpr.eqns:
            operands = self._read(environment, eqn.invars)
            key = (*identity_of(eqn), *map(id, operands))
            if key not in self._results:
                equation = self._equation(eqn, operands)
                if equation is None:
                    values = evaluate(eqn, [operand[0] for operand in operands])
                    results: list[Series] = [Known([value]) for value in values]
                else:
                    equation.row(degree)
                    equations.append(equation)
                    results = [
                        Result(equation, i, i in equation.results)
                        for i in range(len(eqn.outvars))
                    ]
                self._results[key] = results, operands
            environment.write(eqn.outvars, self._results[key][0])
        return self._read(environment, flat.jaxpr.outvars), equations

    def derivative(self, series: Series) -> Series:
        """The one derivative of a series that moves."""
        if id(series) not in self._derivatives:
            self._derivatives[id(series)] = series, Derivative(series)
        return self._derivatives[id(series)][1]

    def tangent(self, eqn: JaxprEqn, active: tuple[int, ...]) -> Tangent:
        """The derivative of an equation by some of its operands, traced once."""
        key = (*identity_of(eqn), *map(signature, eqn.invars), active)
        if key not in self._tangents:
            self._tangents[key] = tangent_of(eqn, active)
        return self._tangents[key]

    def coefficients(
        self, flat: Flat, lines: Sequence[Sequence[Coefficient]], degree: int
    ) -> list[list[Coefficient]]:
        """Those of a jaxpr's results, from those of its inputs."""
        inside = Reading()  # what the body of a loop reads is of no use outside of it
        results, _ = inside.walk(flat, [Known(line) for line in lines], degree)
        return [
            [series[i] for i in range(degree + 1)] if is_inexact(atom) else [series[0]]
            for series, atom in zip(results, flat.jaxpr.outvars, strict=True)
        ]

    def _read(self, environment: Environment, atoms: Sequence[Any]) -> list[Series]:
        return [
            self._literal(atom)
            if isinstance(atom, Literal)
            else environment.read([atom])[0]
            for atom in atoms
        ]

    def _literal(self, atom: Literal) -> Series:
        return self._literals.setdefault(signature(atom), Known([atom.val]))

    def _equation(self, eqn: JaxprEqn, operands: list[Series]) -> Equation | None:
        """How to compute an equation's series, unless none of its results moves."""
        active = tuple(
            i
            for i, atom in enumerate(eqn.invars)
            if operands[i].moves and is_inexact(atom)
        )
        inexact = tuple(i for i, var in enumerate(eqn.outvars) if is_inexact(var))
        if not active or not inexact:
            return None
        name = eqn.primitive.name
        given = self, eqn, operands, active
        if name in CONTROL:
            return CONTROL[name](*given, inexact)
        if name in PRODUCTS and len(active) == 2:
            return Product(*given, inexact)
        if name == "div" and 1 in active:
            return Quotient(*given, inexact)
        tangent = self.tangent(eqn, active)
        if not tangent.results:
            return None
        kind = Linear if tangent.linear else Differentiated
        return kind(*given, tangent.results)
