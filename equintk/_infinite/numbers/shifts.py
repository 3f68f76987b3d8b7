"""Sums of a covariance over the offsets of a convolution's kernel.

A kernel meets both sides at the same offset, so the sum runs along diagonals of pairs
of places. Places are numbered in one go on each side: an offset is then one shift of a
matrix, whose loops are long enough to be vectorised, and what it carries over an edge
is masked.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

_JOINT = 9  # offsets added in one pass; of more, those of each dimension by themselves
_MATRIX = 2**14  # entries of the largest matrix that stands for a sum over offsets


class Window(NamedTuple):
    """How a convolution runs along one dimension."""

    size: int
    stride: int
    padding: tuple[int, int]
    lhs_dilation: int
    rhs_dilation: int


def convolved(
    k: Any, windows: Sequence[tuple[int, Window, int]], rank: int, diagonal: bool
) -> Any:
    """The sum over the offsets of a kernel, the same on both sides of a covariance.

    Args:
        k: the covariance, of `rank` dimensions or, unless `diagonal`, twice as many.
        windows: the dimensions that are run along, how, and their sizes, which `k` may
            have as 1.
        rank: of one side.
        diagonal: whether both sides are at the same place.
    """
    sides = (0,) if diagonal else (0, rank)
    shape = list(k.shape)
    for d, _, size in windows:
        for side in sides:
            shape[side + d] = size
    k = jnp.broadcast_to(k, shape)
    if diagonal and math.prod(n for *_, n in windows) ** 2 <= _MATRIX:
        return _by_matrix(k, windows)
    k, inside = _inside(k, windows, sides)
    joint = math.prod(w.size for _, w in inside) <= _JOINT
    for several in [inside] if joint else [[one] for one in inside]:
        k = _shifted(k, several, rank, sides)
    return k


def _by_matrix(k: Any, windows: Sequence[tuple[int, Window, int]]) -> Any:
    """A sum over offsets as a product, if there are few places."""
    dims = [d for d, *_ in windows]
    others = [d for d in range(k.ndim) if d not in dims]
    matrix = np.ones((1, 1))
    for _, window, size in windows:
        matrix = np.kron(matrix, _offsets(window, size))
    sizes = [_result_size(window, size) for _, window, size in windows]
    rows = k.transpose(*others, *dims)
    lead = rows.shape[: len(others)]
    rows = rows.reshape(-1, matrix.shape[1])
    product = jnp.matmul(rows, jnp.asarray(matrix.T, k.dtype), precision="highest")
    back = np.argsort([*others, *dims])
    return product.reshape(*lead, *sizes).transpose(*back)


def _offsets(window: Window, size: int) -> np.ndarray:
    """How often each place is met by each place of the result."""
    counts = np.zeros((_result_size(window, size), size))
    for out, offset in itertools.product(range(len(counts)), range(window.size)):
        place = out * window.stride + offset * window.rhs_dilation - window.padding[0]
        if (
            place % window.lhs_dilation == 0
            and 0 <= place // window.lhs_dilation < size
        ):
            counts[out, place // window.lhs_dilation] += 1
    return counts


def _result_size(window: Window, size: int) -> int:
    dilated = (size - 1) * window.lhs_dilation + 1
    reach = (window.size - 1) * window.rhs_dilation + 1
    return (dilated + sum(window.padding) - reach) // window.stride + 1


def _inside(
    k: Any, windows: Sequence[tuple[int, Window, int]], sides: tuple[int, ...]
) -> tuple[Any, list[tuple[int, Window]]]:
    """Padded where the result would not fit into the places that there are."""
    padding, found = [(0, 0, 0)] * k.ndim, []
    for d, w, size in windows:
        last = (_result_size(w, size) - 1) * w.stride
        if w.lhs_dilation > 1 or min(w.padding) < 0 or last >= size:
            for side in sides:
                padding[side + d] = (*w.padding, w.lhs_dilation - 1)
            w = w._replace(padding=(0, 0), lhs_dilation=1)
        found.append((d, w))
    if any(p != (0, 0, 0) for p in padding):
        k = lax.pad(k, jnp.zeros((), k.dtype), padding)
    return k, found


def _shifted(
    k: Any, windows: Sequence[tuple[int, Window]], rank: int, sides: tuple[int, ...]
) -> Any:
    shapes = [k.shape[side : side + rank] for side in sides]
    places = [math.prod(shape) for shape in shapes]
    matrix = k.reshape(places)
    steps = [math.prod(shapes[0][d + 1 :]) for d, _ in windows]
    each = [
        [i * w.rhs_dilation - w.padding[0] for i in range(w.size)] for _, w in windows
    ]
    offsets = list(itertools.product(*each))
    shifts = [
        sum(o * s for o, s in zip(offset, steps, strict=True)) for offset in offsets
    ]
    below, above = max(0, -min(shifts)), max(0, max(shifts))
    edge = [(below, above, 0)] * len(sides)
    wide = lax.pad(matrix, jnp.zeros((), k.dtype), edge)
    total = None
    for offset, shift in zip(offsets, shifts, strict=True):
        first = below + shift
        part = lax.slice(wide, [first] * len(sides), [first + n for n in places])
        for axis, shape in enumerate(shapes):
            valid = _valid(shape, windows, offset)
            if not valid.all():
                mask = [-1 if i == axis else 1 for i in range(len(sides))]
                part = part * jnp.asarray(valid, k.dtype).reshape(mask)
        total = part if total is None else total + part
    assert total is not None
    total = total.reshape(k.shape)
    limits, strides = list(k.shape), [1] * k.ndim
    for d, w in windows:
        for side in sides:
            last = (_result_size(w, k.shape[side + d]) - 1) * w.stride
            limits[side + d], strides[side + d] = last + 1, w.stride
    return lax.slice(total, [0] * k.ndim, limits, strides)


def _valid(shape: Sequence[int], windows: Any, offset: Sequence[int]) -> np.ndarray:
    """Where a place and its shift are in the same row of all others."""
    valid = np.ones(shape, bool)
    for (d, _), o in zip(windows, offset, strict=True):
        at = np.arange(shape[d]) + o
        inside = (at >= 0) & (at < shape[d])
        valid &= inside.reshape([-1 if i == d else 1 for i in range(len(shape))])
    return valid.ravel()
