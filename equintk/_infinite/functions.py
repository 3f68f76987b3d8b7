"""Scalar functions as the model spells them, and what they are.

A `Function` has a key by which equal spellings are one. What it is, whatever the
spelling, is read in `spelling.py`.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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
def is_nonnegative(function: Function) -> bool:
    """Whether a function without parameters takes no negative value on a grid."""
    if function.n_params:
        return False
    with jax.ensure_compile_time_eval():
        z = np.linspace(-12, 12, 4001)
        values = np.asarray(function.call(jnp.asarray(z, jnp.result_type(float))))
    return bool(np.all(values >= 0))
