"""Sums of random arrays over axes: means, by the law of large numbers, or Gaussians."""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..averages import Average
from ..errors import NoLimitError, located
from ..layout import Root
from ..nodes import Atoms, Data, Field, PlaceOp, Term, itself
from ..numbers.sources import Operand, Overlap
from . import fields
from .algebra import is_positive, zero_mean


def check_many(atoms: Atoms, some: int, whole: int) -> None:
    """Check that entries that are summed are a good part of an axis, as it grows.

    And that no other sum is over so many that these seem to stay few beside them.
    """
    if some**2 < whole:
        raise NoLimitError(
            f"a sum over {some} of the {whole} entries of an axis that goes to "
            "infinity: if they stay as few there is no limit; if they become more as "
            "the axis grows, pass a wider model"
        )
    atoms.fewest = min(atoms.fewest, some)
    atoms.widest = max(atoms.widest, whole)
    if atoms.fewest**2 < atoms.widest:
        raise NoLimitError(
            f"a sum over {atoms.fewest:g} entries of an axis that goes to infinity, in "
            f"a model that sums over {atoms.widest} elsewhere: if they stay as few (a "
            "low rank, a few experts or heads) there is no limit; if they grow with "
            "the others, pass a model whose widths are more alike"
        )


def check_each(
    atoms: Atoms, terms: Sequence[Term], columns: dict[int, int], whole: int
) -> None:
    """The same of each random array in a sum, along the factors that it varies along.

    The scores of a few heads are few, however many entries each head has.
    """
    for root in {root for term in terms for root in term.roots}:
        sizes = [n for c, n in columns.items() if root.varies_along([c])]
        if sizes:
            check_many(atoms, math.prod(sizes), whole)


def _along(
    field: Field, axes: Sequence[int]
) -> tuple[dict[int, int], list[tuple[int, int]], int, int]:
    """Wide factors and dimensions, with sizes; entries summed, of how many."""
    columns, dims, wide, whole = {}, [], 1, 1
    for axis in axes:
        for part, factor in enumerate(field.axes[axis]):
            is_wide, number = fields.position(field, axis, part)
            if is_wide:
                columns[number] = factor.size
                wide *= factor.size
                whole = max(whole, factor.whole)
            else:
                dims.append((number, factor.size))
    return columns, dims, wide, whole


def summed(atoms: Atoms, field: Field, axes: Sequence[int]) -> Field | Data:
    """`reduce_sum` of a random array."""
    columns, dims, wide, whole = _along(field, axes)
    kept = tuple(a for i, a in enumerate(field.axes) if i not in axes)
    if columns:
        left = [f.whole for axis in kept for f in axis if f.kind == "wide"]
        atoms.widest = max(atoms.widest, *left, 1)
        check_many(atoms, wide, whole)
        check_each(atoms, field.terms, columns, whole)
        for term in field.terms:
            atoms.averaged |= {(root, c) for root in term.roots for c in columns}
        return _law_of_large_numbers(field, axes, [*columns], dims, wide, atoms.place)
    numbers = tuple(d for d, _ in dims)
    sizes = dict(dims)

    def apply(a: Any, m: Any, side: int) -> Any:
        copies = math.prod(n for d, n in sizes.items() if a.shape[d] == 1)
        return copies * a.sum(axis=numbers)

    op_axes = kept
    after = Field(op_axes, (), field.dtype).sizes
    op = PlaceOp(("sum", numbers, field.sizes), apply, field.sizes, after, False, True)
    return fields.map_places(atoms, field, op, op_axes)


def _law_of_large_numbers(
    field: Field,
    axes: Sequence[int],
    columns: list[int],
    dims: Any,
    wide: int,
    place: str,
) -> Data:
    for term in field.terms:
        for root in term.roots:
            if not root.varies_along(columns):
                raise NoLimitError(
                    "a sum over an axis that goes to infinity of something random that "
                    "does not vary along it"
                )
    rank = len(field.sizes)
    shape, copies, target = [], [], []
    kept_dims = []
    for i, axis in enumerate(field.axes):
        if i in axes:
            continue
        is_lazy = all(f.kind != "place" for f in axis)
        shape.append(math.prod(f.size for f in axis))
        copies.append(is_lazy)
        target.append(1 if is_lazy else shape[-1])
        for part, factor in enumerate(axis):
            is_wide, number = fields.position(field, i, part)
            kept_dims.append((None if is_wide else number, factor.size, is_lazy))
    others = [(d, n) for d, n in dims]

    def compute(m: Any, side: int) -> Any:
        try:
            mean = m.mean(field.terms, rank, side)
        except NoLimitError as error:
            raise located(error, place) from None
        for d, n in others:
            mean = mean.sum(axis=d, keepdims=True) * (n if mean.shape[d] == 1 else 1)
        # Axes that hold places are written out; the others keep size 1.
        order = [d for d, _, _ in kept_dims if d is not None]
        mean = mean.transpose([*order, *(d for d in range(rank) if d not in order)])
        mean = mean.reshape(mean.shape[: len(order)])
        have = iter(mean.shape)
        sizes = [1 if d is None else next(have) for d, _, _ in kept_dims]
        mean = mean.reshape(sizes)
        whole = [
            size if lazy else n
            for size, (_, n, lazy) in zip(sizes, kept_dims, strict=True)
        ]
        mean = jnp.broadcast_to(mean, whole)
        return (wide * mean).reshape(target).astype(field.dtype)

    added = float(math.prod(n for _, n in dims) * wide)
    average = Average(float(wide), added, False, False)
    if zero_mean(field.terms):
        value = np.zeros([1 if c else n for n, c in zip(shape, copies, strict=True)])
        return Data(
            tuple(shape), tuple(copies), field.dtype, lambda m, side: None,
            value.astype(field.dtype), average,
        )  # fmt: skip
    return Data(
        tuple(shape), tuple(copies), field.dtype, compute, None,
        average._replace(positive=is_positive(field.terms)),
    )  # fmt: skip


def overlap(field: Field, axes: Sequence[int], atoms: Atoms) -> Field:
    """The sum over wide axes of a product of mean zero: a new Gaussian array."""
    columns, dims, wide, whole = _along(field, axes)
    summed_dims = [number for number, _ in dims]
    # Unlike what a mean leaves, the axes that stay are wide still: where they are
    # hidden, a later sum counts them among the widest, and how many outputs there are
    # says nothing of widths.
    check_many(atoms, wide, whole)
    check_each(atoms, field.terms, columns, whole)
    for term in field.terms:
        atoms.averaged |= {(root, c) for root in term.roots for c in columns}
        atoms.contracted |= {root.origin for root in term.roots}
    kept_axes = tuple(a for i, a in enumerate(field.axes) if i not in axes)
    result = Field(kept_axes, (), field.dtype)
    kept_columns = [c for c in range(field.n_wide) if c not in columns]
    for term in field.terms:
        for root in term.roots:
            if not root.varies_along([*columns]) or not all(
                root.varies_along([c]) for c in kept_columns
            ):
                raise NoLimitError(
                    "a product of random arrays is summed over an axis along which one "
                    "of them does not vary"
                )
    operand = Operand(
        field.terms, field.sizes, tuple(sorted(summed_dims)), (), wide, atoms.place
    )
    rank = len(result.sizes)
    source = Overlap(operand, tuple(columns), rank)
    strides = tuple(
        tuple(int(a == b) for b in range(result.n_wide)) for a in range(result.n_wide)
    )
    root = Root(("overlap",), (), (0,) * result.n_wide, strides)
    atom = atoms.drawn(source, root)
    return Field(kept_axes, (itself(atom),), field.dtype)
