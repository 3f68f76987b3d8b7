"""Projections of gradients along random directions, by forward-mode derivatives.

A direction is drawn when it is needed, from its own key; neither the matrix of all
directions nor a Jacobian is ever stored.
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, Float, PyTree

from .._batch import Blocks
from .._compiled import filter_jit
from .._parameters import wide_dtype
from .._progress import reporter
from .._types import Examples, Key, Progress, Text
from .signs import signs

# Numbers in the directions held at once: enough to fill the machine, little to store.
_NUMBERS_PER_CHUNK = 2**23


def along_directions(
    params: PyTree,
    static: PyTree,
    key: Key,
    sides: Sequence[Blocks],
    proj_dim: int,
    method: Text,
    progress: Progress,
) -> list[Array]:
    """For each side, derivatives of the outputs by each direction, `(n, *out, r)`.

    Each direction is drawn once for all sides.

    Raises:
        ValueError: if the model has no forward-mode derivative.
    """
    n_params = sum(leaf.size for leaf in jtu.tree_leaves(params))
    chunk = max(1, min(proj_dim, _NUMBERS_PER_CHUNK // max(n_params, 1)))
    starts = range(0, proj_dim, chunk)
    report = reporter(progress, "mc_ntk")
    columns: list[list[Array]] = [[] for _ in sides]
    for done, start in enumerate(starts, 1):
        # The last chunk draws beyond `proj_dim` and is cut, so that one program serves.
        directions = _draw(params, key, start + jnp.arange(chunk), method)
        for blocks, column in zip(sides, columns, strict=True):
            parts = [
                _checked_project(params, static, directions, blocks[i], method)[
                    : blocks.n_real(i)
                ]
                for i in range(len(blocks))
            ]
            column.append(jnp.concatenate(parts)[..., : proj_dim - start])
        report(done, len(starts))
    return [jnp.concatenate(column, axis=-1) for column in columns]


@filter_jit
def _draw(params: PyTree, key: Key, indices: Array, method: Text) -> PyTree:
    """Directions of normals or signs, a leading axis in front of each leaf."""
    leaves, treedef = jtu.tree_flatten(params)
    sizes = [leaf.size for leaf in leaves]
    offsets = [sum(sizes[:i]) for i in range(1, len(sizes))]
    dtype = wide_dtype(leaves)  # half precision would repeat its few values
    draw = signs if method == "rademacher" else jr.normal

    def one(index: Any) -> PyTree:
        numbers = draw(jr.fold_in(key, index), (sum(sizes),), dtype)
        parts = [
            part.reshape(leaf.shape).astype(leaf.dtype)
            for part, leaf in zip(jnp.split(numbers, offsets), leaves, strict=True)
        ]
        return jtu.tree_unflatten(treedef, parts)

    return jax.vmap(one)(indices)


def _checked_project(
    params: PyTree, static: PyTree, directions: PyTree, x: Examples, method: Text
) -> Array:
    try:
        return _project(params, static, directions, x)
    except TypeError as error:
        if "custom_vjp" not in str(error):
            raise
        raise ValueError(
            f'`method="{method}"` needs forward-mode derivatives of `model`, but it '
            "holds a `jax.custom_vjp` function, which has none. Type "
            '`method="sketch"`, which needs reverse-mode derivatives alone, or '
            "compute the exact kernel with `ntk`."
        ) from error


@filter_jit
def _project(
    params: PyTree, static: PyTree, directions: PyTree, x: Examples
) -> Float[Array, "block *out chunk"]:
    """Derivatives of the outputs of a block along each direction."""

    def one(example: Examples) -> Array:
        def output(p: PyTree) -> Array:
            return eqx.combine(p, static)(example)

        _, derivative = jax.linearize(output, params)
        return jax.vmap(derivative, out_axes=-1)(directions)

    return jax.vmap(one)(x)
