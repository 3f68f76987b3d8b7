"""Functions of random arrays that are functions of one Gaussian, or of several."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from ..._trace.flatten import aval
from ..averages import after
from ..errors import NoLimitError
from ..functions.function import Function, scaled, total
from ..nodes import Atoms, Data, Field, Term, checked_gaussian, itself
from . import data as deterministic, fields
from .algebra import add, data_of, is_tangent, multiply


def composed(
    atoms: Atoms,
    eqn: JaxprEqn,
    arrays: dict[int, Field],
    numbers: dict[int, Any],
    like: Field,
    n_operands: int,
) -> Field:
    """A nonlinear function of operands that are functions of one Gaussian."""
    base = {i: [t for t in f.terms if not is_tangent(t)] for i, f in arrays.items()}
    tangents = {i: [t for t in f.terms if is_tangent(t)] for i, f in arrays.items()}
    found = {
        id(atom): atom
        for terms in base.values()
        for t in terms
        for *_, atom in t.factors
    }
    if not found and any(tangents.values()):
        raise NoLimitError("a nonlinear function of a parameter that is no weight")
    if not found:
        return of_numbers(eqn, arrays, numbers, like, n_operands)
    if atoms.sampled and (len(found) > 1 or not next(iter(found.values())).gaussian):
        return _computed(atoms, eqn, base, tangents, numbers, like, n_operands)
    if len(found) > 1:
        raise NoLimitError("a nonlinear function of several Gaussians at one entry")
    (atom,) = found.values()
    checked_gaussian(atom)
    parts: list[Function] = []
    params: list[Data] = []
    for i in range(n_operands):
        if i in numbers:
            parts.append(_constant_part(numbers[i], aval(eqn.invars[i]).dtype))
        else:
            function, given = _one_function(base[i])
            parts.append(function)
            params += given
    composed = _apply(eqn, parts)
    result = fields.with_terms(like, [Term(None, ((composed, tuple(params), atom),))])
    for i, terms in tangents.items():
        # What is decided has no derivative, as in the network.
        if not terms or not jnp.issubdtype(aval(eqn.outvars[0]).dtype, jnp.floating):
            continue
        slope = _partial(eqn, parts, i)
        factor = fields.with_terms(like, [Term(None, ((slope, tuple(params), atom),))])
        result = add(
            atoms, result, multiply(atoms, factor, fields.with_terms(like, terms))
        )
    return result


def of_numbers(
    eqn: JaxprEqn,
    arrays: dict[int, Field],
    numbers: dict[int, Any],
    like: Field,
    n_operands: int,
) -> Field:
    """A function of arrays that are deterministic."""
    several = {i: data_of(f, lambda a: a).terms[0].coef for i, f in arrays.items()}
    operands = [several[i] for i in arrays]

    def compute(m: Any, side: int) -> Any:
        found = {i: m.number(d, side) for i, d in several.items() if d is not None}
        shape = jnp.broadcast_shapes(*(a.shape for a in found.values()))
        values = [
            jnp.broadcast_to(found[i], shape)
            if i in found
            else jnp.full(shape, numbers[i], aval(eqn.invars[i]).dtype)
            for i in range(n_operands)
        ]
        return _bound(eqn, values)

    shape = [max(d.shape[k] for d in operands if d) for k in range(len(like.sizes))]
    copies = (False,) * len(shape)
    dtype = aval(eqn.outvars[0]).dtype
    known = [d for d in operands if d]
    averages = [d and d.average for d in map(several.get, range(n_operands))]
    average = after(eqn, averages, [numbers.get(i) for i in range(n_operands)])
    made = deterministic.made(shape, copies, dtype, compute, known, average)
    return fields.with_terms(like, [Term(made, ())])


def _computed(
    atoms: Atoms,
    eqn: JaxprEqn,
    base: dict[int, list[Term]],
    tangents: dict[int, list[Term]],
    numbers: dict[int, Any],
    like: Field,
    n_operands: int,
) -> Field:
    """A function of several Gaussians, of which samples can be had."""
    operands = [tuple(base[i]) for i in base]
    dtypes = [aval(v).dtype for v in eqn.invars]
    new = aval(eqn.outvars[0]).dtype
    rank = len(like.sizes)

    def together(arrays: list[Any], m: Any) -> list[Any]:
        found = dict(zip(base, arrays, strict=True))
        shape = jnp.broadcast_shapes(*(jnp.shape(a) for a in found.values()))
        kinds = [m.dtype if jnp.issubdtype(d, jnp.floating) else d for d in dtypes]
        return [
            jnp.broadcast_to(found[i], shape)
            if i in found
            else jnp.full(shape, numbers[i], kinds[i])
            for i in range(n_operands)
        ]

    def call(arrays: list[Any], m: Any, side: int) -> Any:
        values = together(arrays, m)
        if eqn.primitive.name == "convert_element_type":
            return values[0].astype(
                m.dtype if jnp.issubdtype(new, jnp.floating) else new
            )
        return _bound(eqn, values)

    def slope(i: int, arrays: list[Any], m: Any) -> Any:
        values = together(arrays, m)
        vary = lambda x: _bound(eqn, [*values[:i], x, *values[i + 1 :]])
        return jax.jvp(vary, (values[i],), (jnp.ones_like(values[i]),))[1]

    def made(function: Any) -> Field:
        atom = atoms.computed(function, operands, rank)
        return fields.with_terms(like, [itself(atom)])

    result = made(call)
    for i, terms in tangents.items():
        if terms:
            factor = made(lambda arrays, m, side, i=i: slope(i, arrays, m))
            part = multiply(atoms, factor, fields.with_terms(like, terms))
            result = add(atoms, result, part)
    return result


def _constant_part(value: Any, dtype: Any) -> Function:
    if jnp.issubdtype(dtype, jnp.floating):
        call = lambda z: jnp.full_like(z, value)
    else:
        call = lambda z: jnp.full(z.shape, value, dtype)
    return Function(("constant", value, str(dtype)), call)


def _one_function(terms: Sequence[Term]) -> tuple[Function, list[Data]]:
    """A sum of terms in one Gaussian as a function of it, numbers written in."""
    whole: Function | None = None
    params: list[Data] = []
    for term in terms:
        if term.factors:
            ((function, given, _),) = term.factors
        else:
            function, given = Function(("one",), jnp.ones_like), ()
        params += given
        if term.coef is not None:
            number = deterministic.scalar_of(term.coef)
            if number is None:
                function = Function(
                    ("by parameter", function.key),
                    lambda z, *p, f=function: p[-1] * f.call(z, *p[:-1]),
                    function.n_params + 1,
                )
                params.append(term.coef)
            else:
                function = scaled(function, number)
        whole = function if whole is None else total(whole, function)
    if whole is None:
        whole = Function(("constant", 0.0), jnp.zeros_like)
    return whole, params


def as_function(field: Field) -> Function:
    """An array that is a function of one Gaussian, as that function.

    Raises:
        NoLimitError: if a product of several is among what is added.
    """
    if any(len(term.factors) > 1 for term in field.terms):
        raise NoLimitError("a product where a function of one number is wanted")
    return _one_function(field.terms)[0]


def _apply(eqn: JaxprEqn, parts: list[Function]) -> Function:
    """The function that an equation makes of functions."""
    counts = [f.n_params for f in parts]
    name = eqn.primitive.name
    new_dtype = aval(eqn.outvars[0]).dtype

    def call(z: Any, *params: Any) -> Any:
        values, start = [], 0
        for f, n in zip(parts, counts, strict=True):
            values.append(f.call(z, *params[start : start + n]))
            start += n
        if name == "convert_element_type":
            if jnp.issubdtype(new_dtype, jnp.floating):
                return values[0].astype(z.dtype)
            return values[0].astype(new_dtype)
        return _bound(eqn, values)

    settings = {k: str(v) for k, v in eqn.params.items()}
    key = ("eqn", name, tuple(sorted(settings.items())), tuple(f.key for f in parts))
    return Function(key, call, sum(counts))


def _bound(eqn: JaxprEqn, values: list[Any]) -> Any:
    """The equation for other operands than its own, literals and precision included."""
    return eqn.primitive.bind(*values, **eqn.params)


def _partial(eqn: JaxprEqn, parts: list[Function], operand: int) -> Function:
    """The derivative of the same by one operand."""
    counts = [f.n_params for f in parts]

    def call(z: Any, *params: Any) -> Any:
        values, start = [], 0
        for f, n in zip(parts, counts, strict=True):
            values.append(f.call(z, *params[start : start + n]))
            start += n
        vary = lambda x: _bound(eqn, [*values[:operand], x, *values[operand + 1 :]])
        return jax.jvp(vary, (values[operand],), (jnp.ones_like(z),))[1]

    base = _apply(eqn, parts)
    return Function(("partial", operand, base.key), call, base.n_params)
