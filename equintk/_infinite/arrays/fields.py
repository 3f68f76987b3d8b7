"""Random arrays: their axes rearranged, and linear maps of their places."""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..errors import NoLimitError
from ..layout import Axes, Axis, Factor, WideOp, axis_size
from ..nodes import Atom, Atoms, Data, Field, PlaceOp, Term, itself
from . import data as deterministic


def from_data(array: Data) -> Field:
    """A deterministic array as a random one."""
    array = deterministic.with_copies(deterministic.settled(array))
    axes = tuple(
        (Factor("copies" if c else "place", n),)
        for n, c in zip(array.shape, array.copies, strict=True)
    )
    coef = deterministic.as_coefficient(array)
    return Field(axes, (Term(coef, ()),), array.dtype)


def with_terms(field: Field, terms: Sequence[Term]) -> Field:
    """The same axes, other terms."""
    return Field(field.axes, tuple(terms), field.dtype)


def linear_atom(term: Term) -> Atom | None:
    """The Gaussian of a term that is one, times a number or a coefficient."""
    if len(term.factors) != 1:
        return None
    ((function, _, atom),) = term.factors
    return atom if function.slope is not None and atom.gaussian else None


def map_places(
    atoms: Atoms, field: Field, op: PlaceOp, axes: Axes, fills: bool = False
) -> Field:
    """A linear map of the places; `fills` says that it makes zeros."""
    if not op.selects:
        return Field(axes, _mixed(atoms, field.terms, op), field.dtype)
    terms = []
    for term in field.terms:
        if fills and any(params for _, params, _ in term.factors):
            terms += _mixed(atoms, (term,), op)
            continue
        coef = term.coef
        if coef is None and fills and term.factors:
            coef = ones(len(op.before))
        factors = tuple(
            (f, tuple(move(p, op) for p in params), atoms.moved(op, a))
            for f, params, a in term.factors
        )
        terms.append(Term(None if coef is None else move(coef, op), factors))
    return Field(axes, tuple(terms), field.dtype)


def move(coef: Data, op: PlaceOp) -> Data:
    """A coefficient under a linear map of its dimensions."""

    def compute(m: Any, side: int) -> Any:
        value = m.value(coef, side)
        if not op.lazy:
            value = jnp.broadcast_to(value, op.before)
        return op.apply(value, m, side)

    copies = (False,) * len(op.after)
    return deterministic.made(
        op.after, copies, coef.dtype, compute, [coef, *op.operands], coef.average
    )


_ones: dict[int, Data] = {}


def ones(rank: int) -> Data:
    """The coefficient 1."""
    if rank not in _ones:
        _ones[rank] = deterministic.constant(np.ones((1,) * rank))
    return _ones[rank]


def _mixed(atoms: Atoms, terms: Sequence[Term], op: PlaceOp) -> tuple[Term, ...]:
    """A linear map that is no selection: Gaussians and numbers apart from the rest."""
    done, rest = [], []
    for term in terms:
        if not term.factors:
            assert term.coef is not None
            done.append(Term(move(term.coef, op), ()))
        elif linear_atom(term) is not None and term.coef is None:
            ((function, _, atom),) = term.factors
            done.append(Term(None, ((function, (), atoms.moved(op, atom)),)))
        else:
            rest.append(term)
    if rest:
        done.append(itself(atoms.mixed(op, tuple(rest))))
    return tuple(done)


def rewide(atoms: Atoms, field: Field, op: WideOp, axes: Axes) -> Field:
    """A change of the wide factors alone."""
    return Field(axes, atoms.rewide_terms(op, field.terms), field.dtype)


def position(field: Field, axis: int, part: int) -> tuple[bool, int]:
    """Whether a factor is wide, and its number among the wide, or the others."""
    wide = others = 0
    for a, factors in enumerate(field.axes):
        for i, factor in enumerate(factors):
            if (a, i) == (axis, part):
                is_wide = factor.kind == "wide"
                return is_wide, wide if is_wide else others
            wide += factor.kind == "wide"
            others += factor.kind != "wide"
    raise IndexError(axis, part)


def replaced(axes: Axes, axis: int, factors: Axis) -> Axes:
    """Axes with other factors for one of them."""
    return (*axes[:axis], factors, *axes[axis + 1 :])


def split(
    atoms: Atoms, field: Field, axis: int, part: int, sizes: tuple[int, ...]
) -> Field:
    """A factor as the product of several."""
    old = field.axes[axis]
    kind, of = old[part].kind, old[part].whole if old[part].kind == "wide" else 0
    new = (*old[:part], *(Factor(kind, n, of) for n in sizes), *old[part + 1 :])
    axes = replaced(field.axes, axis, new)
    wide, number = position(field, axis, part)
    if wide:
        return rewide(atoms, field, WideOp("split", number, sizes), axes)

    def apply(a: Any, m: Any, side: int) -> Any:
        parts = (1,) * len(sizes) if a.shape[number] == 1 else sizes
        return a.reshape(a.shape[:number] + parts + a.shape[number + 1 :])

    op = layout_op(("split", number, sizes), apply, field, axes)
    return map_places(atoms, field, op, axes)


def layout_op(key: Hashable, apply: Any, field: Field, axes: Axes) -> PlaceOp:
    """A map that only rearranges entries, copies included."""
    after = Field(axes, (), field.dtype).sizes
    return PlaceOp((key, field.sizes, after), apply, field.sizes, after, True, True)


def refined(atoms: Atoms, one: Field, two: Field) -> tuple[Field, Field]:
    """Both, with factors of the same sizes along each axis."""
    for axis in range(len(one.axes)):
        i = 0
        while i < max(len(one.axes[axis]), len(two.axes[axis])):
            one, two = _with_unit(atoms, one, two, axis, i)
            a, b = one.axes[axis][i].size, two.axes[axis][i].size
            if a == b:
                i += 1
            elif a > b and a % b == 0 and b > 1:
                one = split(atoms, one, axis, i, (b, a // b))
            elif b > a and b % a == 0 and a > 1:
                two = split(atoms, two, axis, i, (a, b // a))
            else:
                raise NoLimitError(
                    "two arrays whose axes were merged from axes of other sizes"
                )
    return one, two


def _with_unit(
    atoms: Atoms, one: Field, two: Field, axis: int, i: int
) -> tuple[Field, Field]:
    """Factors of size 1 wherever the other has one, so that sizes can agree."""
    sizes = [
        f.axes[axis][i].size if i < len(f.axes[axis]) else None for f in (one, two)
    ]
    if sizes[0] == sizes[1]:
        return one, two
    if sizes[0] == 1 or sizes[1] is None:
        two = insert(atoms, two, axis, i, 1)
    elif sizes[1] == 1 or sizes[0] is None:
        one = insert(atoms, one, axis, i, 1)
    return one, two


def insert(atoms: Atoms, field: Field, axis: int, part: int, size: int) -> Field:
    """A new copies factor within an axis."""
    old = field.axes[axis]
    new = (*old[:part], Factor("copies", size), *old[part:])
    axes = replaced(field.axes, axis, new)
    return _inserted(atoms, field, axes, axis, part)


def new_axis(atoms: Atoms, field: Field, axis: int, size: int) -> Field:
    """A new array axis of copies."""
    axes = (*field.axes[:axis], (Factor("copies", size),), *field.axes[axis:])
    return _inserted(atoms, field, axes, axis, 0)


def _inserted(atoms: Atoms, field: Field, axes: Axes, axis: int, part: int) -> Field:
    shape = Field(axes, (), field.dtype)
    _, number = position(shape, axis, part)
    apply = lambda a, m, side: jnp.expand_dims(a, number)
    op = layout_op(("insert", number, shape.sizes[number]), apply, field, axes)
    return map_places(atoms, field, op, axes)


def drop(atoms: Atoms, field: Field, axis: int, part: int) -> Field:
    """Without a factor of size 1."""
    old = field.axes[axis]
    axes = replaced(field.axes, axis, (*old[:part], *old[part + 1 :]))
    wide, number = position(field, axis, part)
    if wide:
        return rewide(atoms, field, WideOp("drop", number, ()), axes)
    apply = lambda a, m, side: jnp.squeeze(a, number)
    op = layout_op(("drop", number), apply, field, axes)
    return map_places(atoms, field, op, axes)


def transpose(atoms: Atoms, field: Field, permutation: Sequence[int]) -> Field:
    """With its axes in another order."""
    numbers: list[list[tuple[bool, int]]] = []
    wide = others = 0
    for axis in field.axes:
        mine = []
        for factor in axis:
            mine.append(
                (factor.kind == "wide", wide if factor.kind == "wide" else others)
            )
            wide += factor.kind == "wide"
            others += factor.kind != "wide"
        numbers.append(mine)
    axes = tuple(field.axes[i] for i in permutation)
    order = [n for i in permutation for n in numbers[i]]
    dims = tuple(n for is_wide, n in order if not is_wide)
    columns = tuple(n for is_wide, n in order if is_wide)
    if dims != tuple(range(len(dims))):
        apply = lambda a, m, side: jnp.transpose(a, dims)
        op = layout_op(("transpose", dims), apply, field, axes)
        field = Field(axes, map_places(atoms, field, op, axes).terms, field.dtype)
    field = Field(axes, field.terms, field.dtype)
    if columns != tuple(range(len(columns))):
        field = rewide(atoms, field, WideOp("permute", -1, columns), axes)
    return field


def reshape(atoms: Atoms, field: Field, shape: Sequence[int]) -> Field:
    """In another shape: factors are regrouped, and split where they must be."""
    # Factors of size 1 are dropped and made anew: they belong to no axis.
    for axis in range(len(field.axes)):
        for part in reversed(range(len(field.axes[axis]))):
            if field.axes[axis][part].size == 1:
                field = drop(atoms, field, axis, part)
    wanted = [n for n in shape if n != 1]
    flat = Field((tuple(field.factors),), field.terms, field.dtype)
    numbers: list[range] = []
    part = 0
    for size in wanted:
        start, have = part, 1
        while have < size:
            factor = flat.axes[0][part]
            need = size // have
            if size % have or (factor.size > need and factor.size % need):
                raise NoLimitError(
                    "a reshape that mixes axes of which one goes to infinity"
                    if any(f.kind == "wide" for f in flat.axes[0])
                    else "a reshape whose axes do not divide one another"
                )
            if factor.size > need:
                flat = split(atoms, flat, 0, part, (need, factor.size // need))
            have *= flat.axes[0][part].size
            part += 1
        if have != size:
            raise NoLimitError(
                "a reshape that mixes axes of which one goes to infinity"
            )
        numbers.append(range(start, part))
    final = tuple(tuple(flat.axes[0][i] for i in several) for several in numbers)
    result = Field(final, flat.terms, field.dtype)
    for i, n in enumerate(shape):
        if n == 1:
            result = new_axis(atoms, result, i, 1)
    return result


def broadcast(
    atoms: Atoms, field: Field, shape: Sequence[int], places: Sequence[int]
) -> Field:
    """`broadcast_in_dim`."""
    if field.shape == tuple(shape):
        return field
    for i, j in enumerate(places):
        if math.prod(f.size for f in field.axes[i]) != shape[j]:
            for part in reversed(range(len(field.axes[i]))):
                field = drop(atoms, field, i, part)
            field = insert(atoms, field, i, 0, shape[j])
    for j, size in enumerate(shape):
        if j not in places:
            field = new_axis(atoms, field, j, size)
    return field


def plain(atoms: Atoms, field: Field, axis: int) -> Field:
    """With one axis a single factor, where it holds places alone."""
    factors = field.axes[axis]
    if len(factors) == 1:
        return field
    if not factors:
        return insert(atoms, field, axis, 0, 1)
    if any(f.kind == "wide" for f in factors):
        raise NoLimitError(
            "an operation along an axis that was merged from places and an axis that "
            "goes to infinity"
        )
    size = axis_size(factors)
    kind = "copies" if all(f.kind == "copies" for f in factors) else "place"
    axes = replaced(field.axes, axis, (Factor(kind, size),))
    _, number = position(field, axis, 0)
    count = len(factors)
    sizes = tuple(f.size for f in factors)

    def apply(a: Any, m: Any, side: int) -> Any:
        parts = a.shape[number : number + count]
        whole = (1,) if all(n == 1 for n in parts) else (size,)
        if whole == (size,):
            a = jnp.broadcast_to(
                a, a.shape[:number] + sizes + a.shape[number + count :]
            )
        return a.reshape(a.shape[:number] + whole + a.shape[number + count :])

    op = layout_op(("merge", number, sizes), apply, field, axes)
    return map_places(atoms, field, op, axes)


def along_places(
    atoms: Atoms,
    field: Field,
    key: Hashable,
    function: Callable[[Any, Any, int], Any],
    shape: Sequence[int],
    touched: Sequence[int],
    selects: bool,
    fills: bool = False,
    operands: tuple[Data, ...] = (),
) -> Field:
    """A linear function of the whole array that treats each wide entry by itself.

    Args:
        atoms: where atoms are made.
        field: the array.
        key: equal for equal functions.
        function: of an array with size 1 along wide axes, the moments and the side.
        shape: of the result in the model.
        touched: the axes, before and after, along which entries are moved or mixed.
        selects: whether each result is one of the entries, or zero.
        fills: whether it may be zero.
        operands: deterministic arrays that the function depends on.
    """
    for axis in range(len(field.axes)):
        field = plain(atoms, field, axis) if axis in touched else field
    if any(field.axes[i][0].kind == "wide" for i in touched):
        raise NoLimitError(
            "entries along an axis that goes to infinity are moved or mixed"
        )
    # Untouched composite axes: one dimension per factor that is not wide.
    if any(len(axis) != 1 for axis in field.axes):
        raise NoLimitError(
            "an operation on an array some of whose axes were merged from several"
        )
    wide = [i for i, axis in enumerate(field.axes) if axis[0].kind == "wide"]
    axes = tuple(
        field.axes[i]
        if i in wide
        else (Factor("place", n),)
        if i in touched
        else field.axes[i]
        for i, n in enumerate(shape)
    )

    sizes = [f.size if i in touched else None for i, (f,) in enumerate(field.axes)]
    sizes = [n for i, n in enumerate(sizes) if i not in wide]

    def apply(a: Any, m: Any, side: int) -> Any:
        whole = [n or have for n, have in zip(sizes, a.shape, strict=True)]
        a = jnp.expand_dims(jnp.broadcast_to(a, whole), wide)
        return jnp.squeeze(function(a, m, side), tuple(wide))

    after = Field(axes, (), field.dtype).sizes
    op = PlaceOp(
        (key, field.sizes, after, tuple(wide)), apply, field.sizes, after,
        selects, True, operands,
    )  # fmt: skip
    return map_places(atoms, field, op, axes, fills)
