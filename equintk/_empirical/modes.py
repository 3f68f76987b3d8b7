"""What becomes of each output axis: averaged, kept along the diagonal, or coupled."""

import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array

from .._types import Axes


class Mode(NamedTuple):
    """What a kernel does with the output axes of one output array.

    Attributes:
        shape: of the output for one example.
        average: the axes over whose entries the kernel's diagonal is averaged.
        diagonal: the axes of which only the diagonal is kept. All others are coupled.
        together: of how many of the averaged entries there are features at a time;
            `None` for all.
    """

    shape: tuple[int, ...]
    average: tuple[int, ...]
    diagonal: tuple[int, ...]
    together: int | None = None

    @property
    def coupled(self) -> tuple[int, ...]:
        """The axes of which every entry meets every other."""
        gone = {*self.average, *self.diagonal}
        return tuple(d for d in range(len(self.shape)) if d not in gone)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """The number of entries along the diagonal, coupled and averaged."""
        kinds = (self.diagonal, self.coupled, self.average)
        e, f, t = (math.prod(self.shape[d] for d in kind) for kind in kinds)
        return e, f, t

    @property
    def present(self) -> tuple[int, int, int]:
        """The same of those entries of which there are features at a time."""
        e, f, t = self.sizes
        return e, f, t if self.together is None else self.together

    @property
    def order(self) -> np.ndarray:
        """The entries of the ravelled output: diagonal, coupled, averaged axes."""
        entries = np.arange(math.prod(self.shape), dtype=int).reshape(self.shape)
        return entries.transpose(*self.diagonal, *self.coupled, *self.average).reshape(
            -1
        )

    def unravel(self, kernel: Array) -> Array:
        """From `(n1, n2, e, f, f)` to `(n1, n2, *diagonal, *coupled, *coupled)`."""
        coupled = tuple(self.shape[d] for d in self.coupled)
        diagonal = tuple(self.shape[d] for d in self.diagonal)
        return kernel.reshape(*kernel.shape[:2], *diagonal, *coupled, *coupled)

    def flip(self, kernel: Any) -> Any:
        """The same kernel of the two blocks in the other order."""
        n = 2 + len(self.diagonal)
        n_coupled = len(self.coupled)
        one, two = range(n, n + n_coupled), range(n + n_coupled, n + 2 * n_coupled)
        return kernel.transpose(1, 0, *range(2, n), *two, *one)


def modes_of(
    shapes: Sequence[tuple[int, ...]], average: Axes, diagonal: Axes
) -> tuple[Mode, ...]:
    """The modes of outputs of these shapes.

    Args:
        shapes: of each output array for one example.
        average: its axes to average over; `None` for all.
        diagonal: its axes of which to keep the diagonal; `None` for all others.

    Raises:
        ValueError: for an axis that an output does not have, or one named twice.
    """
    return tuple(_mode(tuple(shape), average, diagonal) for shape in shapes)


def _mode(shape: tuple[int, ...], average: Axes, diagonal: Axes) -> Mode:
    every = tuple(range(len(shape)))
    averaged = every if average is None else _axes("average", average, shape)
    if diagonal is None:
        return Mode(shape, averaged, tuple(d for d in every if d not in averaged))
    kept = _axes("diagonal", diagonal, shape)
    if both := sorted({*averaged} & {*kept}):
        raise ValueError(
            f"`average` and `diagonal` both name the output axis {both[0]}; an axis is "
            "either averaged over or kept along the diagonal."
        )
    return Mode(shape, averaged, kept)


def _axes(name: str, axes: Axes, shape: tuple[int, ...]) -> tuple[int, ...]:
    given: Any = axes if isinstance(axes, Sequence) else (axes,)
    try:
        numbers = [operator.index(axis) for axis in given]
    except TypeError:
        numbers = [len(shape)]
    if any(not -len(shape) <= axis < len(shape) for axis in numbers):
        raise ValueError(
            f"`{name}` must name axes of the output, which has shape {shape} for one "
            f"example: integers from {-len(shape)} to {len(shape) - 1}, but it is "
            f"{axes!r}."
        )
    found = tuple(sorted(axis % len(shape) for axis in numbers))
    if len(set(found)) < len(found):
        raise ValueError(f"`{name}` names an axis twice: {axes!r}.")
    return found
