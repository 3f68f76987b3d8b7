"""Covariances of atoms, by what they are made of: sums, rearranged and joined arrays.

Each function asks the moments `m` for those of the parts, which are computed once.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from ..nodes import Atom, Drawn, Joined, Mixed, Moved, PlaceOp, Sum, dependent, itself


def turn(atom: Atom) -> tuple[int, int]:
    """Larger for what is to be taken apart first."""
    kinds = (Drawn, Mixed, (Joined, Moved), Sum)
    (kind,) = (i for i, types in enumerate(kinds) if isinstance(atom, types))
    return kind, atom.number


def covariance(
    m: Any, one: Atom, two: Atom, sides: tuple[int, int], diagonal: bool, still: bool
) -> Any:
    """Of entries of two atoms, of which `one` is taken apart; `None` where it is zero.

    Args:
        m: the moments, which know those of the parts.
        one: an atom, not before the other in the order of `turn`.
        two: another.
        sides: of the two.
        diagonal: whether one number for each place is asked for, not each pair of them.
        still: whether covariances are those of one network with itself.
    """
    if not dependent(one, two):
        return None
    if (one.tangent or two.tangent) and sides[0] == sides[1]:
        return None
    if isinstance(one, Sum):
        return _of_sum(m, one, two, sides, diagonal, still)
    if diagonal and not _goes_along(one, two, sides):
        full = m.covariance(one, two, sides, False, still)
        return None if full is None else _diagonal_of(full, one.rank)
    if isinstance(one, Moved):
        if diagonal:
            k = m.covariance(one.atom, two.atom, sides, True, still)  # type: ignore[attr-defined]
            return None if k is None else moved(m, one.op, k, sides[0])
        k = m.covariance(one.atom, two, sides, False, still)
        return None if k is None else _left(m, one.op, k, sides[0])
    if isinstance(one, Joined):
        return _of_joined(m, one, two, sides, diagonal, still)
    if isinstance(one, Mixed):
        return _of_mixed(m, one, two, sides, still)
    assert isinstance(one, Drawn) and isinstance(two, Drawn)
    return one.source.covariance(m, two.source, sides, diagonal, still)


def moved(m: Any, op: PlaceOp, array: Any, side: int) -> Any:
    """An array after a linear map of its places."""
    if not op.lazy:
        array = jnp.broadcast_to(array, op.before)
    return op.apply(array, m, side)


def _of_sum(
    m: Any, one: Sum, two: Atom, sides: tuple[int, int], diagonal: bool, still: bool
) -> Any:
    total = None
    for coef, atom in one.parts:
        k = m.covariance(atom, two, sides, diagonal, still)
        if k is None:
            continue
        c = m.number(coef, sides[0])
        if not diagonal:
            c = c.reshape(c.shape + (1,) * two.rank)
        total = c * k if total is None else total + c * k
    return total


def _of_joined(
    m: Any, one: Joined, two: Atom, sides: Any, diagonal: bool, still: bool
) -> Any:
    twos = two.atoms if diagonal else [two] * len(one.atoms)  # type: ignore[attr-defined]
    parts = [
        m.covariance(a, b, sides, diagonal, still)
        for a, b in zip(one.atoms, twos, strict=True)
    ]
    if all(part is None for part in parts):
        return None
    rank = one.rank if diagonal else one.rank + two.rank
    zero = jnp.zeros((1,) * rank, m.dtype)
    parts = [zero if part is None else part for part in parts]
    shape = list(jnp.broadcast_shapes(*(_without(p, one.dimension) for p in parts)))
    whole = []
    for part, size in zip(parts, one.sizes, strict=True):
        shape[one.dimension] = size
        whole.append(jnp.broadcast_to(part, tuple(shape)))
    return jnp.concatenate(whole, one.dimension)


def _of_mixed(m: Any, one: Mixed, two: Atom, sides: Any, still: bool) -> Any:
    """Of sums that are not Gaussian: these are not centred, but second moments."""
    rank = len(one.op.before)
    if isinstance(two, Mixed):
        rank2 = len(two.op.before)
        k = m.second(one.terms, two.terms, rank, sides, False, still, rank2)
        k = jnp.moveaxis(k, range(rank, rank + rank2), range(rank2))
        k = _left(m, two.op, k, sides[1])
        k = jnp.moveaxis(k, range(two.rank), range(rank, rank + two.rank))
    else:
        other = (itself(two),)
        k = m.second(one.terms, other, rank, sides, False, still, two.rank)
    return _left(m, one.op, k, sides[0])


def _left(m: Any, op: PlaceOp, k: Any, side: int) -> Any:
    """The map on the first dimensions of a covariance."""
    rank = len(op.before)
    rest = k.shape[rank:]
    flat = k.reshape(k.shape[:rank] + (math.prod(rest),))
    after = jax.vmap(lambda a: moved(m, op, a, side), -1, -1)(flat)
    return after.reshape(after.shape[:-1] + rest)


def _goes_along(one: Atom, two: Atom, sides: tuple[int, int]) -> bool:
    """Whether a diagonal covariance needs diagonals alone.

    Not where each example decides itself which entries are taken.
    """
    if isinstance(one, Drawn):
        return isinstance(two, Drawn)
    if isinstance(one, Moved):
        alike = isinstance(two, Moved) and one.op == two.op and one.op.selects
        return alike and (sides[0] == sides[1] or not one.op.operands)
    if isinstance(one, Joined):
        return (
            isinstance(two, Joined)
            and one.dimension == two.dimension
            and one.sizes == two.sizes
        )
    return False


def _diagonal_of(full: Any, rank: int) -> Any:
    """The entries of a covariance at one place, of its pairs of places."""
    shape = jnp.broadcast_shapes(full.shape[:rank], full.shape[rank:])
    full = jnp.broadcast_to(full, shape + shape)
    letters = "abcdefghijklm"[:rank]
    return jnp.einsum(f"{letters}{letters}->{letters}", full)


def _without(array: Any, dimension: int) -> tuple[int, ...]:
    shape = list(array.shape)
    shape[dimension] = 1
    return tuple(shape)
