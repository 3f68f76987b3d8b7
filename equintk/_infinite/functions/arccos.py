r"""Moments of powers of rectified Gaussians, and all their derivatives.

$$J_{mn} = E[\max(u, 0)^m \max(v, 0)^n], \quad
(u, v) \sim N(0, ((q_1, k), (k, q_2)))$$

By Gaussian integration by parts, in $\theta = \arccos(k / \sqrt{q_1 q_2})$. Derivatives
are rules and not differentiated code, since each is again such a moment; where the
correlation is exactly one or minus one, the cusp of $J_{00}$ has derivative zero.

Source: Cho and Saul, arXiv:1112.3712; Price's theorem for the derivatives.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

# Of arcsin(sqrt(z)) / sqrt(z) on [0, 1/4], through Chebyshev points: to 2 units in the
# last place. XLA's own inverse functions take ten times as long on a processor, where
# they are most of the time of a kernel.
_ARCSIN = {
    4: (0.999999995983738, 0.16666782005775338, 0.07494696687423973,
        0.045520635631714566, 0.02399399965364759, 0.04241737375979984),
    8: (1.0, 0.16666666666664942, 0.07500000000385201,
        0.044642856805998936, 0.03038195969768514, 0.022371749733164054,
        0.01735977964134998, 0.01388484282640208, 0.012170138592391726,
        0.0065293020047365695, 0.019513468251252167, -0.016187392271599134,
        0.03187962140081284),
}  # fmt: skip


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def rectified(m: int, n: int, q1: Any, q2: Any, k: Any) -> Any:
    """The moment `J_mn`."""
    if m > n:
        return rectified(n, m, q2, q1, k)
    size = jnp.sqrt(q1 * q2)  # exactly q where q1 == q2 == q
    safe = jnp.where(size > 0, size, 1)
    inverse = 1 / safe
    c = jnp.where(size > 0, jnp.clip(k * inverse, -1, 1), 1)
    # No difference of nearly equal numbers after a rounding.
    less, more = jnp.maximum(size - k, 0) * inverse, jnp.maximum(size + k, 0) * inverse
    s = jnp.sqrt(less * more)
    value = _unit(m, n, c, s, jnp.pi - _angle(c, jnp.minimum(less, more) / 2), {})
    if m == n == 0:
        return value
    scale = size if m == n == 1 else _power(q1, m) * _power(q2, n)
    return scale * value


def _rectified_jvp(m: int, n: int, primals: Any, tangents: Any) -> Any:
    q1, q2, k = primals
    # The derivative by the parameters' covariance leaves variances as they are.
    d1, d2, dk = (not isinstance(d, SymbolicZero) for d in tangents)
    by_k = _by_covariance(m, n, q1, q2, k) if dk or min(m, n) == 0 else None
    value = rectified(m, n, q1, q2, k)
    total = by_k * tangents[2] if dk else jnp.zeros_like(value)
    if d1:
        total = total + _by_variance(m, n, q1, q2, k, by_k) * tangents[0]
    if d2:
        total = total + _by_variance(n, m, q2, q1, k, by_k) * tangents[1]
    return value, total


rectified.defjvp(_rectified_jvp, symbolic_zeros=True)


def _angle(c: Any, half: Any) -> Any:
    """The arc cosine of `c`, given `(1 - |c|) / 2` without rounding."""
    near_zero = jnp.abs(c) <= 0.5
    z = jnp.where(near_zero, c * c, half)
    coefs = _ARCSIN[max(4, jnp.dtype(z.dtype).itemsize)]
    series = jnp.full_like(z, coefs[-1])
    for a in coefs[-2::-1]:
        series = series * z + jnp.asarray(a, z.dtype)
    arcsine = jnp.where(near_zero, c, jnp.sqrt(half)) * series
    turned = jnp.where(c < 0, jnp.pi - 2 * arcsine, 2 * arcsine)
    return jnp.where(near_zero, jnp.pi / 2 - arcsine, turned)


def half_moment(m: int, q: Any) -> Any:
    """`E[max(u, 0)^m]`."""
    return half_normal(m) * (0 * q + 1 if m == 0 else _differentiable_power(q, m))


def half_normal(m: int) -> float:
    """The same for a unit Gaussian."""
    return 2 ** (m / 2 - 1) * math.gamma((m + 1) / 2) / math.sqrt(math.pi)


def moment(i: int, j: int, q1: Any, q2: Any, k: Any) -> Any:
    """`E[u^i v^j]`, by Isserlis's theorem."""
    if (i + j) % 2:
        return jnp.zeros_like(k)
    total = jnp.zeros_like(k)
    for r in range(i % 2, min(i, j) + 1, 2):  # as many pairs are of one of each
        a, b = (i - r) // 2, (j - r) // 2
        ways = math.comb(i, r) * math.comb(j, r) * math.factorial(r)
        ways *= _pairings(2 * a) * _pairings(2 * b)
        total = total + float(ways) * q1**a * q2**b * k**r
    return total


def _pairings(n: int) -> int:
    return math.prod(range(1, n, 2))


def _unit(m: int, n: int, c: Any, s: Any, angle: Any, known: dict[Any, Any]) -> Any:
    """`J_mn` of unit variances; `m <= n` or not."""
    if m > n:
        m, n = n, m
    if (m, n) in known:
        return known[m, n]
    recur = lambda a, b: _unit(a, b, c, s, angle, known)
    density = 1 / math.sqrt(2 * math.pi)
    if (m, n) == (0, 0):
        value = angle / (2 * math.pi)
    elif (m, n) == (0, 1):
        value = density / 2 * (1 + c)
    elif m == 0:
        value = (n - 1) * recur(0, n - 2) + density * half_normal(n - 1) * c * s ** (
            n - 1
        )
    elif m == 1:
        value = density * half_normal(n) * s**n + n * c * recur(0, n - 1)
    else:
        value = (m - 1) * recur(m - 2, n) + n * c * recur(m - 1, n - 1)
    known[m, n] = value
    return value


def _by_covariance(m: int, n: int, q1: Any, q2: Any, k: Any) -> Any:
    if m and n:
        return m * n * rectified(m - 1, n - 1, q1, q2, k)
    if m == n == 0:
        return _inverse_root(_determinant(q1, q2, k)) / (2 * math.pi)
    if m == 0:
        return n * _at_zero(n - 1, q1, q2, k)
    return m * _at_zero(m - 1, q2, q1, k)


def _by_variance(m: int, n: int, q1: Any, q2: Any, k: Any, by_k: Any) -> Any:
    if m >= 2:
        return m * (m - 1) / 2 * rectified(m - 2, n, q1, q2, k)
    if m == 1:
        return _at_zero(n, q1, q2, k) / 2
    return -k * by_k * _inverse(q1) / 2


def _at_zero(n: int, q1: Any, q2: Any, k: Any) -> Any:
    """`E[delta(u) max(v, 0)^n]`."""
    value = half_normal(n) * _inverse_root(2 * math.pi * q1)
    if n:
        value = value * _differentiable_power(_determinant(q1, q2, k) * _inverse(q1), n)
    return value


def _determinant(q1: Any, q2: Any, k: Any) -> Any:
    size = root(q1) * root(q2)
    exact = jnp.where(q1 == q2, q1, size)  # no rounding where both are one
    return jnp.maximum(exact - k, 0) * jnp.maximum(exact + k, 0)


def _power(q: Any, m: int) -> Any:
    """`q^(m/2)`, not to be differentiated."""
    half = q ** (m // 2)
    return half * jnp.sqrt(q) if m % 2 else half


def _differentiable_power(q: Any, m: int) -> Any:
    half = q ** (m // 2)
    return half * root(q) if m % 2 else half


@jax.custom_jvp
def root(x: Any) -> Any:
    """The square root, with derivative 0 at 0."""
    return jnp.sqrt(jnp.maximum(x, 0))


@root.defjvp
def _root_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    return root(x), 0.5 * _inverse_root(x) * dx


@jax.custom_jvp
def _inverse_root(x: Any) -> Any:
    """`x^(-1/2)`, and 0 at 0."""
    tiny = jnp.finfo(jnp.asarray(x).dtype).tiny
    return jnp.where(x > 0, 1 / jnp.sqrt(jnp.maximum(x, tiny)), 0)


@_inverse_root.defjvp
def _inverse_root_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    r = _inverse_root(x)
    return r, -0.5 * r * _inverse(x) * dx


def _inverse(x: Any) -> Any:
    r = _inverse_root(x)
    return r * r
