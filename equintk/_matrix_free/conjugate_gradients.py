r"""Solves with a shifted kernel, $(K + \sigma I) X = B$, by conjugate gradients.

All columns advance together, with one product for each step. The residual that the
recursion carries falls on below what products are rounded to, so the true one is
computed where the recursion says that the goal is reached, and gone on from until it no
longer falls.

Source: Hestenes and Stiefel, J. Res. Natl. Bur. Stand. 49 (1952); Frangella, Tropp and
Udell, arXiv:2110.02820, for the preconditioner.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .host import HostProducts
from .krylov import KrylovSpace

# Ritz values below this part of the largest are not divided by.
_NOTHING = 1e3


class Solution(NamedTuple):
    """Of a linear system.

    Attributes:
        value: X, `(n, p)`.
        image: K X, `(n, p)`.
        residual: the norm of B - K X - shift X, over all columns, from `image`.
        products: how many were needed.
    """

    value: np.ndarray
    image: np.ndarray
    residual: float
    products: int


class Preconditioner(NamedTuple):
    """The inverse of a Nystrom approximation with the shift, but for a factor.

    Attributes:
        vectors: `(rank, n)`, orthonormal rows.
        beyond: `(b, n)`, rows orthonormal to them.
        rotation: `(rank + b, k)`: the eigenvectors of the approximation in both.
        weights: `(k,)`, what is added to 1 along each eigenvector.
    """

    vectors: np.ndarray
    beyond: np.ndarray
    rotation: np.ndarray
    weights: np.ndarray

    def __call__(self, columns: np.ndarray) -> np.ndarray:
        """Of columns `(n, p)`."""
        rank = len(self.vectors)
        along = np.concatenate([self.vectors @ columns, self.beyond @ columns])
        along = self.rotation @ (self.weights[:, None] * (self.rotation.T @ along))
        out = self.vectors.T @ along[:rank]
        out += self.beyond.T @ along[rank:]
        out += columns
        return out


def nystrom_of(space: KrylovSpace, shift: float, eps: float) -> Preconditioner:
    r"""The preconditioner that a Krylov space gives without another product.

    From $K V = V T + W [0\ C]$ the approximation $K V T^{-1} V^T K$ is known.

    Args:
        space: of the kernel without the shift.
        shift: above 0.
        eps: of the precision of the kernel's products.
    """
    kept = space.values > _NOTHING * eps * max(float(space.values[-1]), 0.0)
    roots = np.sqrt(space.values[kept])
    inside = np.diag(np.where(kept, np.sqrt(np.maximum(space.values, 0)), 0))[:, kept]
    features = np.concatenate([inside, space.coupling[:, kept] / roots])
    vectors, sizes, _ = np.linalg.svd(features, full_matrices=False)
    values = sizes**2
    rank = len(space.values)
    rotation = np.concatenate([space.rotation @ vectors[:rank], vectors[rank:]])
    least = values[-1] if len(values) else 0.0
    weights = (least + shift) / (values + shift) - 1
    return Preconditioner(space.vectors, space.beyond, rotation, weights)


def solve(
    products: HostProducts,
    shift: float,
    rhs: np.ndarray,
    start: np.ndarray,
    *,
    precondition: Callable[[np.ndarray], np.ndarray],
    goal: Callable[[np.ndarray], float],
    most: int,
    report: Callable[[int, int], object],
) -> Solution:
    """Solve, to a residual or as far as the precision of products allows.

    Args:
        products: of a positive semi-definite kernel.
        shift: what is added to its eigenvalues, above 0.
        rhs: the columns B, `(n, p)`.
        start: X to start from, `(n, p)`.
        precondition: about the inverse of kernel and shift, up to a factor; gives a new
            array.
        goal: the norm of a residual that is good enough, at some X.
        most: products after which it ends in any case.
        report: of how many products were made, and how many are expected.

    Holds six arrays of the size of B, beside B and the preconditioner.
    """
    done = 1
    best = _solution(products, shift, rhs, start, done)
    while True:
        enough = goal(best.value)
        if best.residual <= enough or done >= most:
            break
        left = rhs - best.image - shift * best.value
        value, done = _descend(
            products, shift, best.value.copy(), left,
            precondition, enough / 2, (done, most - 1), report,
        )  # fmt: skip
        done += 1
        found = _solution(products, shift, rhs, value, done)
        stalled = 2 * found.residual > best.residual
        better = found.residual < best.residual
        best = found if better else best._replace(products=done)
        if stalled:
            break
    report(done, done)
    return best


def _solution(products, shift, rhs, value, done) -> Solution:
    image = products.product(value)
    residual = float(np.linalg.norm(rhs - image - shift * value))
    return Solution(value, image, residual, done)


def _descend(products, shift, value, left, precondition, goal, counts, report):
    """X and how many products were made, from X and what its residual is."""
    done, most = counts
    first, before = float(np.linalg.norm(left)), done
    direction = precondition(left)
    size = np.sum(left * direction, axis=0)
    while done < most:
        image = products.product(direction) + shift * direction
        done += 1
        curvature = np.sum(direction * image, axis=0)
        step = size / np.where(curvature > 0, curvature, math.inf)
        value += step * direction
        left -= step * image
        norm = float(np.linalg.norm(left))
        if norm <= goal:
            break
        report(done, _expected(done, before, first / norm, norm / goal, most))
        image = precondition(left)
        new = np.sum(left * image, axis=0)
        direction *= new / np.where(size > 0, size, math.inf)
        direction += image
        size = new
    return value, done


def _expected(done: int, before: int, fallen: float, ahead: float, most: int) -> int:
    """How many products in all, if the residual falls on as it has fallen so far."""
    if fallen <= 1:
        return most
    more = (done - before) * math.log(ahead) / math.log(fallen)
    return int(min(most, done + 1 + more))
