"""Pooling as a sum along an axis, whose derivative for all outputs is one loop.

XLA's derivative of a maximum over windows chooses anew for every output, and writes the
place in each window down in an array for each axis; that of a sum adds up windows of
zeros.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn
from jaxtyping import Array

from .._trace.flatten import aval

# Entries of windows that overlap up to which a slice for each is better than XLA's way.
_MOST_SLICES = 16


def pooled(eqn: JaxprEqn, values: Sequence[Any]) -> list[Array] | None:
    """The result of an equation that is pooling; `None` for any other.

    A maximum has the derivative by its first entry among equals, as XLA's has.
    """
    name, params = eqn.primitive.name, eqn.params
    is_max = name == "reduce_window_max"
    if not (is_max or name == "reduce_window_sum"):
        return None
    window = tuple(params["window_dimensions"])
    dilations = (*params["base_dilation"], *params["window_dilation"])
    is_real = jnp.issubdtype(aval(eqn.outvars[0]).dtype, jnp.floating)
    if not is_real or any(dilation != 1 for dilation in dilations):
        return None
    are_apart = window == tuple(params["window_strides"])
    if not are_apart and not (is_max and math.prod(window) <= _MOST_SLICES):
        return None
    windows = _windows(eqn, values[0], -jnp.inf if is_max else 0.0, are_apart)
    if is_max:
        last = windows.ndim - 1
        chosen = lax.argmax(windows, last, np.int32)
        places = lax.broadcasted_iota(np.int32, windows.shape, last)
        is_chosen = places == jnp.expand_dims(chosen, last)
        windows = jnp.where(is_chosen, windows, 0)
    return [jnp.sum(windows, axis=-1)]


def _windows(eqn: JaxprEqn, x: Array, nothing: float, are_apart: bool) -> Array:
    """The entries of each window along one more axis, in their order."""
    params, shape = eqn.params, aval(eqn.outvars[0]).shape
    window, strides = params["window_dimensions"], params["window_strides"]
    reach = [(n - 1) * s + w for n, s, w in zip(shape, strides, window, strict=True)]
    # What no window sees is cut off.
    beside = [
        (low, end - low - size, 0)
        for (low, _), end, size in zip(params["padding"], reach, x.shape, strict=True)
    ]
    x = lax.pad(x, jnp.asarray(nothing, x.dtype), beside)
    if are_apart:
        pairs = [size for pair in zip(shape, window, strict=True) for size in pair]
        outer, inner = range(0, len(pairs), 2), range(1, len(pairs), 2)
        x = x.reshape(pairs).transpose(*outer, *inner)
        return x.reshape(*shape, math.prod(window))
    ends = [end - w + 1 for end, w in zip(reach, window, strict=True)]
    slices = [
        lax.slice(x, start, [a + b for a, b in zip(start, ends, strict=True)], strides)
        for start in itertools.product(*map(range, window))
    ]
    return jnp.stack(slices, axis=-1)
