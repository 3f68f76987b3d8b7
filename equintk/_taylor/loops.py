"""Loops and branches: their bodies, on series."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import eval_jaxpr

from .._trace.flatten import inlined, scan_parts, subjaxpr
from .equations import Equation
from .series import Coefficient
from .tangents import is_inexact


class Control(Equation):
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
            + [operand[i] for i in range(1, degree + 1) if is_inexact(atom)]
            for operand, atom in zip(self.operands, self.eqn.invars, strict=True)
        ]


class Scan(Control):
    """`scan`."""

    def run(self, degree: int) -> list[list[Coefficient]]:
        body, n_consts, n_carry = scan_parts(self.eqn)
        lines = self.lines(degree)
        consts, carry = lines[:n_consts], lines[n_consts : n_consts + n_carry]

        def step(carry: Any, xs: Any) -> Any:
            results = self.reading.coefficients(body, [*consts, *carry, *xs], degree)
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


class While(Control):
    """`while_loop`: goes on for as long as it does at the start of the line."""

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
            return _full(
                self.reading.coefficients(
                    body, [*lines[n_test:n_consts], *carry], degree
                )
            )

        return jax.lax.while_loop(goes_on, step, _full(lines[n_consts:]))


class Branches(Control):
    """`cond` and `switch`: the branch that is taken at the start of the line."""

    def run(self, degree: int) -> list[list[Coefficient]]:
        (index,), *lines = self.lines(degree)

        def branch(jaxpr: Any) -> Callable[..., Any]:
            flat = inlined(*subjaxpr(jaxpr))
            return lambda lines: _full(self.reading.coefficients(flat, lines, degree))

        branches = [branch(jaxpr) for jaxpr in self.eqn.params["branches"]]
        return jax.lax.switch(index, branches, lines)


CONTROL = {"scan": Scan, "while": While, "cond": Branches}


def _full(lines: Any) -> Any:
    """The same with arrays of zeros for `None`, as loops and branches need."""
    return [
        [jnp.zeros_like(line[0]) if c is None else c for c in line] for line in lines
    ]
