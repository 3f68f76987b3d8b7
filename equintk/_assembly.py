"""Where the tiles of a kernel go: the host's memory, an accelerator, a traced array.

And how blocks of features come together. What NumPy does need not be compiled, which
takes longer than most kernels do. Tiles may overlap their neighbours at the end; the
one written last is kept.
"""

import functools
import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, PyTree

from ._checks import is_traced
from ._compiled import jit
from ._programs import Programs
from ._schedule import Side

# Bytes. Elsewhere JAX copies an array instead of taking it over.
_ALIGNED = 64


class Assembly(Protocol):
    """The tiles of a kernel, put together."""

    def write(self, i: int, j: int, tile: PyTree) -> None:
        """Put the tile of rows `i` and columns `j` in its place; of one side, twice."""

    def result(self) -> PyTree:
        """The kernel."""


class OnAccelerator:
    """One array on a device, written in place: never twice the kernel's memory.

    Its tiles of examples with themselves are their own flips already.
    """

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
    """One NumPy array: for processors, and for kernels larger than a device."""

    def __init__(self, programs: Programs, rows: Side, columns: Side | None):
        self._programs, self._rows, self._columns = programs, rows, columns
        self._kernel: PyTree = None

    def write(self, i: int, j: int, tile: PyTree) -> None:
        """Put the tile of rows `i` and columns `j` in its place; of one side, twice."""
        columns = self._columns or self._rows
        tile = jtu.tree_map(np.asarray, tile)
        if self._kernel is None:
            shape = (self._rows.n, columns.n)
            self._kernel = jtu.tree_map(
                lambda a: _aligned(shape + a.shape[2:], a.dtype), tile
            )
        row, column = self._rows.start(i), columns.start(j)
        if self._columns is None and i == j:
            tile = self._programs.symmetric(tile)
        elif self._columns is None:
            self._put(column, row, self._programs.flip(tile))
        self._put(row, column, tile)

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
        self._programs, self._rows, self._columns = programs, rows, columns
        self._tiles: dict[tuple[int, int], PyTree] = {}

    def write(self, i: int, j: int, tile: PyTree) -> None:
        """Remember the part of a tile that no earlier one holds; of one side, twice."""
        if self._columns is None and i == j:
            tile = self._programs.symmetric_if(np.bool_(True), tile)
        elif self._columns is None:
            self._keep(j, i, self._programs.flip(tile))
        self._keep(i, j, tile)

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


def as_symmetric(programs: Programs, kernel: PyTree) -> PyTree:
    """One tile of examples with themselves, exactly its own flip, where it is."""
    if is_traced(kernel):
        return programs.symmetric_if(np.bool_(True), kernel)
    made = programs.symmetric(jtu.tree_map(np.asarray, kernel))
    return on_device(made, kernel)


def on_device(kernel: PyTree, like: PyTree) -> PyTree:
    """Arrays of NumPy's where others are; without a copy, where they lie right."""

    def put(a: np.ndarray, like: Array) -> Array:
        return jax.device_put(a, like.sharding if like.committed else None)

    return jtu.tree_map(put, kernel, like)


def joined(each: list[PyTree], block: int, size: int) -> PyTree:
    """The first `size` examples of several blocks of `block`.

    Of all but the last block, all examples are among them.
    """
    if is_traced(each) or jax.default_backend() != "cpu":
        return _concatenated(each, block, size)

    def together(*parts: Any) -> np.ndarray:
        arrays = [np.asarray(part) for part in parts]
        rows = size * (len(arrays[0]) // block)
        arrays[-1] = arrays[-1][: rows - sum(map(len, arrays[:-1]))]
        whole = _aligned((rows, *arrays[0].shape[1:]), arrays[0].dtype)
        return np.concatenate(arrays, out=whole)

    return on_device(jtu.tree_map(together, *each), each[0])


@functools.partial(jit, static_argnums=(1, 2))
def _concatenated(each: list[PyTree], block: int, size: int) -> PyTree:
    def together(*parts: Array) -> Array:
        return jnp.concatenate(parts)[: size * (parts[0].shape[0] // block)]

    return jtu.tree_map(together, *each)


def _aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array without values, which begins where arrays of JAX on processors do."""
    n_bytes = math.prod(shape) * dtype.itemsize
    memory = np.empty(n_bytes + _ALIGNED, np.uint8)
    start = -memory.ctypes.data % _ALIGNED
    return memory[start : start + n_bytes].view(dtype).reshape(shape)
