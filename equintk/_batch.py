"""Any function of pairs of examples, block by block.

A host loop over compiled blocks, not `lax.map`: inside XLA's loops convolutions are
several times slower on CPU. Under a transformation of the caller the loop unrolls.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array

from ._inputs import count
from ._types import Examples


def pairwise(
    features: Callable[[Examples], Any],
    kernel: Callable[[Any, Any], Array],
    flip: Callable[[Array], Array],
    x1: Examples,
    x2: Examples | None,
    batch_size: int,
    report: Callable[[int, int], object],
) -> Array:
    """`kernel(features(x1), features(x2))`, of shape `(n1, n2, ...)`.

    Args:
        features: of a block of examples; the kernel needs nothing else of them.
        kernel: of the features of two blocks, `(block1, block2, ...)`.
        flip: the kernel of two blocks in the other order.
        x1: the examples that index the rows.
        x2: the examples that index the columns; `None` means `x1` again, and then the
            blocks below the diagonal are flipped copies.
        batch_size: the largest block. Two blocks of features are held at a time.
        report: is told of each block of the kernel: how many are done, how many in all.
    """
    symmetric = x2 is None
    x2 = x1 if x2 is None else x2
    rows1, rows2 = Blocks(x1, batch_size), Blocks(x2, batch_size)
    n_rows, n_columns = len(rows1), len(rows2)
    total = n_rows * (n_rows + 1) // 2 if symmetric else n_rows * n_columns
    done = 0
    rows: list[list[Array]] = []
    for i in range(n_rows):
        features1 = features(rows1[i])
        row = [flip(rows[j][i]) for j in range(i)] if symmetric else []
        for j in range(len(row), n_columns):
            features2 = features1 if symmetric and i == j else features(rows2[j])
            block = kernel(features1, features2)
            row.append(block[: rows1.n_real(i), : rows2.n_real(j)])
            done += 1
            report(done, total)
        rows.append(row)
    return jnp.concatenate([jnp.concatenate(row, axis=1) for row in rows], axis=0)


class Blocks:
    """The fewest blocks of at most `batch_size` examples, all of one size.

    The last is filled up with copies of the last example, so that everything compiles
    once: copies, not zeros, at which a derivative may not exist.
    """

    def __init__(self, x: Examples, batch_size: int):
        self._x = x
        self._n = count(x)
        self._size = -(-self._n // -(-self._n // batch_size))

    def __len__(self) -> int:
        return -(-self._n // self._size)

    def __getitem__(self, i: int) -> Examples:
        start = i * self._size
        index = np.minimum(np.arange(start, start + self._size), self._n - 1)
        return jtu.tree_map(lambda a: a[index], self._x)

    def n_real(self, i: int) -> int:
        """How many examples of block `i` are not copies."""
        return min(self._size, self._n - i * self._size)
