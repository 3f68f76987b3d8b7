"""Strict JAX: float64, no silent promotion of dtypes or ranks."""

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Almost all the time goes into compiling programs that run once.
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def getkey(request):
    """A function that gives a new key at each call, the same ones for the same test."""
    import zlib

    import jax.random as jr

    seed = zlib.crc32(request.node.nodeid.encode())
    keys = iter(jr.split(jr.key(seed), 64))
    return lambda: next(keys)
