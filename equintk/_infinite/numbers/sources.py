"""What is drawn: parameters, by themselves or contracted with an array, and products.

A source gives the covariance of its entries between two sides. By the central limit
theorem a parameter contracted with a random array over wide axes is Gaussian; with a
deterministic array it is so exactly.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from ..errors import NoLimitError, located
from ..nodes import Term, one_order
from .moments import Moments
from .shifts import Window, convolved


@dataclass(frozen=True, eq=False)
class Operand:
    """What a parameter is contracted with.

    Attributes:
        terms: a random or deterministic array.
        sizes: of its dimensions.
        summed: which dimensions are contracted.
        windows: dimensions that a convolution runs along.
        wide: the number of entries contracted along wide axes.
        place: where in the model it is contracted, for errors.
    """

    terms: tuple[Term, ...]
    sizes: tuple[int, ...]
    summed: tuple[int, ...]
    windows: tuple[tuple[int, Window], ...]
    wide: int
    place: str

    def second(
        self, m: Moments, other: "Operand", sides: Any, diagonal: bool, still: bool
    ) -> Any:
        """`sum E[x x']` over what is contracted, one dimension per one that is not."""
        self._check(other, diagonal)
        kept = [d for d in range(len(self.sizes)) if d not in self.summed]
        alone = diagonal or all(self.sizes[d] == 1 for d in kept)
        if not any(t.factors for t in (*self.terms, *other.terms)) and not self.windows:
            return self.wide * self._of_data(m, other, sides, diagonal)
        rank = len(self.sizes)
        try:
            k = m.second(self.terms, other.terms, rank, sides, alone, still)
        except NoLimitError as error:
            raise located(error, self.place) from None
        for d in reversed(self.summed):
            k, rank = _summed(k, d, rank, self.sizes[d], alone), rank - 1
        if self.windows:
            k = convolved(k, self._windows_kept(kept), len(kept), alone)
        if alone and not diagonal:
            k = k.reshape(k.shape + (1,) * len(kept))
        return self.wide * k

    def _check(self, other: "Operand", diagonal: bool) -> None:
        """Check that both are arrays of the same axes, contracted alike."""
        if self is other:
            return
        one_order((*self.terms, *other.terms))
        alike = len(self.sizes) == len(other.sizes) and (
            (self.summed, self.windows, self.wide)
            == (other.summed, other.windows, other.wide)
        )
        places = range(len(self.sizes)) if diagonal else self.summed
        if not (alike and all(self.sizes[d] == other.sizes[d] for d in places)):
            raise NoLimitError(
                "one parameter is contracted with arrays of different axes"
            )

    def _windows_kept(self, kept: list[int]) -> list[tuple[int, Window, int]]:
        return [(kept.index(d), window, self.sizes[d]) for d, window in self.windows]

    def _of_data(self, m: Moments, other: "Operand", sides: Any, diagonal: bool) -> Any:
        """The same for deterministic arrays, as a product of matrices."""
        rank = len(self.sizes)
        a: Any = m.mean(self.terms, rank, sides[0])
        b: Any = m.mean(other.terms, rank, sides[1])
        shape = [
            self.sizes[d] if d in self.summed else max(a.shape[d], b.shape[d])
            for d in range(rank)
        ]
        letters = "abcdefghijklmn"
        left = letters[:rank]
        right = "".join(
            left[d] if d in self.summed or diagonal else left[d].upper()
            for d in range(rank)
        )
        kept = [d for d in range(rank) if d not in self.summed]
        result = "".join(left[d] for d in kept)
        if not diagonal:
            result += "".join(right[d] for d in kept)
        a, b = jnp.broadcast_to(a, shape), jnp.broadcast_to(b, shape)
        return jnp.einsum(f"{left},{right}->{result}", a, b, precision="highest")


@dataclass(frozen=True, eq=False)
class Parameter:
    """A parameter, contracted or not.

    Attributes:
        leaf: its number.
        scale: what it is multiplied by.
        operand: what it is contracted with, if anything.
        out: per dimension of the result, that of the operand after contraction, or
            `None` for one of the parameter's own.
        index: which entry of the parameter each place of the result has, of rank
            `rank`, where it differs between places; of the moments and a side.
        rank: the number of dimensions of the result.
    """

    leaf: int
    scale: float
    operand: Operand | None
    out: tuple[int | None, ...]
    index: Callable[[Moments, int], Any] | None
    rank: int

    def covariance(
        self, m: Moments, other: "Parameter", sides: Any, diagonal: bool, still: bool
    ) -> Any:
        """Of the entries, of `rank` or `2 * rank` dimensions."""
        weight = m.drawn_covariance(self, sides, still) * self.scale * other.scale
        if self.operand is None or other.operand is None:
            k = jnp.ones((1,) * (self.rank if diagonal else 2 * self.rank), m.dtype)
        else:
            k = self.operand.second(m, other.operand, sides, diagonal, still)
            k = self._arranged(k, other, diagonal)
        if self.index is not None and other.index is not None:
            one, two = self.index(m, sides[0]), other.index(m, sides[1])
            if not diagonal:
                one = one.reshape(one.shape + (1,) * self.rank)
                two = two.reshape((1,) * self.rank + two.shape)
            equal = one == two
            k = jnp.where(equal, k, jnp.zeros_like(k))
        return weight * k

    def _arranged(self, k: Any, other: "Parameter", diagonal: bool) -> Any:
        rank = sum(d is not None for d in self.out)
        order = [d for d in self.out if d is not None]
        shapes = [k.shape[:rank]] if diagonal else [k.shape[:rank], k.shape[rank:]]
        perm = list(order)
        if not diagonal:
            perm += [rank + d for d in other.out if d is not None]
        final = [
            1 if d is None else shape[d]
            for shape, out in zip(shapes, (self.out, other.out), strict=False)
            for d in out
        ]
        return k.transpose(perm).reshape(final)


@dataclass(frozen=True, eq=False)
class Overlap:
    """The sum over wide axes of a product of mean zero, a Gaussian of its own."""

    operand: Operand
    columns: tuple[int, ...]
    rank: int

    def covariance(
        self, m: Moments, other: "Overlap", sides: Any, diagonal: bool, still: bool
    ) -> Any:
        """Of the entries, of `rank` or `2 * rank` dimensions."""
        if other.columns != self.columns:
            raise NoLimitError("two sums over axes in different orders")
        return self.operand.second(m, other.operand, sides, diagonal, still)


def _summed(k: Any, d: int, rank: int, size: int, diagonal: bool) -> Any:
    """The sum over one dimension, on the diagonal of its two occurrences."""
    if diagonal:
        factor = size if k.shape[d] == 1 else 1
        return factor * k.sum(axis=d)
    left, right = k.shape[d], k.shape[rank + d]
    if left == right == 1:
        return size * k.reshape(
            k.shape[:d] + k.shape[d + 1 : rank + d] + k.shape[rank + d + 1 :]
        )
    k = jnp.broadcast_to(
        k,
        (
            *k.shape[:d],
            size,
            *k.shape[d + 1 : rank + d],
            size,
            *k.shape[rank + d + 1 :],
        ),
    )
    return jnp.trace(k, axis1=d, axis2=rank + d)
