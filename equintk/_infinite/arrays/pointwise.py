"""Equations that treat each entry by itself: arithmetic, masks, any function."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from ..._trace.flatten import aval
from ..averages import Average, merged
from ..errors import NoLimitError
from ..nodes import Atom, Atoms, Data, Field, Term, itself
from . import data as deterministic, fields, noise
from .algebra import (
    add,
    conformed,
    data_of,
    filled,
    is_data,
    multiply,
    normalised,
    times_number,
)
from .composed import composed, of_numbers
from .fields import ones


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
        result = composed(atoms, eqn, together, numbers, like, len(operands))
    return Field(result.axes, result.terms, out.dtype)


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
    if name == "div" and 1 in arrays and is_data(arrays[1]) and 0 in arrays:
        inverse = data_of(arrays[1], lambda a: 1 / a)
        return multiply(atoms, arrays[0], inverse)
    if name == "select_n" and len(arrays) + len(numbers) == 3 and 0 in arrays:
        return _masked(atoms, arrays, numbers, like)
    return None


def _masks(field: Field) -> list[Atom]:
    """Atoms that are zero or one."""
    return [a for t in field.terms for *_, a in t.factors if noise.is_mask(a)]


def _masked(
    atoms: Atoms, arrays: dict[int, Field], numbers: dict[int, Any], like: Field
) -> Field | None:
    """A choice between two arrays by a deterministic mask."""
    mask = arrays[0]
    if _masks(mask):
        return _dropped(atoms, arrays, numbers, like)
    if not is_data(mask):
        return None
    (term,) = mask.terms
    coef = term.coef
    assert coef is not None
    if any(i in arrays and is_data(arrays[i]) for i in (1, 2)) and any(
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
            case = composed(atoms, eqn, fixed, numbers, like, n_operands)
        else:
            case = of_numbers(eqn, fixed, numbers, like, n_operands)
        cases.append(case)
    out = aval(eqn.outvars[0])
    rank = len(cases[0].sizes)
    kept = itself(mask)
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
