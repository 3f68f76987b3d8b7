"""Equations that put the entries of an array elsewhere, done to arrays of numbers.

An array that numbers the entries is moved along, to see which of them ends where.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn

from .._trace.flatten import aval


def _reshaped(array: np.ndarray, eqn: JaxprEqn) -> np.ndarray | None:
    if eqn.primitive.name == "reshape" and eqn.params["dimensions"] is not None:
        return None
    return array.reshape(aval(eqn.outvars[0]).shape)


def _broadcast(array: np.ndarray, eqn: JaxprEqn) -> np.ndarray:
    shape, places = eqn.params["shape"], list(eqn.params["broadcast_dimensions"])
    assert places == sorted(places)
    sizes = np.ones(len(shape), int)
    sizes[places] = array.shape
    return np.broadcast_to(array.reshape(sizes), shape)


MOVES: dict[str, Callable[[Any, JaxprEqn], Any]] = {
    "reshape": _reshaped,
    "squeeze": _reshaped,
    "expand_dims": _reshaped,
    "transpose": lambda array, eqn: array.transpose(eqn.params["permutation"]),
    "broadcast_in_dim": _broadcast,
}
"""By the primitive's name: the moved array, or `None` where that is not known."""
