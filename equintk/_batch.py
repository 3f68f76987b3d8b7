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

Features = Callable[[Examples], Any]
Kernel = Callable[[Any, Any], Array]
Flip = Callable[[Array], Array]
Report = Callable[[int, int], object]


def pairwise(
    features: Features,
    kernel: Kernel,
    flip: Flip,
    x1: Examples,
    x2: Examples | None,
    batch_size: int,
    report: Report,
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
    blocks1 = Blocks(x1, batch_size)
    if x2 is None:
        rows = _triangle(features, kernel, flip, blocks1, report)
    else:
        rows = _rectangle(features, kernel, blocks1, Blocks(x2, batch_size), report)
    return jnp.concatenate([jnp.concatenate(row, axis=1) for row in rows], axis=0)


def _rectangle(
    features: Features,
    kernel: Kernel,
    blocks1: "Blocks",
    blocks2: "Blocks",
    report: Report,
) -> list[list[Array]]:
    total = len(blocks1) * len(blocks2)
    rows = []
    for i in range(len(blocks1)):
        features1 = features(blocks1[i])
        row = []
        for j in range(len(blocks2)):
            block = kernel(features1, features(blocks2[j]))
            row.append(block[: blocks1.n_real(i), : blocks2.n_real(j)])
            report(i * len(blocks2) + j + 1, total)
        rows.append(row)
    return rows


def _triangle(
    features: Features, kernel: Kernel, flip: Flip, blocks: "Blocks", report: Report
) -> list[list[Array]]:
    n = len(blocks)
    total = n * (n + 1) // 2
    done = 0
    upper: dict[tuple[int, int], Array] = {}
    features1 = features2 = features(blocks[0])
    for i in range(n):
        features1 = features2
        # From the right: the last block of a row is the one the next row starts with.
        for j in (i, *reversed(range(i + 1, n))):
            features2 = features1 if i == j else features(blocks[j])
            block = kernel(features1, features2)
            upper[i, j] = block[: blocks.n_real(i), : blocks.n_real(j)]
            done += 1
            report(done, total)
    return [
        [upper[i, j] if i <= j else flip(upper[j, i]) for j in range(n)]
        for i in range(n)
    ]


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
        if len(self) == 1:
            return self._x
        start = i * self._size
        index = np.minimum(np.arange(start, start + self._size), self._n - 1)
        return jtu.tree_map(lambda a: a[index], self._x)

    def n_real(self, i: int) -> int:
        """How many examples of block `i` are not copies."""
        return min(self._size, self._n - i * self._size)
