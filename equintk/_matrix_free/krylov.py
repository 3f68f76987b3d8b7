r"""An orthonormal basis of what a kernel makes of some columns, by block Lanczos.

Of columns B it spans B, K B, K² B, ..., so every function of K applied to B has its
approximation in it: $g(K) B \approx V g(T) V^T B$ with $T = V^T K V$. What the basis
misses is known: $K V = V T + W\, [0\ C]$, of which $W\, [0\ C]$ is left over.

Random columns beside B find the large eigenvalues of K as a randomized Nystrom
approximation does, and for a kernel that is read from memory they cost little. Each
block is orthogonal to all before it to rounding, and what is nothing but rounding is
dropped: such directions have converged.

Source: Golub and Underwood, "The block Lanczos method for computing eigenvalues", 1977;
Frangella, Tropp and Udell, arXiv:2110.02820, for the random columns.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .host import HostProducts

# Where a direction is below this part of the kernel's size it is rounding.
_NOTHING = 1e3 * float(np.finfo(float).eps)


class KrylovSpace(NamedTuple):
    """The basis, and what it misses.

    Attributes:
        vectors: `(rank, n)`, orthonormal rows: V transposed.
        values: `(rank,)`, the eigenvalues of T, in ascending order.
        rotation: `(rank, rank)`, its eigenvectors.
        start: `(rank, p)`, the columns B in the eigenvectors of T.
        beyond: `(b, n)`, orthonormal rows outside of the basis: W transposed.
        coupling: `(b, rank)`, what multiplies them, in the eigenvectors of T.
        noise: the norm of the errors in the products that were seen, for a unit vector.
    """

    vectors: np.ndarray
    values: np.ndarray
    rotation: np.ndarray
    start: np.ndarray
    beyond: np.ndarray
    coupling: np.ndarray
    noise: float


def most_vectors(n: int, width: int, max_bytes: float) -> int:
    """How large a basis fits into some memory, with all that its growth needs."""
    # 8 n (m + 8 width) for the vectors; 40 m^2 for T, its eigenvectors, their solver.
    free = max(0.0, max_bytes - 64.0 * n * width)
    most = (math.sqrt((8.0 * n) ** 2 + 160.0 * free) - 8.0 * n) / 80.0
    return min(n, int(most))


def krylov_space(
    products: HostProducts,
    start: np.ndarray,
    *,
    most: int,
    shortfall: Callable[[KrylovSpace], float],
    report: Callable[[int, int], object],
) -> KrylovSpace:
    """Grow the basis until it is good enough, complete, or as large as allowed.

    Args:
        products: of a symmetric kernel.
        start: the columns B, `(n, p)`.
        most: how many vectors it may hold, `products.width` and p at least.
        shortfall: the error of a basis as a multiple of what is asked: from 1 down it
            is good enough.
        report: of how many vectors there are, and how many are expected in the end.
    """
    vectors = np.empty((most, len(start)))
    projected = np.zeros((0, 0))
    block = _first_block(start, products.width)
    first = block @ start
    watch, size, noise = _Watch(most), 0.0, 0.0
    before = old = 0
    while True:
        rank = old + len(block)
        vectors[old:rank] = block
        image, along = _outside(products.product(block.T).T, vectors[:rank])
        projected = _bordered(projected, along)
        size = max(size, float(np.linalg.norm(along[:, old:], 2)))
        # A symmetric kernel takes a block to itself and its neighbours alone: all else
        # is error, of which the basis sees the part that lies in it.
        strange = float(np.linalg.norm(along[:, :before]))
        if before:
            noise = max(noise, strange * math.sqrt(len(start) / before / len(block)))
        block, coupling = _orthonormal(image, vectors[:rank], _NOTHING * size)
        before, old = old, rank
        full = rank + len(block) > most
        if len(block) == 0 or full or watch.due(rank):
            values, rotation = np.linalg.eigh(projected)
            space = KrylovSpace(
                vectors=vectors[:rank],
                values=values,
                rotation=rotation,
                start=rotation[: len(first)].T @ first,
                beyond=block,
                coupling=coupling @ rotation[before:],
                noise=noise,
            )
            done = len(block) == 0 or full or watch.over(rank, shortfall(space))
            report(rank, rank if done else watch.expected)
            if done:
                return space


class _Watch:
    """When to look at the error next, by how it has fallen so far."""

    def __init__(self, most: int):
        self.most = most
        self.next = self.expected = 0
        self.seen: tuple[int, float] | None = None

    def due(self, rank: int) -> bool:
        return rank >= self.next

    def over(self, rank: int, error: float) -> bool:
        if error <= 1:
            return True
        expected = 2.0 * rank
        if self.seen is not None and error < self.seen[1]:
            rate = math.log(self.seen[1] / error) / (rank - self.seen[0])
            expected = rank + math.log(error) / rate
        self.seen = rank, error
        self.expected = int(min(self.most, expected))
        # An eigendecomposition of T costs more than some products, but less than many.
        self.next = int(min(max(expected, 1.1 * rank), 1.5 * rank))
        return False


def _first_block(start: np.ndarray, width: int) -> np.ndarray:
    """Orthonormal rows that hold the columns, and random ones up to a width."""
    nothing = np.empty((0, len(start)))
    scale = np.linalg.norm(start, axis=0)
    columns = start[:, scale > 0] / scale[scale > 0]
    block, _ = _orthonormal(columns.T, nothing, _NOTHING)
    missing = min(width, len(start)) - len(block)
    if missing <= 0:
        return block
    # The same ones at every call: what they find does not depend on which they are.
    more = np.random.default_rng(0).standard_normal((missing, len(start)))
    more, _ = _orthonormal(_outside(more, block)[0], block, _NOTHING)
    return np.concatenate([block, more])


def _outside(rows: np.ndarray, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What of the rows is orthogonal to a basis, and their coefficients in it."""
    along = rows @ basis.T
    return rows - along @ basis, along


def _orthonormal(
    rows: np.ndarray, basis: np.ndarray, least: float
) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal rows, and the matrix that makes the given ones of them.

    Directions no larger than `least` are left out. Of small directions the
    normalisation magnifies what rounding left of the basis: it is removed once more.
    """
    q, r = np.linalg.qr(rows.T)
    left, sizes, right = np.linalg.svd(r)
    kept = sizes > least
    found, _ = _outside((q @ left[:, kept]).T, basis)
    factor = np.linalg.cholesky(found @ found.T)
    return np.linalg.solve(factor, found), sizes[kept, None] * right[kept]


def _bordered(projected: np.ndarray, along: np.ndarray) -> np.ndarray:
    """The symmetric matrix with new last rows and columns."""
    b, rank = along.shape
    out = np.empty((rank, rank))
    out[:-b, :-b] = projected
    out[-b:], out[:-b, -b:] = along, along[:, :-b].T
    out[-b:, -b:] = (along[:, -b:] + along[:, -b:].T) / 2
    return out
