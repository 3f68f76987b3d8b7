"""What a model says about a batch, block by block."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._batch import Blocks
from .._compiled import filter_jit
from .._types import Examples, Model


def outputs(model: Model, x: Examples, batch_size: int) -> Float[Array, " n *out"]:
    """`model` on each example of `x`; at most `batch_size` at a time."""
    blocks = Blocks(x, batch_size)
    parts = [
        _evaluate(model, blocks[i])[: blocks.n_real(i)] for i in range(len(blocks))
    ]
    return jnp.concatenate(parts)


@filter_jit
def _evaluate(model: Model, x: Examples) -> Array:
    return jax.vmap(model)(x)
