"""A flat jaxpr read once: each equation has a rule by what its operands are."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import JaxprEqn

from .._trace.flatten import Environment, Flat, aval, inlined
from .arrays import (
    algebra,
    composed,
    data as deterministic,
    fields,
    parameters,
    pointwise,
)
from .arrays.data import POINTWISE
from .arrays.drawer import Drawer
from .arrays.pieces import Pieces, piecewise
from .errors import NoLimitError, line, located
from .functions.function import Function
from .nodes import Atoms, Data, Drawn, Field, Par, Term, itself

Value = Data | Par | Field | Pieces
CUSTOM = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")
Rule = Callable[["Reader", JaxprEqn, list[Any]], list[Any]]
RULES: dict[str, Rule] = {}
GIVEN: dict[str, Callable[..., Any]] = {}
"""By primitive: how users spell it."""
DUALS: dict[Callable[..., Any], Callable[..., Any]] = {}
"""By function: the expectations of products of it that users give."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register what equations with these primitives give."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


class Reader:
    """Gives each variable of a jaxpr its meaning."""

    def __init__(self, atoms: Atoms, drawer: Drawer):
        self.atoms, self.drawer = atoms, drawer
        self._line = ""

    def read(
        self, flat: Flat, args: Sequence[Value], is_models: bool = True
    ) -> list[Value]:
        """The results of a flat jaxpr for these operands.

        Args:
            flat: the jaxpr.
            args: its operands.
            is_models: whether it is the model's own, so that its lines are.
        """
        consts = [self.literal(c) for c in flat.consts]
        environment = Environment(Flat(flat.jaxpr, tuple(consts)), args)
        outside = self._line, self.atoms.place
        for eqn in flat.jaxpr.eqns:
            values = [self.literal(v) for v in environment.read(eqn.invars)]
            # Within functions that are compiled by themselves, as many of `jax.numpy`
            # are, no line is known; then it is the last one before that is.
            here = line(eqn) if is_models else ""
            self._line = here.replace(" at ", " after ", 1) if here else self._line
            place = f"primitive `{eqn.primitive.name}`{here or self._line}"
            self.atoms.place = place
            try:
                results = self.equation(eqn, values)
            except NoLimitError as error:
                raise located(error, place) from None
            environment.write(eqn.outvars, results)
        self._line, self.atoms.place = outside
        return [self.literal(v) for v in environment.read(flat.jaxpr.outvars)]

    def literal(self, value: Any) -> Value:
        """A value of the jaxpr's own as a deterministic array."""
        if isinstance(value, Data | Par | Field | Pieces):
            return value
        if isinstance(value, Tracer) or jnp.issubdtype(
            getattr(value, "dtype", np.float64), jax.dtypes.prng_key
        ):
            return Data(
                tuple(value.shape), (False,) * len(value.shape), value.dtype,
                lambda m, side: value,
            )  # fmt: skip
        return deterministic.constant(value)

    def equation(self, eqn: JaxprEqn, values: list[Value]) -> list[Any]:
        """What an equation gives."""
        name = eqn.primitive.name
        known = [v for v in values if isinstance(v, Data)]
        if len(known) == len(values):
            # Inside, equal entries are seen to be so, and sums to be means.
            averages = any(v.average is not None for v in known)
            copies = any(any(v.copies) for v in known)
            looks_inside = (
                name in CUSTOM and (averages or copies)
                or (name in GIVEN or name == "scan") and averages
            )  # fmt: skip
            if not looks_inside:
                return deterministic.rule(eqn, known)
        if name in GIVEN:
            return self.traced(lambda *a: GIVEN[name](*a, **eqn.params), *values)
        if any(isinstance(v, Pieces) for v in values) and name not in CUSTOM:
            return [piecewise(self, eqn, values)]
        if name in POINTWISE:
            return [self.pointwise(eqn, values)]
        if name not in RULES:
            raise NoLimitError("no rule for what is done here to something random")
        return RULES[name](self, eqn, values)

    def traced(self, function: Callable[..., Any], *values: Value) -> list[Any]:
        """The results of a function of arrays, read like the model's own code."""
        structs = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in values]
        closed = jax.make_jaxpr(function)(*structs)
        return self.read(inlined(closed.jaxpr, closed.consts), values, False)

    def function(self, function: Callable[..., Any], dtype: Any) -> Function:
        """How a function of one number is spelt here.

        Raises:
            NoLimitError: if it is not understood.
        """
        source = self.atoms.kept(("argument",), lambda: Drawn(frozenset(), 0))
        given = Field((), (itself(source),), np.dtype(dtype))
        (found,) = self.traced(function, given)
        return composed.as_function(self.field(found))

    def field(self, value: Value, like: Field | None = None) -> Field:
        """Any value as a random array; a parameter as one that is added."""
        if isinstance(value, Field):
            return value
        if isinstance(value, Data):
            return fields.from_data(value)
        if isinstance(value, Pieces):
            raise NoLimitError(
                "arrays concatenated along an axis that goes to infinity"
            )
        random, mean = self.drawer.alone(value, like)
        if mean:
            shift = fields.with_terms(
                random, [Term(algebra.filled(mean, len(random.sizes)), ())]
            )
            return algebra.add(self.atoms, random, shift)
        return random

    def pointwise(self, eqn: JaxprEqn, values: list[Value]) -> Value:
        """An equation that treats each entry by itself."""
        name = eqn.primitive.name
        pars = [v for v in values if isinstance(v, Par)]
        if len(pars) == 1:
            kept = self._scaled(name, eqn, values, pars[0])
            if kept is not None:
                return kept
        if pars and name in ("add", "sub", "mul", "div") and len(pars) == 1:
            i = values.index(pars[0])
            other = values[1 - i]
            if name == "div" and i == 1:
                raise NoLimitError("a division by a parameter")
            shape = aval(eqn.outvars[0]).shape
            par = parameters.broadcast(pars[0], shape, range(len(pars[0].axes)))
            like = self.field(other)
            like = fields.broadcast(self.atoms, like, shape, range(len(like.axes)))
            values[i] = self.field(par, like)
        elif pars:
            raise NoLimitError(
                "a parameter is transformed before it meets an array (normalised "
                "weights, functions or sums of parameters)"
            )
        return pointwise.pointwise(self.atoms, eqn, values)  # type: ignore[arg-type]

    def _scaled(
        self, name: str, eqn: JaxprEqn, values: list[Value], par: Par
    ) -> Par | None:
        """A parameter times a number, in another precision or as it is."""
        if name in ("copy", "convert_element_type"):
            dtype = aval(eqn.outvars[0]).dtype
            if jnp.issubdtype(dtype, jnp.floating):
                return Par(par.leaf, par.axes, par.offsets, par.scale, dtype)
        if name == "neg":
            return parameters.scaled(par, -1.0)
        if name in ("mul", "div") and not (name == "div" and values[1] is par):
            other = values[1] if values[0] is par else values[0]
            number = deterministic.scalar_of(other) if isinstance(other, Data) else None
            if number is not None and aval(eqn.outvars[0]).shape == par.shape:
                return parameters.scaled(par, number if name == "mul" else 1 / number)
        return None
