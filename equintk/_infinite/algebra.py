"""Arithmetic of random arrays: sums, products, and any function of one Gaussian."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from .._trace.flatten import aval
from . import data as deterministic, fields, noise
from .averages import Average, merged, multiplied
from .errors import NoLimitError
from .fields import ones
from .functions import (
    IDENTITY,
    Function,
    is_nonnegative,
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
    Sum,
    Term,
    checked_gaussian,
    components,
    one_order,
)
from .spelling import is_odd

_FEW = 2  # terms that are sampled one by one


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
            return Factor(kind, factors[0].size, max(f.of for f in factors))
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
    terms = normalised(atoms, terms, one)
    return Field(one.axes, _together(atoms, terms, one), one.dtype)


def _together(atoms: Atoms, terms: tuple[Term, ...], like: Field) -> tuple[Term, ...]:
    """Many terms that are sampled anyway as one, so that their pairs do not add up."""
    open_terms = [
        t
        for t in terms
        if not _is_tangent(t)
        and (len(t.factors) > 1 or any(not atom.gaussian for *_, atom in t.factors))
    ]
    masked = any(noise.is_mask(atom) for t in open_terms for *_, atom in t.factors)
    if not atoms.sampled or masked or len(open_terms) <= _FEW:
        return terms
    call = lambda arrays, m, side: arrays[0]
    atom = atoms.computed(call, [tuple(open_terms)], len(like.sizes))
    rest = tuple(t for t in terms if t not in open_terms)
    return (*rest, Term(None, ((IDENTITY, (), atom),)))


def times_number(term: Term, factor: float) -> Term:
    """A term times a number."""
    if factor == 1:
        return term
    if term.factors:
        for average in _averages(term):
            # Of what is positive the fluctuations stay small beside the term itself.
            if not average.positive:
                average.times(factor * _size(term)).checked()
        (function, params, atom), *rest = term.factors
        return Term(term.coef, ((scaled(function, factor), params, atom), *rest))
    assert term.coef is not None
    return Term(deterministic.settled(_times(term.coef, factor)), ())


def _times(coef: Data, factor: float) -> Data:
    """A coefficient times a number."""
    if factor == 1:
        return coef
    compute = lambda m, side: m.value(coef, side) * factor
    average = coef.average and coef.average.times(factor)
    return deterministic.made(
        coef.shape, coef.copies, coef.dtype, compute, [coef], average
    )


def _averages(term: Term) -> list[Average]:
    """Those that a term is multiplied by, or the parts of its sums are."""
    coefs = [term.coef]
    for *_, atom in term.factors:
        coefs += [c for c, _ in atom.parts] if isinstance(atom, Sum) else []
    return [c.average for c in coefs if c is not None and c.average is not None]


def _size(term: Term) -> float:
    """The product of the numbers that a term was multiplied by."""
    size = 1.0
    for function, *_ in term.factors:
        size *= abs(function.factor)
    return size


def multiply(atoms: Atoms, one: Field, two: Field) -> Field:
    """The product of arrays with the same factors."""
    pairs = [(a, b) for a in one.terms for b in two.terms]
    terms = [_term_product(a, b, atoms.sampled) for a, b in pairs]
    return Field(one.axes, normalised(atoms, terms, one), one.dtype)


def _term_product(one: Term, two: Term, sampled: bool = False) -> Term:
    for a, b in ((one, two), (two, one)):
        if not a.factors:
            number = None if a.coef is None else deterministic.scalar_of(a.coef)
            if number is not None:
                assert a.coef is not None
                if a.coef.average is None:
                    return times_number(b, number)
                if number == 0:
                    average = a.coef.average.times(_size(b)).checked()
                    return Term(replace(a.coef, average=average), ())
    merged: dict[int, tuple[Function, tuple[Data, ...], Atom]] = {}
    for function, params, atom in (*one.factors, *two.factors):
        if id(atom) in merged:
            f, p, _ = merged[id(atom)]
            if noise.is_mask(atom) and f.slope and function.slope:
                merged[id(atom)] = (linear(f.slope * function.slope), (), atom)
                continue
            if not sampled:
                checked_gaussian(atom)
            merged[id(atom)] = (product(f, function), (*p, *params), atom)
        else:
            merged[id(atom)] = (function, params, atom)
    return Term(_coef_product(one.coef, two.coef), tuple(merged.values()))


def _inverse(data: Data) -> Data:
    """One over a mean, or over a sum of positive terms."""
    average = data.average
    assert average is not None
    if not (average.positive or average.divided):
        average.checked()
    return deterministic.made(
        data.shape, data.copies, data.dtype, lambda m, side: 1 / m.value(data, side),
        [data], Average(average.entries, 1 / average.size, average.positive),
    )  # fmt: skip


def _coef_product(one: Data | None, two: Data | None) -> Data | None:
    if one is None or two is None:
        return two if one is None else one
    average = multiplied(one.average, two.average)
    return _coefs(one, two, lambda a, b: a * b, average)


def _coefs(one: Data, two: Data, operation: Any, average: Average | None) -> Data:
    shape = tuple(max(a, b) for a, b in zip(one.shape, two.shape, strict=True))

    def compute(m: Any, side: int) -> Any:
        a, b = m.value(one, side), m.value(two, side)
        with jax.numpy_dtype_promotion("standard"):
            return operation(a, b)

    return deterministic.made(
        shape, (False,) * len(shape), one.dtype, compute, [one, two], average
    )


def normalised(atoms: Atoms, terms: Sequence[Term], like: Field) -> tuple[Term, ...]:
    """Terms with all that is Gaussian in one, and one function of each Gaussian."""
    gaussian: list[tuple[float, Data | None, Atom]] = []
    numbers: Data | None = None
    zero: Data | None = None
    single: dict[int, tuple[Function, tuple[Data, ...], Atom]] = {}
    rest: list[Term] = []
    for term in terms:
        atom = fields.linear_atom(term)
        if atom is not None and not atom.tangent:
            gaussian.append((term.factors[0][0].slope or 0.0, term.coef, atom))
        elif not term.factors:
            assert term.coef is not None
            if deterministic.scalar_of(term.coef) == 0:
                zero = term.coef
                continue
            numbers = (
                term.coef
                if numbers is None
                else _coefs(
                    numbers,
                    term.coef,
                    lambda a, b: a + b,
                    merged([numbers.average, term.coef.average]),
                )
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
    if zero is not None and zero.average is not None and not (done or rest):
        return (Term(zero, ()),)  # of which more is known than that
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
            weighted.append((_times(coef, slope), atom))
    found = [(slope, atom) for slope, atom in plain.values() if slope]
    if len(found) + len(weighted) == 0:
        return []
    if len(found) == 1 and not weighted:
        slope, atom = found[0]
        return [Term(None, ((linear(slope), (), atom),))]
    numbers = [(filled(slope, rank), atom) for slope, atom in found]
    return [Term(None, ((IDENTITY, (), atoms.sum([*numbers, *weighted])),))]


@lru_cache(maxsize=4096)
def filled(value: float, rank: int) -> Data:
    """A number as a coefficient; equal ones are one object."""
    if value == 1:
        return ones(rank)
    return deterministic.constant(np.full((1,) * rank, value, float))


def pointwise(atoms: Atoms, eqn: JaxprEqn, operands: list[Field | Data]) -> Field:
    """An equation that treats each entry by itself, of at least one random array."""
    name = eqn.primitive.name
    out = aval(eqn.outvars[0])
    if name == "div" and isinstance(operands[1], Data) and operands[1].average:
        name, operands = "mul", [operands[0], _inverse(operands[1])]
    # A mean that is zero is more than a number where it is multiplied.
    kept = [name == "mul" and isinstance(x, Data) and x.average for x in operands]
    numbers = {
        i: deterministic.scalar_of(x)
        for i, x in enumerate(operands)
        if isinstance(x, Data)
        and deterministic.scalar_of(x) is not None
        and not kept[i]
    }
    arrays = [i for i in range(len(operands)) if i not in numbers]
    as_fields = _as_fields(atoms, [operands[i] for i in arrays], out.shape)
    together = dict(zip(arrays, conformed(atoms, as_fields), strict=True))
    like = next(iter(together.values()))
    result = _arithmetic(atoms, eqn, name, together, numbers, like)
    if result is None:
        masks = [atom for f in together.values() for atom in _masks(f)]
        if masks:
            return _by_cases(atoms, eqn, together, numbers, masks[0], len(operands))
        result = _composed(atoms, eqn, together, numbers, like, len(operands))
    return Field(result.axes, result.terms, out.dtype)


def _as_fields(
    atoms: Atoms, operands: Sequence[Field | Data], shape: tuple[int, ...]
) -> list[Field]:
    """Operands as random arrays; masks have the factors of what they meet."""
    noisy = [isinstance(x, Data) and x.noise is not None for x in operands]
    found: list[Any] = [
        None if is_noise else _as_field(atoms, x, shape)
        for x, is_noise in zip(operands, noisy, strict=True)
    ]
    others = [f for f in found if f is not None]
    like = conformed(atoms, others)[0].axes if others else None
    for i, x in enumerate(operands):
        if found[i] is None:
            assert isinstance(x, Data)
            x = deterministic.broadcast(x, shape) if x.shape != shape else x
            mask = None if like is None else noise.met(atoms, x, like)
            found[i] = _as_field(atoms, x, shape) if mask is None else mask
    return found


def _masks(field: Field) -> list[Atom]:
    """Atoms that are zero or one."""
    return [a for t in field.terms for *_, a in t.factors if noise.is_mask(a)]


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
        shift = Term(filled(number if i == 0 else sign * number, len(like.sizes)), ())
        factor = sign if i == 0 else 1.0
        terms = [*(times_number(t, factor) for t in like.terms), shift]
        return fields.with_terms(like, normalised(atoms, terms, like))
    if name == "mul":
        if len(arrays) == 2:
            return multiply(atoms, arrays[0], arrays[1])
        (number,) = numbers.values()
        if number == 0:
            return fields.with_terms(like, [Term(filled(0.0, len(like.sizes)), ())])
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
    made = deterministic.made(
        coef.shape, coef.copies, field.dtype, compute, [coef], merged([coef.average])
    )
    return fields.with_terms(field, [Term(made, ())])


def _masked(
    atoms: Atoms, arrays: dict[int, Field], numbers: dict[int, Any], like: Field
) -> Field | None:
    """A choice between two arrays by a deterministic mask."""
    mask = arrays[0]
    if _masks(mask):
        return _dropped(atoms, arrays, numbers, like)
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
            coef.shape,
            coef.copies,
            np.dtype(float),
            compute,
            [coef],
            merged([coef.average], 1.0),
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


def _dropped(
    atoms: Atoms, arrays: dict[int, Field], numbers: dict[int, Any], like: Field
) -> Field:
    """A choice between two arrays by a random mask."""
    mask = arrays[0]
    if any(len(t.factors) > 1 for t in mask.terms):
        raise NoLimitError("a product of masks chooses between two arrays")
    one = Term(ones(len(mask.sizes)), ())
    others = [one, *(times_number(t, -1.0) for t in mask.terms)]
    weights = {1: fields.with_terms(mask, normalised(atoms, others, mask)), 2: mask}
    result = fields.with_terms(mask, [])
    for i, weight in weights.items():
        if i in arrays:
            part = multiply(atoms, weight, arrays[i])
        elif not np.isfinite(numbers[i]):
            raise NoLimitError("a random array is masked by infinity or NaN")
        else:
            part = fields.with_terms(
                mask, [times_number(t, numbers[i]) for t in weight.terms if numbers[i]]
            )
        result = add(atoms, result, part)
    return Field(result.axes, result.terms, like.dtype)


def _by_cases(
    atoms: Atoms,
    eqn: JaxprEqn,
    arrays: dict[int, Field],
    numbers: dict[int, Any],
    mask: Atom,
    n_operands: int,
) -> Field:
    """A function of arrays with a mask in them: one of where it is one, one else."""
    cases = []
    for value in (0, 1):
        fixed = {i: _with_mask(f, mask, value) for i, f in arrays.items()}
        like = next(iter(fixed.values()))
        rest = [atom for f in fixed.values() for atom in _masks(f)]
        if rest:
            case = _by_cases(atoms, eqn, fixed, numbers, rest[0], n_operands)
        elif any(t.factors for f in fixed.values() for t in f.terms):
            case = _composed(atoms, eqn, fixed, numbers, like, n_operands)
        else:
            case = _of_numbers(eqn, fixed, numbers, like, n_operands)
        cases.append(case)
    out = aval(eqn.outvars[0])
    rank = len(cases[0].sizes)
    kept = Term(None, ((IDENTITY, (), mask),))
    apart = fields.with_terms(
        cases[0], [Term(ones(rank), ()), times_number(kept, -1.0)]
    )
    zero = multiply(atoms, apart, cases[0])
    one = multiply(atoms, fields.with_terms(cases[1], [kept]), cases[1])
    result = add(atoms, zero, one)
    return Field(result.axes, result.terms, out.dtype)


def _with_mask(field: Field, mask: Atom, value: int) -> Field:
    """The array where a mask has one of its values."""
    terms = []
    for term in field.terms:
        mine = [f for f, _, atom in term.factors if atom is mask]
        if not mine:
            terms.append(term)
        elif value:
            if any(f.slope is None for f in mine):
                raise NoLimitError("a nonlinear function of a mask")
            rest = tuple(f for f in term.factors if f[2] is not mask)
            coef = (
                ones(len(field.sizes)) if term.coef is None and not rest else term.coef
            )
            slope = mine[0].slope or 0.0
            terms.append(times_number(Term(coef, rest), slope))
    return fields.with_terms(field, terms or [Term(filled(0.0, len(field.sizes)), ())])


def _of_numbers(
    eqn: JaxprEqn,
    arrays: dict[int, Field],
    numbers: dict[int, Any],
    like: Field,
    n_operands: int,
) -> Field:
    """A function of arrays that are deterministic."""
    several = {i: _data_of(f, lambda a: a).terms[0].coef for i, f in arrays.items()}
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
    average = merged([d.average for d in known])
    made = deterministic.made(shape, copies, dtype, compute, known, average)
    return fields.with_terms(like, [Term(made, ())])


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
    if not found and any(tangents.values()):
        raise NoLimitError("a nonlinear function of a parameter that is no weight")
    if not found:
        return _of_numbers(eqn, arrays, numbers, like, n_operands)
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
        return fields.with_terms(like, [Term(None, ((IDENTITY, (), atom),))])

    result = made(call)
    for i, terms in tangents.items():
        if terms:
            factor = made(lambda arrays, m, side, i=i: slope(i, arrays, m))
            part = multiply(atoms, factor, fields.with_terms(like, terms))
            result = add(atoms, result, part)
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
