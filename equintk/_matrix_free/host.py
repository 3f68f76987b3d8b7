"""Products with a large kernel in float64 on the host, whatever the kernel is."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

from .._compiled import filter_jit
from .flat import flat

# A tile of rows in float64: large enough for the products, small beside the kernel.
_TILE_BYTES = 2**25
# Side of the square tiles in which a matrix is compared with its transpose.
_SIDE = 2048
# Reading a large array costs as much as multiplying it with some tens of columns.
_ARRAY_WIDTH = 20


class HostProducts(NamedTuple):
    """A kernel `(m, n)` as its products.

    Attributes:
        shape: `(m, n)`.
        product: of columns `(n, p)`, float64, with the kernel.
        eps: of the precision in which the products are rounded.
        width: how many columns cost about as much as one.
    """

    shape: tuple[int, int]
    product: Callable[[np.ndarray], np.ndarray]
    eps: float
    width: int


def of_array(matrix: np.ndarray, *, symmetrised: bool = False) -> HostProducts:
    """A matrix, read in tiles: never held in float64 as a whole.

    Args:
        matrix: of any precision.
        symmetrised: whether to multiply with the mean of it and its transpose.
    """
    m, n = matrix.shape
    rows = max(1, min(m, _TILE_BYTES // (8 * n)))

    def product(columns: np.ndarray) -> np.ndarray:
        out = np.empty((m, columns.shape[1]))
        other = np.zeros((n, columns.shape[1])) if symmetrised else None
        tile = np.empty((rows, n))
        for start in range(0, m, rows):
            part = matrix[start : start + rows]
            held = tile[: len(part)]
            held[...] = part
            np.matmul(held, columns, out=out[start : start + rows])
            if other is not None:
                other += held.T @ columns[start : start + rows]
        return out if other is None else (out + other) / 2

    return HostProducts((m, n), product, float(np.finfo(float).eps), _ARRAY_WIDTH)


def of_operator(operator: lx.AbstractLinearOperator) -> HostProducts:
    """Any lineax operator on arrays, its vectors flattened; rounded as it rounds."""
    columns, rows = operator.in_structure(), operator.out_structure()

    def product(block: np.ndarray) -> np.ndarray:
        image = _product(operator, jnp.asarray(block, columns.dtype))
        return np.asarray(image, np.float64)

    return HostProducts(
        (rows.size, columns.size), product, float(jnp.finfo(columns.dtype).eps), 1
    )


def asymmetry(matrix: np.ndarray) -> tuple[float, float]:
    """By how much an entry and its mirror image differ at most, and the largest entry.

    Read in square tiles, without a second matrix.
    """
    skew = largest = 0.0
    for i in range(0, len(matrix), _SIDE):
        for j in range(0, i + 1, _SIDE):
            one = matrix[i : i + _SIDE, j : j + _SIDE]
            two = matrix[j : j + _SIDE, i : i + _SIDE].T
            skew = max(skew, float(np.max(np.abs(one - two))))
            largest = max(largest, float(np.max(np.abs(one))))
    return skew, largest


@filter_jit
def _product(operator: lx.AbstractLinearOperator, columns: jax.Array) -> jax.Array:
    return flat(operator).products(columns)
