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

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray, eval_jaxpr
from jax.extend.core import DebugInfo, Jaxpr, JaxprEqn, Literal

from ._derivatives import directional
from ._trace.flatten import (
    Environment,
    Flat,
    evaluate,
    flatten,
    inlined,
    scan_parts,
    subjaxpr,
)

Coefficient = Any
"""An array, or `None` for zero."""


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
    return _coefficients(flat, lines, degree)


class _Known:
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


class _Result:
    """A series that is one result of an equation."""

    def __init__(self, equation: "_Equation", index: int, moves: bool):
        self._equation = equation
        self._index = index
        self.moves = moves

    def __getitem__(self, order: int) -> Coefficient:
        if order > 0 and not self.moves:
            return None
        return self._equation.row(order)[self._index]


class _Derivative:
    """The derivative by t of a series."""

    def __init__(self, series: "_Series"):
        self._series = series
        self._coefficients: dict[int, Coefficient] = {}
        # What moves at an even pace does not move any further.
        self.moves = not (isinstance(series, _Known) and series.is_line)

    def __getitem__(self, order: int) -> Coefficient:
        if order not in self._coefficients:
            coefficient = self._series[order + 1]
            if coefficient is not None and order > 0:
                coefficient = coefficient * (order + 1)
            if coefficient is None and order == 0:
                coefficient = jnp.zeros_like(self._series[0])
            self._coefficients[order] = coefficient
        return self._coefficients[order]


_Series = _Known | _Result | _Derivative


class _Tangent(NamedTuple):
    """The derivative of an equation, as a jaxpr of its operands and their tangents.

    Attributes:
        flat: the jaxpr, without the equations that its results do not need.
        results: which of the equation's results have a derivative that is not zero.
        linear: whether the derivative does not depend on the operands that move.
    """

    flat: Flat
    results: tuple[int, ...]
    linear: bool


class _Reading:
    """One reading of a jaxpr: equal equations on equal operands are one value."""

    def __init__(self) -> None:
        # What is compared by its id is kept beside, so that no id is used again.
        self._results: dict[Any, tuple[list[_Series], list[_Series]]] = {}
        self._derivatives: dict[int, tuple[_Series, _Series]] = {}
        self._tangents: dict[Any, _Tangent] = {}
        self._literals: dict[Any, _Series] = {}

    def walk(
        self, flat: Flat, args: Sequence[_Series], degree: int
    ) -> tuple[list[_Series], list["_Equation"]]:
        """The results of a jaxpr, and the equations that they move by, in order.

        Each is computed up to `degree`, and further when it is asked.
        """
        consts = tuple(_Known([const]) for const in flat.consts)
        environment = Environment(Flat(flat.jaxpr, consts), args)
        equations = []
        for eqn in flat.jaxpr.eqns:
            operands = self._read(environment, eqn.invars)
            key = (*_what(eqn), *map(id, operands))
            if key not in self._results:
                equation = self._equation(eqn, operands)
                if equation is None:
                    values = evaluate(eqn, [operand[0] for operand in operands])
                    results: list[_Series] = [_Known([value]) for value in values]
                else:
                    equation.row(degree)
                    equations.append(equation)
                    results = [
                        _Result(equation, i, i in equation.results)
                        for i in range(len(eqn.outvars))
                    ]
                self._results[key] = results, operands
            environment.write(eqn.outvars, self._results[key][0])
        return self._read(environment, flat.jaxpr.outvars), equations

    def derivative(self, series: _Series) -> _Series:
        """The one derivative of a series that moves."""
        if id(series) not in self._derivatives:
            self._derivatives[id(series)] = series, _Derivative(series)
        return self._derivatives[id(series)][1]

    def tangent(self, eqn: JaxprEqn, active: tuple[int, ...]) -> _Tangent:
        """The derivative of an equation by some of its operands, traced once."""
        key = (*_what(eqn), *map(_signature, eqn.invars), active)
        if key not in self._tangents:
            self._tangents[key] = _tangent(eqn, active)
        return self._tangents[key]

    def _read(self, environment: Environment, atoms: Sequence[Any]) -> list[_Series]:
        return [
            self._literal(atom)
            if isinstance(atom, Literal)
            else environment.read([atom])[0]
            for atom in atoms
        ]

    def _literal(self, atom: Literal) -> _Series:
        return self._literals.setdefault(_signature(atom), _Known([atom.val]))

    def _equation(self, eqn: JaxprEqn, operands: list[_Series]) -> "_Equation | None":
        """How to compute an equation's series, unless none of its results moves."""
        active = tuple(
            i
            for i, atom in enumerate(eqn.invars)
            if operands[i].moves and _is_inexact(atom)
        )
        inexact = tuple(i for i, var in enumerate(eqn.outvars) if _is_inexact(var))
        if not active or not inexact:
            return None
        name = eqn.primitive.name
        given = self, eqn, operands, active
        if name in _CONTROL:
            return _CONTROL[name](*given, inexact)
        if name in _PRODUCTS and len(active) == 2:
            return _Product(*given, inexact)
        if name == "div" and 1 in active:
            return _Quotient(*given, inexact)
        tangent = self.tangent(eqn, active)
        if not tangent.results:
            return None
        kind = _Linear if tangent.linear else _Differentiated
        return kind(*given, tangent.results)


class _Equation:
    """An equation of the jaxpr that moves: one row of coefficients for each order."""

    def __init__(
        self,
        reading: _Reading,
        eqn: JaxprEqn,
        operands: list[_Series],
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
        return [operand[0] for operand in self.operands]


class _Linear(_Equation):
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


class _Product(_Equation):
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
        return [_sum(terms)]


class _Quotient(_Equation):
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
        rest = _sum(terms if above[order] is None else [above[order], *terms])
        return [None if rest is None else rest / below[0]]


class _Differentiated(_Equation):
    """Anything else: its derivative's series, one order lower, integrated."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._moves: dict[int, _Series] | None = None
        self._equations: list[_Equation] = []

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

    def _expanded(self) -> dict[int, _Series]:
        if self._moves is None:
            tangent = self.reading.tangent(self.eqn, self.active)
            moving = [self.reading.derivative(self.operands[i]) for i in self.active]
            series, self._equations = self.reading.walk(
                tangent.flat, [*self.operands, *moving], degree=0
            )
            self._moves = dict(zip(tangent.results, series, strict=True))
        return self._moves


class _Control(_Equation):
    """A loop or a branch, run on series instead of values, with all orders at once."""

    def row(self, order: int) -> list[Coefficient]:
        if order >= len(self.rows):
            results = self.run(order)
            self.rows = [
                [result[i] if i < len(result) else None for result in results]
                for i in range(order + 1)
            ]
        return self.rows[order]

    def run(self, degree: int) -> list[list[Coefficient]]:
        """The coefficients of each result, up to a degree."""
        raise NotImplementedError

    def lines(self, degree: int) -> list[list[Coefficient]]:
        """The coefficients of each operand."""
        return [
            [operand[0]]
            + [operand[i] for i in range(1, degree + 1) if _is_inexact(atom)]
            for operand, atom in zip(self.operands, self.eqn.invars, strict=True)
        ]


class _Scan(_Control):
    def run(self, degree: int) -> list[list[Coefficient]]:
        body, n_consts, n_carry = scan_parts(self.eqn)
        lines = self.lines(degree)
        consts, carry = lines[:n_consts], lines[n_consts : n_consts + n_carry]

        def step(carry: Any, xs: Any) -> Any:
            results = _coefficients(body, [*consts, *carry, *xs], degree)
            return _full(results[:n_carry]), results[n_carry:]

        carry, ys = jax.lax.scan(
            step,
            _full(carry),
            lines[n_consts + n_carry :],
            length=self.eqn.params["length"],
            reverse=self.eqn.params["reverse"],
            unroll=self.eqn.params["unroll"],
        )
        return [*carry, *ys]


class _While(_Control):
    def run(self, degree: int) -> list[list[Coefficient]]:
        params = self.eqn.params
        test, body = (
            inlined(*subjaxpr(params[name])) for name in ("cond_jaxpr", "body_jaxpr")
        )
        n_test = params["cond_nconsts"]
        n_consts = n_test + params["body_nconsts"]
        lines = self.lines(degree)
        of_test = [line[0] for line in lines[:n_test]]

        def goes_on(carry: Any) -> Any:
            values = [line[0] for line in carry]
            return eval_jaxpr(test.jaxpr, test.consts, *of_test, *values)[0]

        def step(carry: Any) -> Any:
            return _full(_coefficients(body, [*lines[n_test:n_consts], *carry], degree))

        return jax.lax.while_loop(goes_on, step, _full(lines[n_consts:]))


class _Branches(_Control):
    def run(self, degree: int) -> list[list[Coefficient]]:
        (index,), *lines = self.lines(degree)

        def branch(jaxpr: Any) -> Callable[..., Any]:
            flat = inlined(*subjaxpr(jaxpr))
            return lambda lines: _full(_coefficients(flat, lines, degree))

        branches = [branch(jaxpr) for jaxpr in self.eqn.params["branches"]]
        return jax.lax.switch(index, branches, lines)


_CONTROL = {"scan": _Scan, "while": _While, "cond": _Branches}
_PRODUCTS = frozenset(("mul", "dot_general", "conv_general_dilated"))


def _tangent(eqn: JaxprEqn, active: tuple[int, ...]) -> _Tangent:
    structs = [_struct(atom) for atom in eqn.invars]
    inexact = [i for i, var in enumerate(eqn.outvars) if _is_inexact(var)]

    def function(*args: Any) -> Any:
        values, tangents = list(args[: len(structs)]), args[len(structs) :]

        def results(*moving: Any) -> list[Any]:
            merged = list(values)
            for i, value in zip(active, moving, strict=True):
                merged[i] = value
            all_results = evaluate(eqn, merged)
            return [all_results[i] for i in inexact]

        return directional(results, [values[i] for i in active], tangents)[1]

    flat = flatten(function, *structs, *(structs[i] for i in active))
    moves = set(range(len(structs), len(structs) + len(active)))
    needs = _needs(flat)
    kept = [i for i, inputs in enumerate(needs) if inputs & moves]
    flat = _pruned(flat, kept)
    linear = not any(needs[i] & set(active) for i in kept)
    return _Tangent(flat, tuple(inexact[i] for i in kept), linear)


def _needs(flat: Flat) -> list[frozenset[int]]:
    """For each result, the inputs on which it depends."""
    on: dict[Any, frozenset[int]] = {
        var: frozenset((i,)) for i, var in enumerate(flat.jaxpr.invars)
    }

    def read(atoms: Sequence[Any]) -> list[frozenset[int]]:
        return [
            frozenset() if isinstance(atom, Literal) else on.get(atom, frozenset())
            for atom in atoms
        ]

    for eqn in flat.jaxpr.eqns:
        inputs = frozenset[int]().union(*read(eqn.invars))
        on.update((var, inputs) for var in eqn.outvars)
    return read(flat.jaxpr.outvars)


def _pruned(flat: Flat, kept: Sequence[int]) -> Flat:
    """The jaxpr with some of its results, and only what these need."""
    outvars = [flat.jaxpr.outvars[i] for i in kept]
    needed = {atom for atom in outvars if not isinstance(atom, Literal)}
    eqns = []
    for eqn in reversed(flat.jaxpr.eqns):
        if needed & set(eqn.outvars):
            eqns.append(eqn)
            needed |= {atom for atom in eqn.invars if not isinstance(atom, Literal)}
    names = ("",) * len(flat.jaxpr.invars), ("",) * len(kept)
    effects = frozenset().union(*(eqn.effects for eqn in eqns))
    jaxpr = Jaxpr(
        flat.jaxpr.constvars,
        flat.jaxpr.invars,
        outvars,
        eqns[::-1],
        effects,
        DebugInfo("equintk", "derivative", *names),
    )
    return Flat(jaxpr, flat.consts)


def _coefficients(
    flat: Flat, lines: Sequence[Sequence[Coefficient]], degree: int
) -> list[list[Coefficient]]:
    """The coefficients of a jaxpr's results, from those of its inputs."""
    results, _ = _Reading().walk(flat, [_Known(line) for line in lines], degree)
    return [
        [series[i] for i in range(degree + 1)] if _is_inexact(atom) else [series[0]]
        for series, atom in zip(results, flat.jaxpr.outvars, strict=True)
    ]


def _full(lines: Any) -> Any:
    """The same with arrays of zeros for `None`, as loops and branches need."""
    return [
        [jnp.zeros_like(line[0]) if c is None else c for c in line] for line in lines
    ]


def _what(eqn: JaxprEqn) -> tuple[Any, ...]:
    """Equal for equations that do the same; effects are never the same."""
    if eqn.effects:
        return (object(),)
    try:
        params = tuple(sorted(eqn.params.items()))
        hash(params)
    except TypeError:  # unhashable, such as an array
        return (id(eqn),)
    return eqn.primitive, params


def _signature(atom: Any) -> tuple[Any, ...]:
    """The type of an operand, and its value if it is written in the jaxpr."""
    value = np.asarray(atom.val).tobytes() if isinstance(atom, Literal) else None
    return str(atom.aval), value


def _sum(terms: Sequence[Any]) -> Coefficient:
    if not terms:
        return None
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _is_inexact(atom: Any) -> bool:
    return jnp.issubdtype(atom.aval.dtype, jnp.inexact)


def _struct(atom: Any) -> jax.ShapeDtypeStruct:
    aval: ShapedArray = atom.aval
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type)
