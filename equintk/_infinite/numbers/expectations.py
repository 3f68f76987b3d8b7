"""Means of products of functions of Gaussians, factor by factor.

Factors that depend on one another are taken together: linear ones by Isserlis's
theorem, two that are not by `duals`, what has no closed form by `sampling` where that
is asked for.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ..errors import NoLimitError
from ..functions import duals, hermite
from ..functions.spelling import is_odd
from ..nodes import Atom, Drawn, Mixed, Moved, Term, components
from . import sampling
from .covariances import moved


def expected(
    m: Any,
    terms: Sequence[tuple[Term, int]],
    ranks: tuple[int, int],
    full: bool,
    still: bool = False,
) -> Any:
    """The mean of a product of terms; `None` where its structure is zero.

    Args:
        m: the moments, which know covariances.
        terms: each with the side of its examples.
        ranks: the numbers of dimensions on the left and on the right.
        full: whether the second term has dimensions of its own, on the right.
        still: whether covariances are those of one network with itself.
    """
    factors = [
        (f, params, atom, side, int(full and i == 1))
        for i, (term, side) in enumerate(terms)
        for f, params, atom in term.factors
    ]
    groups = components([factor[2] for factor in factors])
    if any(_is_zero([factors[i] for i in group]) for group in groups):
        return None
    total = None
    for group in groups:
        part = _of_dependent(m, [factors[i] for i in group], ranks, full, still)
        if part is None:
            return None
        total = part if total is None else total * part
    for i, (term, side) in enumerate(terms):
        if term.coef is not None:
            coef = m.number(term.coef, side)
            coef = _placed(coef, int(full and i == 1), ranks, full)
            total = coef if total is None else total * coef
    if total is None:
        total = jnp.ones((1,) * (sum(ranks) if full else ranks[0]), m.dtype)
    return total


def _is_zero(factors: Sequence[Any]) -> bool:
    """Whether the mean of a product is zero by symmetry."""
    if not all(atom.gaussian for *_, atom, _, _ in factors):
        return False
    if len(factors) == 1:
        return is_odd(factors[0][0])
    return len(factors) % 2 == 1 and all(f.slope is not None for f, *_ in factors)


def _of_dependent(
    m: Any, factors: Sequence[Any], ranks: tuple[int, int], full: bool, still: bool
) -> Any:
    """The mean of a product of functions of Gaussians that are dependent."""
    if m.points is not None and _is_open(factors):
        return sampling.expected(m, factors, ranks, full, still)
    slopes = [f.slope for f, *_ in factors]
    if all(slope is not None for slope in slopes):
        value = _of_linear(m, factors, ranks, full, still)
        return None if value is None else math.prod(slopes) * value
    if len(factors) == 1:
        ((function, params, atom, side, right),) = factors
        q = _variance(m, atom, side)
        expand = lambda i: _expanded(m, function, params, atom, side)
        value, error = duals.mean(function, q, expand)
        if error is not None:
            m.errors.append(error)
        return _placed(value, right, ranks, full)
    if len(factors) > 2:
        raise NoLimitError(
            "a product of functions of more than two dependent Gaussians, of which "
            "not all are linear"
        )
    return _of_two(m, factors, ranks, full, still)


def _is_open(factors: Sequence[Any]) -> bool:
    """Whether the mean has no closed form."""
    if any(sampling.needed(atom) for _, _, atom, _, _ in factors):
        return True
    if all(f.slope is not None for f, *_ in factors):
        return False
    return len(factors) > 2 or any(not atom.gaussian for _, _, atom, _, _ in factors)


def _of_linear(m: Any, factors: Any, ranks: Any, full: bool, still: bool) -> Any:
    """Isserlis's theorem: the sum over all pairings."""
    if len(factors) > 2 and any(not f[2].gaussian for f in factors):
        raise NoLimitError(
            "a product of more than two dependent numbers that are not Gaussian"
        )
    (_, _, a, s, a_right), *others = factors
    if len(factors) % 2:
        if a.gaussian:
            return None
        return _placed(_mean_of(m, a, s), a_right, ranks, full)
    total = None
    for i, (_, _, b, t, b_right) in enumerate(others):
        across = full and a_right != b_right
        k = m.covariance(a, b, (s, t), not across, still)
        if k is None:
            continue
        if full and not across:
            k = _placed(k, a_right, ranks, full)
        rest = others[:i] + others[i + 1 :]
        if rest:
            more = _of_linear(m, rest, ranks, full, still)
            if more is None:
                continue
            k = k * more
        total = k if total is None else total + k
    return total


def _mean_of(m: Any, atom: Any, side: int) -> Any:
    """Of the entries of an array that is not Gaussian."""
    if isinstance(atom, Mixed):
        array = m.mean(atom.terms, len(atom.op.before), side)
    elif isinstance(atom, Drawn):
        return atom.source.mean(m)
    else:
        assert isinstance(atom, Moved)
        array = _mean_of(m, atom.atom, side)
    return moved(m, atom.op, array, side)


def _of_two(m: Any, factors: Any, ranks: Any, full: bool, still: bool) -> Any:
    (f, fp, a, s, a_right), (g, gp, b, t, b_right) = factors
    if not (a.gaussian and b.gaussian):
        raise NoLimitError(
            "a nonlinear function times something that depends on it and is "
            "neither Gaussian nor a function of one"
        )
    across = full and a_right != b_right
    key = ("pair", f, fp, a.number, s, g, gp, b.number, t, across, still)
    value = m.once(key, lambda: _dual(m, factors, ranks, across, still))
    return _placed(value, a_right, ranks, full) if full and not across else value


def _dual(m: Any, factors: Any, ranks: Any, across: bool, still: bool) -> Any:
    """The mean of a product of two functions, for each place or pair of places."""
    (f, fp, a, s, _), (g, gp, b, t, _) = factors
    own = (_own_variance(m, a, fp, s), _own_variance(m, b, gp, t))

    def covariance(still: bool, shape: tuple[int, ...]) -> Any:
        k = m.covariance(a, b, (s, t), not across, still)
        return jnp.zeros(shape, m.dtype) if k is None else k  # zero, though they depend

    k = covariance(still, (1,) * (sum(ranks) if across else own[0].ndim))
    like = k.shape
    # Where nothing is repeated, places are numbered in one go: short loops over
    # each of their dimensions would not be vectorised.
    flat = like == (own[0].shape + own[1].shape if across else own[0].shape)
    flat = flat and (across or own[0].shape == own[1].shape)
    if flat:
        own = (own[0].ravel(), own[1].ravel())
    numbered = [q.size for q in own] if across else [-1]
    shaped = lambda k: k.reshape(numbered) if flat else k
    one, two = own
    if across:
        one = one.reshape(one.shape + (1,) * two.ndim)
        two = two.reshape((1,) * own[0].ndim + two.shape)

    def exact(k: Any) -> tuple[Any, Any, Any]:
        if a is not b:
            return one, two, k
        same = jnp.asarray(True) if s == t else m.same
        return _exact(one, two, k, same, own[0].ndim if across else None)

    def expanded(i: int) -> Any:
        series = _expanded(m, *((f, fp, a, s), (g, gp, b, t))[i])
        return series.raveled() if flat else series

    q1, q2, k1 = exact(shaped(k))
    value, error = duals.product(
        (f, g), own, (q1, q2), k1,
        lambda: exact(shaped(covariance(True, like)))[2],
        expanded, m.given,
    )  # fmt: skip
    if error is not None:
        m.errors.append(error)
    return value.reshape(like) if flat else value


def _variance(m: Any, atom: Atom, side: int) -> Any:
    q = m.covariance(atom, atom, (side, side), True)
    return jnp.zeros((1,) * atom.rank, m.dtype) if q is None else q


def _own_variance(m: Any, atom: Atom, params: Any, side: int) -> Any:
    """The variance, as large as the parameters of a function of it."""
    q = _variance(m, atom, side)
    shapes = [m.number(p, side).shape for p in params]
    return jnp.broadcast_to(q, jnp.broadcast_shapes(q.shape, *shapes))


def _expanded(m: Any, function: Any, params: Any, atom: Atom, side: int) -> Any:
    """The Hermite series of a function of an array."""

    def series() -> Any:
        q = _own_variance(m, atom, params, side)
        given = [m.number(p, side) for p in params]
        given = [jnp.broadcast_to(p, q.shape) for p in given]
        return hermite.series(function, q, given, m.order)

    return m.once(("series", function, params, atom.number, side), series)


def _exact(q1: Any, q2: Any, k: Any, same: Any, rank: int | None) -> Any:
    """Variances and covariance, made equal where both are of one and the same.

    Rounding would make the correlation differ from one, where derivatives of
    functions with kinks change at the rate of the root of the difference.
    """
    shape = jnp.broadcast_shapes(k.shape, q1.shape, q2.shape)
    mask = same
    if rank is not None:
        for d in range(rank):
            left, right = shape[d], shape[rank + d]
            if left != right:
                return q1, q2, k
            others = tuple(i for i in range(2 * rank) if i not in (d, rank + d))
            eye = jnp.expand_dims(jnp.eye(left, dtype=bool), others)
            mask = eye & mask
    wide = jnp.broadcast_to(mask, jnp.broadcast_shapes(shape, jnp.shape(mask)))
    q1, q2, k = (jnp.broadcast_to(a, wide.shape) for a in (q1, q2, k))
    return q1, jnp.where(wide, q1, q2), _with_value(k, q1, wide)


@jax.custom_jvp
def _with_value(k: Any, value: Any, mask: Any) -> Any:
    """The covariance with this value where `mask` holds, and its own derivative."""
    return jnp.where(mask, value, k)


@_with_value.defjvp
def _with_value_jvp(primals: Any, tangents: Any) -> Any:
    return _with_value(*primals), tangents[0]


def _placed(array: Any, right: int, ranks: tuple[int, int], full: bool) -> Any:
    """An array of one side, with dimensions of size 1 for the other."""
    if not full:
        return array
    if right:
        return array.reshape((1,) * ranks[0] + array.shape)
    return array.reshape(array.shape + (1,) * ranks[1])
