"""Expected values of a function of a Gaussian, and of products of two."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from ..errors import NoLimitError
from . import hermite, waves
from .arccos import half_moment, moment, rectified
from .forms import number
from .function import Function, multiple
from .spelling import TwoSided, recognised, smooth, two_sided

Expansion = Callable[[int], hermite.Series]
"""Of one of the functions, by its number."""

Duals = tuple[tuple[Function, Callable[..., Any]], ...]
"""Functions of which users gave the expectations of products, and these."""


def mean(function: Function, q: Any, expansion: Expansion) -> tuple[Any, Any]:
    """`E[phi(u)]` for the variances `q`, and bounds of its error, or `None`."""
    sides = recognised(function)
    known, form = two_sided(sides), smooth(sides)
    if known is None:
        if form is not None:
            zero = jnp.zeros_like(q)
            return waves.expectation(form, number(1.0), q, zero, zero), None
        series = expansion(0)
        return series.coefs[0], hermite.error(series, series)
    total = jnp.zeros_like(q)
    for m, coef in enumerate(known.smooth):
        if coef and m % 2 == 0:
            total = total + coef * moment(0, m, q, q, q)
    for m, coef in enumerate(known.kink):
        if coef:
            total = total + coef * half_moment(m, q)
    return total, None


def product(
    functions: tuple[Function, Function],
    own: tuple[Any, Any],
    variances: tuple[Any, Any],
    covariance: Any,
    still: Callable[[], Any],
    expansion: Expansion,
    given: Duals = (),
) -> tuple[Any, Any]:
    """`E[phi(u) psi(v)]`, and bounds of its relative error, or `None` where exact.

    Args:
        functions: `phi` and `psi`.
        own: the variances of each by itself, in which it is expanded.
        variances: the same, broadcastable against the covariance.
        covariance: of `u` and `v`.
        still: the covariance without its derivative by the parameters' covariance,
            which is that of jumps: where a function jumps, JAX's derivative is zero,
            and so is that of the network.
        expansion: of each in Hermite polynomials.
        given: expectations that come before all others.
    """
    for function, dual in given:
        one, two = (multiple(f, function) for f in functions)
        if one is not None and two is not None:
            return _of_users(dual, one, two, *variances, covariance), None
    sides = [recognised(f) for f in functions]
    one, two = map(two_sided, sides)
    if one is not None and two is not None:
        return _two_sided(one, two, *variances, covariance, still), None
    left, right = map(smooth, sides)
    if left is not None and right is not None and waves.is_known(left, right):
        return waves.expectation(left, right, *variances, covariance), None
    if any(known is not None and any(known.kink[:1]) for known in (one, two)):
        raise NoLimitError("the product of a step and a function of another kind")
    expansions = [expansion(0), expansion(1)]
    error = hermite.error(*expansions)
    rank = jnp.ndim(covariance)
    first, second = (
        _beside(e, i, rank, q, v)
        for i, (e, q, v) in enumerate(zip(expansions, own, variances, strict=True))
    )
    return hermite.expectation(first, second, *variances, covariance), error


def _of_users(dual: Any, one: Any, two: Any, q1: Any, q2: Any, k: Any) -> Any:
    """Of multiples, and of a multiple of the argument."""
    (c, s), (d, t) = one, two
    q1, q2, k = jnp.broadcast_arrays(s * s * q1, t * t * q2, s * t * k)
    return (c * d * jnp.asarray(dual(q1, q2, k))).astype(k.dtype)


def _beside(series: Any, side: int, rank: int, q: Any, variance: Any) -> Any:
    """The expansion with dimensions that broadcast against the covariance."""
    own = jnp.ndim(q)
    if own == rank:
        return series
    ones = (1,) * (rank - own)

    def shaped(a: Any, lead: int) -> Any:
        head, tail = a.shape[:lead], a.shape[lead:]
        return a.reshape(head + (tail + ones if side == 0 else ones + tail))

    return series._replace(coefs=shaped(series.coefs, 1), first=shaped(series.first, 0))


def _two_sided(
    one: TwoSided, two: TwoSided, q1: Any, q2: Any, k: Any, still: Callable[[], Any]
) -> Any:
    total = jnp.zeros(jnp.broadcast_shapes(*map(jnp.shape, (q1, q2, k))), k.dtype)
    for i in range(max(len(one.smooth), len(one.kink))):
        for j in range(max(len(two.smooth), len(two.kink))):
            s1, s2 = _at(one.smooth, i), _at(two.smooth, j)
            r1, r2 = _at(one.kink, i), _at(two.kink, j)
            if s1 * s2:
                total = total + s1 * s2 * moment(i, j, q1, q2, k)
            if s1 * r2:
                total = total + s1 * r2 * _smooth_kink(i, j, q1, q2, k, still)
            if r1 * s2:
                total = total + r1 * s2 * _smooth_kink(j, i, q2, q1, k, still)
            if r1 * r2:
                seen = still() if i == 0 or j == 0 else k
                total = total + r1 * r2 * rectified(i, j, q1, q2, seen)
    return total


def _smooth_kink(
    i: int, j: int, q1: Any, q2: Any, k: Any, still: Callable[[], Any]
) -> Any:
    """`E[u^i max(v, 0)^j]`."""
    if i == 0:
        return half_moment(j, q2) + 0 * k
    if i == 1 and j >= 1:  # Stein's lemma
        return j * k * (half_moment(j - 1, q2) + 0 * k)
    seen = still() if j == 0 else k
    sign = (-1) ** i
    return rectified(i, j, q1, q2, seen) + sign * rectified(i, j, q1, q2, -seen)


def _at(coefs: tuple[float, ...], i: int) -> float:
    return coefs[i] if i < len(coefs) else 0.0
