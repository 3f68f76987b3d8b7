"""Primitives of a user's own, and what says of them what they do.

Networks are drawn with their spelling, limits are read of the primitives themselves.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive

import equintk as nt
from equintk._infinite.reader import GIVEN

_SPELT = ContextVar("spelt", default=False)


@contextmanager
def spelt() -> Iterator[None]:
    """Within this, what primitives do is written out."""
    token = _SPELT.set(True)
    try:
        yield
    finally:
        _SPELT.reset(token)


@contextmanager
def known() -> Iterator[None]:
    """Within this, there is an `infinite_rule` for each."""
    for name, function in _FUNCTIONS.items():
        nt.infinite_rule(name)(function)
    try:
        yield
    finally:
        for name in _FUNCTIONS:
            GIVEN.pop(name)


_FUNCTIONS: dict[str, Callable[..., Any]] = {}


def _primitive(function: Callable[..., Any]) -> Callable[..., Any]:
    """A primitive whose results are like the last of its operands."""
    name = f"user_{function.__name__}"
    primitive = Primitive(name)
    primitive.def_abstract_eval(lambda *avals, **params: avals[-1])
    _FUNCTIONS[name] = function

    def call(*operands: Any, **params: Any) -> Any:
        if _SPELT.get():
            return function(*operands, **params)
        return primitive.bind(*operands, **params)

    return call


@_primitive
def slanted(z, *, slope):
    return jnp.where(z > 0, z, slope * z)


@_primitive
def neighbours(z, *, axis):
    return 0.8 * z + 0.4 * jnp.roll(z, 1, axis)


@_primitive
def normed(z):
    return z / jnp.sqrt(0.1 + jnp.mean(z**2))


@_primitive
def stepped(z):
    return jnp.sign(z)


@_primitive
def times(weight, h):
    return weight @ h


@_primitive
def gated(a, b):
    return b * jax.nn.sigmoid(a)
