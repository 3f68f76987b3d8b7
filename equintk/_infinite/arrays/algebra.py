"""Arithmetic of random arrays: sums and products, in one normal form."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..averages import Average, merged, multiplied
from ..errors import NoLimitError
from ..functions.function import (
    Function,
    is_nonnegative,
    linear,
    product,
    scaled,
    total,
)
from ..functions.spelling import is_odd
from ..layout import Axes, Factor, WideOp
from ..nodes import (
    Atom,
    Atoms,
    Data,
    Field,
    Sum,
    Term,
    checked_gaussian,
    components,
    itself,
    one_order,
)
from . import data as deterministic, fields, noise
from .fields import ones

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
        if not is_tangent(t)
        and (len(t.factors) > 1 or any(not atom.gaussian for *_, atom in t.factors))
    ]
    masked = any(noise.is_mask(atom) for t in open_terms for *_, atom in t.factors)
    if not atoms.sampled or masked or len(open_terms) <= _FEW:
        return terms
    call = lambda arrays, m, side: arrays[0]
    atom = atoms.computed(call, [tuple(open_terms)], len(like.sizes))
    rest = tuple(t for t in terms if t not in open_terms)
    return (*rest, itself(atom))


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
    terms = [_term_product(a, b, atoms) for a, b in pairs]
    return Field(one.axes, normalised(atoms, terms, one), one.dtype)


def _term_product(one: Term, two: Term, atoms: Atoms) -> Term:
    for a, b in ((one, two), (two, one)):
        if not a.factors:
            number = None if a.coef is None else deterministic.scalar_of(a.coef)
            if number is not None:
                assert a.coef is not None
                if a.coef.average is None:
                    return times_number(b, number)
                if number == 0:
                    average = a.coef.average.times(_size(b)).checked()
                    if b.factors:
                        check_vanishing(atoms)
                    return Term(replace(a.coef, average=average), ())
    merged: dict[int, tuple[Function, tuple[Data, ...], Atom]] = {}
    for function, params, atom in (*one.factors, *two.factors):
        if id(atom) in merged:
            f, p, _ = merged[id(atom)]
            if noise.is_mask(atom) and f.slope and function.slope:
                merged[id(atom)] = (linear(f.slope * function.slope), (), atom)
                continue
            if not atoms.sampled:
                checked_gaussian(atom)
            merged[id(atom)] = (product(f, function), (*p, *params), atom)
        else:
            merged[id(atom)] = (function, params, atom)
    return Term(_coef_product(one.coef, two.coef), tuple(merged.values()))


def check_vanishing(atoms: Atoms) -> None:
    """Check that a product with a mean that is zero by symmetry is zero.

    Raises:
        NoLimitError: if what it is times the width is wanted.
    """
    if atoms.grows:
        raise NoLimitError(
            "a product with a mean that is zero by symmetry, over an axis that goes to "
            "infinity: it vanishes with the width, but the tangent kernel of these "
            'parameters grows with it. Pass `parameterization="ntk"`, in which it '
            "does not"
        )


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
    return [itself(atoms.sum([*numbers, *weighted]))]


@lru_cache(maxsize=4096)
def filled(value: float, rank: int) -> Data:
    """A number as a coefficient; equal ones are one object."""
    if value == 1:
        return ones(rank)
    return deterministic.constant(np.full((1,) * rank, value, float))


def is_data(field: Field) -> bool:
    return not any(term.factors for term in field.terms)


def data_of(field: Field, function: Any) -> Field:
    (term,) = normalised(Atoms(), field.terms, field)
    coef = term.coef
    assert coef is not None
    compute = lambda m, side: function(m.value(coef, side))
    made = deterministic.made(
        coef.shape, coef.copies, field.dtype, compute, [coef], merged([coef.average])
    )
    return fields.with_terms(field, [Term(made, ())])


def is_tangent(term: Term) -> bool:
    return any(atom.tangent for *_, atom in term.factors)


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
