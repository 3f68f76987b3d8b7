"""Random signs, which need one random bit each."""

import math
from typing import Any

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array

from .._types import Key


def signs(key: Key, shape: tuple[int, ...], dtype: Any) -> Array:
    """Independent fair signs: 32 from each word that is drawn."""
    n = math.prod(shape)
    words = jr.bits(key, (-(-n // 32), 1), jnp.uint32)
    places = jnp.arange(32, dtype=jnp.uint32)[None, :]
    bits = ((words >> places) & jnp.uint32(1)).reshape(-1)[:n]
    return (1 - 2 * bits.astype(jnp.int8)).astype(dtype).reshape(shape)
