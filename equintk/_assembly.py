"""Where the tiles of a kernel go: a device, the host's memory, or a traced array.

Tiles may overlap their neighbours at the end; the one written last is kept.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import PyTree

from ._schedule import Side

Flip = Callable[[PyTree], PyTree]


class OnDevice:
    """One array on a device, written in place: never twice the kernel's memory."""

    def __init__(self, rows: Side, columns: Side):
        self._rows, self._columns = rows, columns
        self._kernel: PyTree = None

    def write(self, i: int, j: int, tile: PyTree) -> None:
        """Put the tile of rows `i` and columns `j` in its place."""
        start = self._rows.start(i), self._columns.start(j)
        if self._rows.n_tiles == self._columns.n_tiles == 1:
            self._kernel = jtu.tree_map(jnp.asarray, tile)
        elif self._kernel is None:
            # Made from the tile, so that it lies on the same device.
            shape = (self._rows.n, self._columns.n)
            self._kernel = _start(tile, *start, shape)
        else:
            self._kernel = _write(self._kernel, tile, *start)

    def result(self) -> PyTree:
        """The kernel."""
        return self._kernel


class OnHost:
    """One NumPy array, for kernels larger than a device."""

    def __init__(self, rows: Side, columns: Side):
        self._rows, self._columns = rows, columns
        self._kernel: PyTree = None

    def write(self, i: int, j: int, tile: PyTree) -> None:
        """Put the tile of rows `i` and columns `j` in its place."""
        tile = jtu.tree_map(np.asarray, tile)
        if self._kernel is None:
            shape = (self._rows.n, self._columns.n)
            self._kernel = jtu.tree_map(
                lambda a: np.empty(shape + a.shape[2:], a.dtype), tile
            )
        row, column = self._rows.start(i), self._columns.start(j)

        def put(kernel: np.ndarray, part: np.ndarray) -> None:
            n1, n2 = part.shape[:2]
            kernel[row : row + n1, column : column + n2] = part

        jtu.tree_map(put, self._kernel, tile)

    def result(self) -> PyTree:
        """The kernel."""
        return self._kernel


class Traced:
    """Concatenated at the end: a chain of updates in place has costly derivatives."""

    def __init__(self, rows: Side, columns: Side):
        self._rows, self._columns = rows, columns
        self._tiles: dict[tuple[int, int], PyTree] = {}

    def write(self, i: int, j: int, tile: PyTree) -> None:
        """Remember the part of a tile that no earlier one holds."""
        n1, n2 = self._rows.n_new(i), self._columns.n_new(j)
        self._tiles[i, j] = jtu.tree_map(
            lambda a: a[a.shape[0] - n1 :, a.shape[1] - n2 :], tile
        )

    def result(self) -> PyTree:
        """The kernel."""
        rows = [
            jtu.tree_map(
                lambda *parts: jnp.concatenate(parts, axis=1),
                *(self._tiles[i, j] for j in range(self._columns.n_tiles)),
            )
            for i in range(self._rows.n_tiles)
        ]
        return jtu.tree_map(lambda *parts: jnp.concatenate(parts, axis=0), *rows)


def symmetrised(tile: PyTree, flip: Flip) -> PyTree:
    """The mean of a tile and its flip: equal to it but for rounding, and symmetric.

    A matrix product need not round `a @ b.T` and `b @ a.T` alike.
    """
    return _mean(tile, flip(tile))


@jax.jit
def _mean(one: PyTree, two: PyTree) -> PyTree:
    # Halved before they are added: the sum of two large halves may overflow.
    return jtu.tree_map(lambda a, b: a * 0.5 + b * 0.5, one, two)


@functools.partial(jax.jit, static_argnums=3)
def _start(tile: PyTree, i: Any, j: Any, shape: tuple[int, int]) -> PyTree:
    kernel = jtu.tree_map(lambda a: jnp.zeros(shape + a.shape[2:], a.dtype), tile)
    return jtu.tree_map(lambda k, a: _updated(k, a, i, j), kernel, tile)


@functools.partial(jax.jit, donate_argnums=0)
def _write(kernel: PyTree, tile: PyTree, i: Any, j: Any) -> PyTree:
    return jtu.tree_map(lambda k, a: _updated(k, a, i, j), kernel, tile)


def _updated(kernel: Any, part: Any, i: Any, j: Any) -> Any:
    return jax.lax.dynamic_update_slice(kernel, part, (i, j) + (0,) * (part.ndim - 2))
