"""Scalar functions as the model spells them, and what they are.

A `Function` has a key by which equal spellings are one, and is recognised by its
values: a polynomial on either side of zero, whatever way it is written.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_DEGREE = 8
_DIGITS = 64.0  # multiples of rounding that a recognised function may be off by


_keys: dict[Hashable, int] = {}


def _numbered(key: Hashable) -> int:
    """The same number for equal keys, so that keys made of keys stay short."""
    return _keys.setdefault(key, len(_keys))


@dataclass(frozen=True)
class Function:
    """A function of one number, and of further ones that are deterministic.

    Attributes:
        key: equal for functions spelt alike.
        call: `(z, *params)` elementwise, on arrays of one shape and dtype.
        n_params: how many further numbers.
        slope: the factor, of a function that multiplies by a number.
    """

    key: Hashable
    call: Callable[..., Any]
    n_params: int = 0
    slope: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.key, int):
            object.__setattr__(self, "key", _numbered(self.key))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Function) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@dataclass(frozen=True)
class TwoSided:
    """The sum over `m` of `smooth[m] z^m + kink[m] max(z, 0)^m`."""

    smooth: tuple[float, ...]
    kink: tuple[float, ...]

    @property
    def zero_mean(self) -> bool:
        """Whether it is odd and smooth."""
        return not any(self.kink) and not any(self.smooth[::2])


def linear(slope: float) -> Function:
    """Multiplication by a number."""
    return Function(("linear", slope), lambda z: slope * z, 0, slope)


IDENTITY = Function(("linear", 1.0), lambda z: z, 0, 1.0)


def constant(value: float) -> Function:
    """A number."""
    return Function(("constant", value), lambda z: jnp.full_like(z, value))


def product(one: Function, two: Function) -> Function:
    """The product; the parameters of the first come first."""
    n = one.n_params
    return Function(
        ("product", one.key, two.key),
        lambda z, *p: one.call(z, *p[:n]) * two.call(z, *p[n:]),
        n + two.n_params,
    )


def total(one: Function, two: Function) -> Function:
    """The sum; the parameters of the first come first."""
    if one.slope is not None and two.slope is not None:
        return linear(one.slope + two.slope)
    n = one.n_params
    return Function(
        ("total", one.key, two.key),
        lambda z, *p: one.call(z, *p[:n]) + two.call(z, *p[n:]),
        n + two.n_params,
    )


def scaled(function: Function, factor: float) -> Function:
    """A number times a function."""
    if function.slope is not None:
        return linear(function.slope * factor)
    return Function(
        ("scaled", factor, function.key),
        lambda z, *p: factor * function.call(z, *p),
        function.n_params,
    )


def derivative(function: Function) -> Function:
    """The derivative by the first argument, as JAX takes it."""
    if function.slope is not None:
        return constant(function.slope)

    def call(z: Any, *params: Any) -> Any:
        return jax.jvp(lambda z: function.call(z, *params), (z,), (jnp.ones_like(z),))[
            1
        ]

    return Function(("derivative", function.key), call, function.n_params)


@lru_cache(maxsize=4096)
def recognised(function: Function) -> TwoSided | None:
    """The function as a polynomial on either side of zero, if it is one."""
    if function.slope is not None:
        return TwoSided((0.0, function.slope), ())
    if function.n_params:
        return None
    with jax.ensure_compile_time_eval():
        dtype = jnp.result_type(float)
        eps = float(jnp.finfo(dtype).eps)
        positive = np.concatenate([_grid(), np.geomspace(1e-3, 1e3, 97)])
        sides = []
        for sign in (1.0, -1.0):
            z = sign * positive
            values = np.asarray(
                function.call(jnp.asarray(z, dtype)), np.float64
            )  # fmt: skip
            coefs = _polynomial(z, values, eps)
            if coefs is None:
                return None
            sides.append(coefs)
    plus, minus = sides
    return TwoSided(
        tuple(minus), tuple(p - m for p, m in zip(plus, minus, strict=True))
    )


@lru_cache(maxsize=4096)
def is_odd(function: Function) -> bool:
    """Whether `phi(-z) = -phi(z)`, to rounding."""
    if function.slope is not None:
        return True
    if function.n_params:
        return False
    known = recognised(function)
    if known is not None and known.zero_mean:
        return True
    with jax.ensure_compile_time_eval():
        z = jnp.asarray(np.linspace(0.01, 10, 501), jnp.result_type(float))
        one, two = function.call(z), function.call(-z)
        if not jnp.issubdtype(one.dtype, jnp.floating):
            return False
        size = jnp.maximum(jnp.abs(one), 1e-300)
        eps = jnp.finfo(z.dtype).eps
        return bool(jnp.all(jnp.abs(one + two) <= 8 * eps * size))


@lru_cache(maxsize=4096)
def is_nonnegative(function: Function) -> bool:
    """Whether a function without parameters takes no negative value on a grid."""
    if function.n_params:
        return False
    with jax.ensure_compile_time_eval():
        z = np.linspace(-12, 12, 4001)
        values = np.asarray(function.call(jnp.asarray(z, jnp.result_type(float))))
    return bool(np.all(values >= 0))


def _grid() -> np.ndarray:
    """Points in (0, 10), dense enough that no kink between them goes unseen."""
    return np.linspace(0, 10, 2003)[1:-1]


def _polynomial(z: np.ndarray, values: np.ndarray, eps: float) -> list[float] | None:
    """Coefficients by rising degree, the fewest that give these values."""
    if not np.all(np.isfinite(values)):
        return None
    # From nodes of order one, where powers are told apart best; checked everywhere.
    sign = np.sign(z[0])
    nodes = sign * (1 - np.cos(np.pi * (np.arange(64) + 0.5) / 64)) * 2
    order = np.argsort(z * sign)
    near = [int(order[np.searchsorted((z * sign)[order], abs(n))]) for n in nodes]
    near = sorted(set(near))
    for degree in range(_DEGREE + 1):
        powers = z[near, None] ** np.arange(degree + 1)
        scale = np.abs(powers).max(axis=0)
        coefs = np.linalg.lstsq(powers / scale, values[near], rcond=None)[0] / scale
        size = max(float(np.abs(coefs).max()), 1e-300)
        coefs = [_snapped(c, size, eps) for c in coefs]
        fit = (z[:, None] ** np.arange(degree + 1)) @ np.asarray(coefs)
        terms = (np.abs(z)[:, None] ** np.arange(degree + 1)) @ np.abs(coefs)
        if np.all(
            np.abs(fit - values) <= _DIGITS * (degree + 1) * eps * terms + 1e-300
        ):
            return [*coefs, *[0.0] * (_DEGREE - degree)]
    return None


def _snapped(value: float, size: float, eps: float) -> float:
    """Without what is rounding: zero, or a short decimal or fraction."""
    if abs(value) <= 1e3 * eps * size:
        return 0.0
    for denominator in (1, 2, 3, 4, 5, 6, 8, 10, 100, 1000):
        nearest = round(value * denominator) / denominator
        if nearest and abs(nearest - value) <= 1e3 * eps * abs(value):
            return nearest
    return float(value)
