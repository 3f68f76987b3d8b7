r"""Projections of a gradient by adding its entries up, each with a random sign.

Entry $p$ of a gradient goes into number $p \bmod m$ of its projection: a count sketch
whose buckets are no random ones, and therefore sums of slices and no scatter. For
random buckets $m$ times the variance of a product would be at most
$K_{ij}^2 + K_{ii} K_{jj}$. Where a matrix has as many columns as there are buckets, all
entries of a column would meet; so its rows are as long as needed to have no divisor in
common with $m$. Gradients that fit into $m$ numbers are kept as they are.

Source: Charikar, Chen and Farach-Colton, ICALP 2002; Weinberger et al.,
arXiv:0902.2206.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Int8


def rows_and_columns(shape: tuple[int, ...]) -> tuple[int, int]:
    """A parameter as a matrix, its last axis the columns."""
    return math.prod(shape[:-1]), math.prod(shape[-1:])


def folded_size(rows: int, columns: int, proj_dim: int) -> int:
    """How many entries a matrix of these sizes takes, with those left empty."""
    return rows * _row_length(rows, columns, proj_dim)


def folded(
    gradient: Array, signs: Int8[Array, "rows columns"], start: int, proj_dim: int
) -> Array:
    """From `(k, rows, columns)` to `(k, proj_dim)`; `start` is the first place."""
    k, rows, columns = gradient.shape
    longer = _row_length(rows, columns, proj_dim) - columns
    entries = gradient * signs.astype(gradient.dtype)[None]
    entries = jnp.pad(entries, ((0, 0), (0, 0), (0, longer))).reshape(k, -1)
    before = start % proj_dim
    after = -(before + entries.shape[1]) % proj_dim
    entries = jnp.pad(entries, ((0, 0), (before, after)))
    return entries.reshape(k, -1, proj_dim).sum(axis=1)


def _row_length(rows: int, columns: int, proj_dim: int) -> int:
    if rows * columns <= proj_dim:
        return columns
    while math.gcd(columns, proj_dim) > 1:
        columns += 1
    return columns
