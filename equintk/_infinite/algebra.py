"""Arithmetic of random arrays: sums, products, and any function of one Gaussian."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from .._trace.flatten import aval
from . import data as deterministic, fields
from .errors import NoLimitError
from .fields import ones
from .functions import (
    IDENTITY,
    Function,
    is_nonnegative,
    is_odd,
    linear,
    product,
    scaled,
    total,
)
from .layout import Axes, Factor, WideOp
from .nodes import (
    Atom,
    Atoms,
    Data,
    Field,
    Term,
    checked_gaussian,
    components,
    one_order,
)


def conformed(atoms: Atoms, operands: Sequence[Field]) -> list[Field]:
    """The arrays with the same factors along the same axes."""
    found = list(operands)
    for i in range(1, len(found)):  # twice, so that the last splits the first
        found[0], found[i] = fields.refined(atoms, found[0], found[i])
    for i in range(1, len(found)):
        found[0], found[i] = fields.refined(atoms, found[0], found[i])
    axes = tuple(
        tuple(_common(factors) for factors in zip(*together, strict=True))
        for together in zip(*(f.axes for f in found), strict=True)
    )
    found = [_widened(atoms, f, axes) for f in found]
    one_order(term for f in found for term in f.terms)
    return found


def _common(factors: tuple[Factor, ...]) -> Factor:
    kinds = {f.kind for f in factors}
    if kinds >= {"wide", "place"}:
        raise NoLimitError(
            "an axis that goes to infinity meets one of places, along which values "
            "differ (the axes of the input are places; name a parameter in `finite` to "
            "make the axes that it produces places)"
        )
    for kind in ("wide", "place", "copies"):
        if kind in kinds:
            return Factor(kind, factors[0].size)
    raise AssertionError


def _widened(atoms: Atoms, field: Field, axes: Axes) -> Field:
    """The array with copies declared to be copies along wide axes."""
    for a, factors in enumerate(axes):
        for i, factor in enumerate(factors):
            if factor.kind == "wide" and field.axes[a][i].kind == "copies":
                _, dim = fields.position(field, a, i)
                old = field.axes[a]
                new = fields.replaced(field.axes, a, (*old[:i], factor, *old[i + 1 :]))
                shape = Field(new, (), field.dtype)
                apply = lambda x, m, side, dim=dim: jnp.squeeze(x, dim)
                op = fields.layout_op(("drop", dim), apply, field, new)
                field = fields.map_places(atoms, field, op, new)
                _, column = fields.position(shape, a, i)
                field = fields.rewide(atoms, field, WideOp("insert", column, ()), new)
    return Field(axes, field.terms, field.dtype)


def add(atoms: Atoms, one: Field, two: Field, sign: float = 1.0) -> Field:
    """The sum of arrays with the same factors, or their difference."""
    terms = [*one.terms, *(times_number(t, sign) for t in two.terms)]
    return Field(one.axes, normalised(atoms, terms, one), one.dtype)


def times_number(term: Term, factor: float) -> Term:
    """A term times a number."""
    if factor == 1:
        return term
    if term.factors:
        (function, params, atom), *rest = term.factors
        return Term(term.coef, ((scaled(function, factor), params, atom), *rest))
    coef = term.coef
    assert coef is not None
    compute = lambda m, side: m.value(coef, side) * factor
    return Term(
        deterministic.made(coef.shape, coef.copies, coef.dtype, compute, [coef]), ()
    )


def multiply(atoms: Atoms, one: Field, two: Field) -> Field:
    """The product of arrays with the same factors."""
    terms = [_term_product(a, b) for a in one.terms for b in two.terms]
    return Field(one.axes, normalised(atoms, terms, one), one.dtype)


def _term_product(one: Term, two: Term) -> Term:
    for a, b in ((one, two), (two, one)):
        if not a.factors:
            number = None if a.coef is None else deterministic.scalar_of(a.coef)
            if number is not None:
                return times_number(b, number)
    merged: dict[int, tuple[Function, tuple[Data, ...], Atom]] = {}
    for function, params, atom in (*one.factors, *two.factors):
        if id(atom) in merged:
            checked_gaussian(atom)
            f, p, _ = merged[id(atom)]
            merged[id(atom)] = (product(f, function), (*p, *params), atom)
        else:
            merged[id(atom)] = (function, params, atom)
    return Term(_coef_product(one.coef, two.coef), tuple(merged.values()))


def _coef_product(one: Data | None, two: Data | None) -> Data | None:
    if one is None or two is None:
        return two if one is None else one
    return _coefs(one, two, lambda a, b: a * b)


def _coefs(one: Data, two: Data, operation: Any) -> Data:
    shape = tuple(max(a, b) for a, b in zip(one.shape, two.shape, strict=True))

    def compute(m: Any, side: int) -> Any:
        a, b = m.value(one, side), m.value(two, side)
        with jax.numpy_dtype_promotion("standard"):
            return operation(a, b)

    return deterministic.made(
        shape, (False,) * len(shape), one.dtype, compute, [one, two]
    )


def normalised(atoms: Atoms, terms: Sequence[Term], like: Field) -> tuple[Term, ...]:
    """Terms with all that is Gaussian in one, and one function of each Gaussian."""
    gaussian: list[tuple[float, Data | None, Atom]] = []
    numbers: Data | None = None
    single: dict[int, tuple[Function, tuple[Data, ...], Atom]] = {}
    rest: list[Term] = []
    for term in terms:
        atom = fields.linear_atom(term)
        if atom is not None and not atom.tangent:
            gaussian.append((term.factors[0][0].slope or 0.0, term.coef, atom))
        elif not term.factors:
            assert term.coef is not None
            if deterministic.scalar_of(term.coef) == 0:
                continue
            numbers = (
                term.coef
                if numbers is None
                else _coefs(numbers, term.coef, lambda a, b: a + b)
            )
        elif len(term.factors) == 1 and term.coef is None:
            ((function, params, atom),) = term.factors
            if id(atom) in single:
                f, p, _ = single[id(atom)]
                single[id(atom)] = (total(f, function), (*p, *params), atom)
            else:
                single[id(atom)] = (function, params, atom)
        else:
            rest.append(term)
    done = _collapsed(atoms, gaussian, len(like.sizes))
    # A Gaussian beside a function of the same one is a function of it.
    for i, term in enumerate(done):
        ((function, params, atom),) = term.factors
        if id(atom) in single:
            f, p, _ = single.pop(id(atom))
            done[i] = Term(None, ((total(function, f), (*params, *p), atom),))
    done += [Term(None, (factor,)) for factor in single.values()]
    if numbers is not None and deterministic.scalar_of(numbers) != 0:
        done.append(Term(numbers, ()))
    return tuple([*done, *rest])


def _collapsed(
    atoms: Atoms, parts: list[tuple[float, Data | None, Atom]], rank: int
) -> list[Term]:
    """A sum of Gaussians as one."""
    plain: dict[int, tuple[float, Atom]] = {}
    weighted: list[tuple[Data, Atom]] = []
    for slope, coef, atom in parts:
        if coef is None:
            plain[id(atom)] = (plain.get(id(atom), (0.0, atom))[0] + slope, atom)
        else:
            (scaled_coef,) = (times_number(Term(coef, ()), slope),)
            assert scaled_coef.coef is not None
            weighted.append((scaled_coef.coef, atom))
    found = [(slope, atom) for slope, atom in plain.values() if slope]
    if len(found) + len(weighted) == 0:
        return []
    if len(found) == 1 and not weighted:
        slope, atom = found[0]
        return [Term(None, ((linear(slope), (), atom),))]
    numbers = [(_number(slope, rank), atom) for slope, atom in found]
    return [Term(None, ((IDENTITY, (), atoms.sum([*numbers, *weighted])),))]


_numbers: dict[tuple[float, int], Data] = {}


def _number(value: float, rank: int) -> Data:
    """A number as a coefficient; equal ones are one object."""
    if value == 1:
        return ones(rank)
    if (value, rank) not in _numbers:
        _numbers[value, rank] = deterministic.constant(
            np.full((1,) * rank, value, float)
        )
    return _numbers[value, rank]


def pointwise(atoms: Atoms, eqn: JaxprEqn, operands: list[Field | Data]) -> Field:
    """An equation that treats each entry by itself, of at least one random array."""
    name = eqn.primitive.name
    out = aval(eqn.outvars[0])
    numbers = {
        i: deterministic.scalar_of(x)
        for i, x in enumerate(operands)
        if isinstance(x, Data) and deterministic.scalar_of(x) is not None
    }
    arrays = [i for i in range(len(operands)) if i not in numbers]
    as_fields = [_as_field(atoms, operands[i], out.shape) for i in arrays]
    together = dict(zip(arrays, conformed(atoms, as_fields), strict=True))
    like = next(iter(together.values()))
    result = _arithmetic(atoms, eqn, name, together, numbers, like)
    if result is None:
        result = _composed(atoms, eqn, together, numbers, like, len(operands))
    return Field(result.axes, result.terms, out.dtype)


def _as_field(atoms: Atoms, x: Field | Data, shape: tuple[int, ...]) -> Field:
    if isinstance(x, Field):
        return fields.broadcast(atoms, x, shape, range(len(x.axes)))
    return fields.from_data(deterministic.broadcast(x, shape))


def _arithmetic(
    atoms: Atoms,
    eqn: JaxprEqn,
    name: str,
    arrays: dict[int, Field],
    numbers: dict[int, Any],
    like: Field,
) -> Field | None:
    """Sums, products and what else keeps sums of products, or `None`."""
    if name in ("copy", "convert_element_type"):
        kinds = (aval(eqn.invars[0]).dtype, aval(eqn.outvars[0]).dtype)
        if all(jnp.issubdtype(kind, jnp.floating) for kind in kinds):
            return arrays[0]
        return None
    if name == "neg":
        return fields.with_terms(like, [times_number(t, -1.0) for t in like.terms])
    if name in ("add", "sub"):
        sign = 1.0 if name == "add" else -1.0
        if len(arrays) == 2:
            return add(atoms, arrays[0], arrays[1], sign)
        ((i, number),) = numbers.items()
        shift = Term(_number(number if i == 0 else sign * number, len(like.sizes)), ())
        factor = sign if i == 0 else 1.0
        terms = [*(times_number(t, factor) for t in like.terms), shift]
        return fields.with_terms(like, normalised(atoms, terms, like))
    if name == "mul":
        if len(arrays) == 2:
            return multiply(atoms, arrays[0], arrays[1])
        (number,) = numbers.values()
        if number == 0:
            return fields.with_terms(like, [Term(_number(0.0, len(like.sizes)), ())])
        return fields.with_terms(like, [times_number(t, number) for t in like.terms])
    if name == "square" or name == "integer_pow" and eqn.params["y"] == 2:
        return multiply(atoms, like, like)
    if name == "div" and 1 in numbers and numbers[1] != 0:
        return fields.with_terms(
            like, [times_number(t, 1 / numbers[1]) for t in like.terms]
        )
    if name == "div" and 1 in arrays and _is_data(arrays[1]) and 0 in arrays:
        inverse = _data_of(arrays[1], lambda a: 1 / a)
        return multiply(atoms, arrays[0], inverse)
    if name == "select_n" and len(arrays) + len(numbers) == 3 and 0 in arrays:
        return _masked(atoms, arrays, numbers, like)
    return None


def _is_data(field: Field) -> bool:
    return not any(term.factors for term in field.terms)


def _data_of(field: Field, function: Any) -> Field:
    (term,) = normalised(Atoms(), field.terms, field)
    coef = term.coef
    assert coef is not None
    compute = lambda m, side: function(m.value(coef, side))
    made = deterministic.made(coef.shape, coef.copies, field.dtype, compute, [coef])
    return fields.with_terms(field, [Term(made, ())])


def _masked(
    atoms: Atoms, arrays: dict[int, Field], numbers: dict[int, Any], like: Field
) -> Field | None:
    """A choice between two arrays by a deterministic mask."""
    mask = arrays[0]
    if not _is_data(mask):
        return None
    (term,) = mask.terms
    coef = term.coef
    assert coef is not None
    if any(i in arrays and _is_data(arrays[i]) for i in (1, 2)) and any(
        i in numbers and not np.isfinite(numbers[i]) for i in (1, 2)
    ):
        return None
    total_field = None
    for i in (1, 2):
        compute = lambda m, side, i=i: (m.value(coef, side) == (i == 2)).astype(float)
        weight = deterministic.made(
            coef.shape, coef.copies, np.dtype(float), compute, [coef]
        )
        if i in numbers:
            if not np.isfinite(numbers[i]):
                raise NoLimitError("a random array is masked by infinity or NaN")
            part = fields.with_terms(mask, [times_number(Term(weight, ()), numbers[i])])
        else:
            part = multiply(
                atoms, fields.with_terms(mask, [Term(weight, ())]), arrays[i]
            )
        part = Field(part.axes, part.terms, like.dtype)
        total_field = part if total_field is None else add(atoms, total_field, part)
    return total_field


def _composed(
    atoms: Atoms,
    eqn: JaxprEqn,
    arrays: dict[int, Field],
    numbers: dict[int, Any],
    like: Field,
    n_operands: int,
) -> Field:
    """A nonlinear function of operands that are functions of one Gaussian."""
    base = {i: [t for t in f.terms if not _is_tangent(t)] for i, f in arrays.items()}
    tangents = {i: [t for t in f.terms if _is_tangent(t)] for i, f in arrays.items()}
    found = {
        id(atom): atom
        for terms in base.values()
        for t in terms
        for *_, atom in t.factors
    }
    if len(found) != 1:
        raise NoLimitError(
            "a nonlinear function of several Gaussians at one entry"
            if found
            else "a nonlinear function of a parameter that is no weight"
        )
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
        if not terms:
            continue
        slope = _partial(eqn, parts, i)
        factor = fields.with_terms(like, [Term(None, ((slope, tuple(params), atom),))])
        result = add(
            atoms, result, multiply(atoms, factor, fields.with_terms(like, terms))
        )
    return result


def _is_tangent(term: Term) -> bool:
    return any(atom.tangent for *_, atom in term.factors)


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


def zero_mean(terms: Sequence[Term]) -> bool:
    """Whether each term has mean zero by its structure."""
    return all(_zero_mean_term(term) for term in terms)


def _zero_mean_term(term: Term) -> bool:
    for group in components([atom for *_, atom in term.factors]):
        factors = [term.factors[i] for i in group]
        if not all(atom.gaussian for *_, atom in factors):
            continue
        if all(f.slope is not None for f, *_ in factors) and len(factors) % 2:
            return True
        if len(factors) == 1 and is_odd(factors[0][0]):
            return True
    return False


def is_positive(terms: Sequence[Term]) -> bool:
    """Whether all terms are single nonnegative functions of Gaussians."""
    return all(
        term.coef is None
        and len(term.factors) == 1
        and is_nonnegative(term.factors[0][0])
        for term in terms
    )
