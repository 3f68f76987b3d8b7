"""Where the tiles of a kernel go: a device, the host's memory, or a traced array.

Tiles may overlap their neighbours at the end; the one written last is kept.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import PyTree

from ._programs import Programs
from ._schedule import Side


class Assembly(Protocol):
    """The tiles of a kernel, put together."""

    def write(self, i: int, j: int, tile: PyTree) -> None:
        """Put the tile of rows `i` and columns `j` in its place; of one side, twice."""

    def result(self) -> PyTree:
        """The kernel."""


class OnDevice:
    """One array on a device, written in place: never twice the kernel's memory."""

    def __init__(self, programs: Programs, rows: Side, columns: Side | None):
        self._programs, self._rows, self._columns = programs, rows, columns
        self._kernel: PyTree = None

    def write(self, i: int, j: int, tile: PyTree) -> None:
        """Put the tile of rows `i` and columns `j` in its place; of one side, twice."""
        columns = self._columns or self._rows
        if self._rows.n_tiles == columns.n_tiles == 1:
            self._kernel = jtu.tree_map(jnp.asarray, tile)
            return
        if self._kernel is None:
            # Zeros of NumPy's, which need no program that has to be compiled.
            shape = (self._rows.n, columns.n)
            self._kernel = jtu.tree_map(
                lambda a: jax.device_put(np.zeros(shape + a.shape[2:], a.dtype)), tile
            )
        start = self._rows.start(i), columns.start(j)
        self._kernel = self._programs.place(
            self._kernel, tile, *start, self._columns is None
        )

    def result(self) -> PyTree:
        """The kernel."""
        return self._kernel


class OnHost:
    """One NumPy array, for kernels larger than a device."""

    def __init__(self, programs: Programs, rows: Side, columns: Side | None):
        self._flip, self._rows, self._columns = programs.flip, rows, columns
        self._kernel: PyTree = None

    def write(self, i: int, j: int, tile: PyTree) -> None:
        """Put the tile of rows `i` and columns `j` in its place; of one side, twice."""
        columns = self._columns or self._rows
        tile = jtu.tree_map(np.asarray, tile)
        if self._kernel is None:
            shape = (self._rows.n, columns.n)
            self._kernel = jtu.tree_map(
                lambda a: np.empty(shape + a.shape[2:], a.dtype), tile
            )
        row, column = self._rows.start(i), columns.start(j)
        self._put(row, column, tile)
        if self._columns is None:
            self._put(column, row, self._flip(tile))

    def _put(self, row: int, column: int, tile: PyTree) -> None:
        def put(kernel: np.ndarray, part: Any) -> None:
            n1, n2 = part.shape[:2]
            kernel[row : row + n1, column : column + n2] = part

        jtu.tree_map(put, self._kernel, tile)

    def result(self) -> PyTree:
        """The kernel."""
        return self._kernel


class Traced:
    """Concatenated at the end: a chain of updates in place has costly derivatives."""

    def __init__(self, programs: Programs, rows: Side, columns: Side | None):
        self._flip, self._rows, self._columns = programs.flip, rows, columns
        self._tiles: dict[tuple[int, int], PyTree] = {}

    def write(self, i: int, j: int, tile: PyTree) -> None:
        """Remember the part of a tile that no earlier one holds; of one side, twice."""
        self._keep(i, j, tile)
        if self._columns is None and i != j:
            self._keep(j, i, self._flip(tile))

    def _keep(self, i: int, j: int, tile: PyTree) -> None:
        n1, n2 = self._rows.n_new(i), (self._columns or self._rows).n_new(j)
        self._tiles[i, j] = jtu.tree_map(
            lambda a: a[a.shape[0] - n1 :, a.shape[1] - n2 :], tile
        )

    def result(self) -> PyTree:
        """The kernel."""
        n_columns = (self._columns or self._rows).n_tiles
        rows = [
            jtu.tree_map(
                lambda *parts: jnp.concatenate(parts, axis=1),
                *(self._tiles[i, j] for j in range(n_columns)),
            )
            for i in range(self._rows.n_tiles)
        ]
        return jtu.tree_map(lambda *parts: jnp.concatenate(parts, axis=0), *rows)
