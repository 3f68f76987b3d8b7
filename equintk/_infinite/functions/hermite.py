r"""Expected products of any smooth functions of two Gaussians.

$$E[\phi(u) \psi(v)] = \sum_k a_k b_k c^k, \quad
a_k = E[\phi(\sqrt{q} z) h_k(z)]$$

with orthonormal Hermite polynomials. Nothing is singular at correlation one, and the
mass that the first terms miss bounds the error.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .arccos import root
from .function import Function, derivative
from .unseen import unseen

ORDERS = (32, 64, 128, 256)
"""At which a series may end."""

_REACH = 13.0  # standard deviations; the density beyond is below float64's rounding


class Series(NamedTuple):
    """A function of a Gaussian in Hermite polynomials.

    Attributes:
        coefs: of the polynomials, orders first.
        first: the mean of the derivative: the first coefficient over the deviation.
        missing: the part of the mean square that the coefficients up to each order of
            `ORDERS` miss, and the same of the derivative; orders first.
        size: the mean squares.
    """

    coefs: Any
    first: Any
    missing: tuple[Any, Any]
    size: tuple[Any, Any]

    def raveled(self) -> "Series":
        """The same with one dimension for all variances."""
        coefs = self.coefs.reshape(self.coefs.shape[0], -1)
        return self._replace(coefs=coefs, first=self.first.ravel())


def series(function: Function, q: Any, params: list[Any], order: int) -> Series:
    """The expansion for variances `q`, with parameters of its shape."""
    dtype = q.dtype
    nodes, w, weighted = _rule(order, dtype)
    deviation = root(q)
    at = deviation[..., None] * nodes.reshape((1,) * q.ndim + (-1,))
    given = [jnp.broadcast_to(p[..., None], at.shape) for p in params]
    values = jnp.broadcast_to(function.call(at, *given), at.shape)
    slopes = jnp.broadcast_to(derivative(function).call(at, *given), at.shape)
    coefs = _projected(values, weighted)
    first = slopes @ w
    square = (values * values) @ w
    square_slope = (slopes * slopes) @ w
    of_slopes = _projected(slopes, weighted)
    edge = jnp.maximum(values[..., 0] ** 2, values[..., -1] ** 2) * w[0]
    # By parts, a coefficient of the slope is one of the function, unless that jumps.
    k = jnp.sqrt(jnp.arange(1, 9, dtype=dtype)).reshape(-1, *(1,) * q.ndim)
    jump = jnp.sum((deviation[None] * of_slopes[:8] - k * coefs[1:9]) ** 2, axis=0)
    hidden = unseen(function, deviation)
    missing = _tails(coefs, square) + (edge + jump + hidden)[None]
    missing_slope = _tails(of_slopes, square_slope)
    return Series(coefs, first, (missing, missing_slope), (square, square_slope))


def _projected(values: Any, weighted: Any) -> Any:
    return jnp.einsum("...z,zk->k...", values, weighted, precision="highest")


def _tails(coefs: Any, square: Any) -> Any:
    """What the coefficients up to each order miss."""
    order = coefs.shape[0] - 1
    parts = [jnp.sum(coefs[: k + 1] ** 2, axis=0) for k in ORDERS if k <= order]
    return jnp.maximum(square[None] - jnp.stack(parts), 0)


def expectation(one: Series, two: Series, q1: Any, q2: Any, k: Any) -> Any:
    """`E[phi(u) psi(v)]` from expansions whose arrays broadcast against `k`."""
    size = root(q1) * root(q2)
    c = k / jnp.where(size > 0, size, 1)  # not clipped: that halves derivatives at 1
    order = one.coefs.shape[0] - 1

    def step(total: Any, pair: Any) -> Any:
        a, b = pair
        return total * c + a * b, None

    higher, _ = jax.lax.scan(
        step,
        jnp.zeros(jnp.broadcast_shapes(c.shape, q1.shape, q2.shape), c.dtype),
        (one.coefs[2:][::-1], two.coefs[2:][::-1]),
        unroll=min(8, order),
    )
    # the linear term in a form that holds at variance zero
    return one.coefs[0] * two.coefs[0] + one.first * two.first * k + higher * c * c


def error(one: Series, two: Series) -> Any:
    """Bounds of the relative error of the expectation and its derivative, by order."""
    parts = []
    for missing1, missing2, size1, size2 in zip(
        one.missing, two.missing, one.size, two.size, strict=True
    ):
        parts.append(jnp.sqrt(_worst(missing1, size1) * _worst(missing2, size2)))
    worst = jnp.maximum(*parts)
    return jnp.where(jnp.isfinite(worst), worst, jnp.inf)


def _worst(missing: Any, size: Any) -> Any:
    tiny = jnp.finfo(size.dtype).tiny
    relative = missing / (size + tiny)[None]
    return jnp.max(relative.reshape(relative.shape[0], -1), axis=1)


def plane(function: Callable[[Any], Any], q1: float, q2: float, k: float) -> Any:
    """`E[f(u) f(v)]` by an integral over the plane, exact where only zero has kinks."""
    nodes, weights, _ = _quadrature(ORDERS[0])
    z, w = (jnp.asarray(a, jnp.result_type(float)) for a in (nodes, weights))
    rest = max(q2 - k**2 / q1, 0.0) ** 0.5
    v = k / q1**0.5 * z[:, None] + rest * z[None]
    along = function(v) @ w if rest else function(k / q1**0.5 * z)
    return w @ (function(q1**0.5 * z) * along)


@lru_cache(maxsize=8)
def _rule(order: int, dtype: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes, weights, and the polynomials at the nodes times these.

    The same objects for all expansions, so that a program holds them once.
    """
    nodes, weights, basis = _quadrature(order)
    found = nodes, weights, basis * weights[:, None]
    return tuple(a.astype(dtype) for a in found)  # type: ignore[return-value]


@lru_cache(maxsize=8)
def _quadrature(order: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes, weights of the normal density, and Hermite polynomials at the nodes.

    Gauss-Legendre between points half a deviation apart, zero among them: a kink there
    does no harm to the integrals.
    """
    per_panel = 12 if order <= 128 else 20
    x, w = np.polynomial.legendre.leggauss(per_panel)
    edges = np.linspace(-_REACH, _REACH, int(4 * _REACH) + 1)
    centre, half = (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2
    nodes = (centre[:, None] + half[:, None] * x).ravel()
    weights = (half[:, None] * w).ravel() * np.exp(-(nodes**2) / 2)
    weights /= np.sqrt(2 * np.pi)
    basis = np.empty((nodes.size, order + 1))
    basis[:, 0] = 1
    basis[:, 1] = nodes
    for k in range(2, order + 1):
        basis[:, k] = (
            nodes * basis[:, k - 1] - np.sqrt(k - 1) * basis[:, k - 2]
        ) / np.sqrt(k)
    return nodes, weights, basis
