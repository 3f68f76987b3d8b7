"""Scalar functions as the model spells them, and what they are.

A `Function` has a key by which equal spellings are one. What it is, whatever the
spelling, is read in `spelling.py`.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from weakref import WeakValueDictionary

import jax
import jax.numpy as jnp
import numpy as np


class Spelling:
    """How a function is spelt: one object for equal ones, as long as one is in use.

    Those of the parts of a function are among its parts, so that keys stay short.
    """

    __slots__ = ("__weakref__", "parts")

    def __init__(self, parts: Hashable):
        self.parts: Any = parts


_spellings: WeakValueDictionary[Hashable, Spelling] = WeakValueDictionary()


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
        if not isinstance(self.key, Spelling):
            spelling = _spellings.setdefault(self.key, Spelling(self.key))
            object.__setattr__(self, "key", spelling)

    @property
    def factor(self) -> float:
        """The number that the function was multiplied by, as far as that is known."""
        return self.slope if self.slope is not None else _unscaled(self.key)[0]

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


def multiple(function: Function, of: Function) -> tuple[float, float] | None:
    """`c` and `s` for which the function is `c * of(s z)`, if they are spelt alike."""
    if function.n_params or of.n_params:
        return None
    (c, one), (d, two) = (_unscaled(f.key) for f in (function, of))
    ratios: list[float] = []
    if not d or not _alike(one, two, ratios):
        return None
    s = ratios[0] if ratios else 1.0
    same = all(abs(r - s) <= _ROUNDING * abs(s) for r in ratios)
    return (c / d, s) if same and s else None


_ROUNDING = 1e-12  # of products of factors, in another order
_INNER = {"product": (1, 2), "total": (1, 2), "scaled": (2,), "derivative": (1,)}
"""Where the keys of functions stand in the keys of what is made of them."""


def _unscaled(key: Any) -> tuple[float, Any]:
    spelling, factor = key.parts, 1.0
    while isinstance(spelling, tuple) and spelling[0] == "scaled":
        factor, spelling = factor * spelling[1], spelling[2].parts
    return factor, spelling


def _alike(one: Any, two: Any, ratios: list[float]) -> bool:
    """Whether two spellings differ only in the factors of their argument."""
    if not (isinstance(one, tuple) and isinstance(two, tuple)):
        return one == two
    if one[0] != two[0] or len(one) != len(two):
        return False
    if one[0] == "linear":
        if not two[1]:
            return one[1] == 0
        ratios.append(one[1] / two[1])
        return True
    inner = _INNER.get(one[0], ())
    if one[0] == "eqn":
        *head, left = one
        *same, right = two
        pairs = list(zip(left, right, strict=False))
        if head != same or len(left) != len(right):
            return False
    else:
        pairs = [(one[i], two[i]) for i in inner]
        if any(one[i] != two[i] for i in range(len(one)) if i not in inner):
            return False
    return all(_alike(a.parts, b.parts, ratios) for a, b in pairs)
