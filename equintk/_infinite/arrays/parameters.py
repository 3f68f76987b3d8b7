"""Parameters: their layouts, and the Gaussians that they make."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import NoLimitError
from ..layout import Root, Span
from ..nodes import LeafPart, Par

_EVERYWHERE = 1 << 62


def whole(leaf: int, shape: Sequence[int], dtype: Any) -> Par:
    """A parameter as it is."""
    axes = tuple((LeafPart(i, 1, n),) for i, n in enumerate(shape))
    return Par(leaf, axes, (0,) * len(shape), 1.0, dtype)


def scaled(par: Par, factor: float) -> Par:
    """Times a number."""
    return Par(par.leaf, par.axes, par.offsets, par.scale * factor, par.dtype)


def transposed(par: Par, permutation: Sequence[int]) -> Par:
    """With its axes in another order."""
    axes = tuple(par.axes[i] for i in permutation)
    return Par(par.leaf, axes, par.offsets, par.scale, par.dtype)


def sliced(par: Par, axis: int, start: int, size: int, step: int) -> Par:
    """Every `step`-th entry of an axis."""
    if (start, size, step) == (0, par.shape[axis], 1):
        return par
    if len(par.axes[axis]) != 1:
        raise NoLimitError("a slice of a parameter along an axis merged from several")
    (part,) = par.axes[axis]
    offsets = list(par.offsets)
    if part.leaf_axis is not None:
        offsets[part.leaf_axis] += part.stride * start
    new = LeafPart(part.leaf_axis, part.stride * step, size)
    axes = (*par.axes[:axis], (new,), *par.axes[axis + 1 :])
    return Par(par.leaf, axes, tuple(offsets), par.scale, par.dtype)


def reshaped(par: Par, shape: Sequence[int]) -> Par:
    """In another shape: parts are regrouped, and split where they must be."""
    parts = [p for axis in par.axes for p in axis if p.size != 1]
    axes: list[tuple[LeafPart, ...]] = []
    for size in shape:
        mine: list[LeafPart] = []
        have = 1
        while have < size:
            part = parts.pop(0)
            need = size // have
            if part.size > need:
                first, second = split(part, need)
                parts.insert(0, second)
                part = first
            mine.append(part)
            have *= part.size
        if have != size:
            raise NoLimitError("a reshape of a parameter that mixes its axes")
        axes.append(tuple(mine))
    return Par(par.leaf, tuple(axes), par.offsets, par.scale, par.dtype)


def split(part: LeafPart, size: int) -> tuple[LeafPart, LeafPart]:
    """A part as two, the first of this size."""
    if part.size % size:
        raise NoLimitError("a reshape of a parameter that mixes its axes")
    rest = part.size // size
    return (
        LeafPart(part.leaf_axis, part.stride * rest, size),
        LeafPart(part.leaf_axis, part.stride, rest),
    )


def broadcast(par: Par, shape: Sequence[int], places: Sequence[int]) -> Par:
    """`broadcast_in_dim`."""
    axes: list[tuple[LeafPart, ...]] = [(LeafPart(None, 0, n),) for n in shape]
    for i, j in enumerate(places):
        if par.shape[i] == shape[j]:
            axes[j] = par.axes[i]
    return Par(par.leaf, tuple(axes), par.offsets, par.scale, par.dtype)


def parts_along(axis: Sequence[LeafPart], sizes: Sequence[int]) -> list[LeafPart]:
    """The parts of an axis, split to these sizes."""
    parts = [p for p in axis if p.size != 1]
    found = []
    for size in sizes:
        if size == 1:
            found.append(LeafPart(None, 0, 1))
            continue
        if not parts:
            raise NoLimitError("a parameter whose axes do not fit those it meets")
        part = parts.pop(0)
        if part.size > size:
            part, rest = split(part, size)
            parts.insert(0, rest)
        if part.size != size:
            raise NoLimitError("a parameter whose axes do not fit those it meets")
        found.append(part)
    return found


class Spans:
    """How a use takes each axis of a leaf: makes the root of a Gaussian."""

    def __init__(self, par: Par):
        self._par = par
        self._uses: dict[int, list[tuple[LeafPart, Any]]] = {
            a: [] for a in range(len(par.offsets))
        }
        self._rows: list[tuple[int, tuple[int, ...]]] = []

    def take(self, part: LeafPart, how: Any) -> None:
        """A part of the leaf is contracted, or runs along places."""
        if part.leaf_axis is not None:
            self._uses[part.leaf_axis].append((part, how))

    def free(self, part: LeafPart, column: int, n_columns: int) -> None:
        """A part of the leaf runs along a wide factor."""
        if part.leaf_axis is None:
            return
        self.take(part, "free")
        strides = [0] * n_columns
        strides[column] = part.stride
        self._rows.append((part.leaf_axis, tuple(strides)))

    @property
    def layout(self) -> tuple[frozenset[str], ...]:
        """What is done with each axis of the leaf."""
        return tuple(
            frozenset(how if isinstance(how, str) else how[0] for p, how in uses)
            for uses in self._uses.values()
        )

    def root(self, inherited: Sequence[int], n_columns: int) -> Root:
        """The root; `inherited` are columns that the contracted array varies along."""
        inner, offsets, strides = [], [], []
        for axis, uses in self._uses.items():
            first = last = self._par.offsets[axis]
            for part, _ in uses:
                reach = part.stride * (part.size - 1)
                first, last = first + min(reach, 0), last + max(reach, 0)
            # Where entries run along wide factors, the offset tells entries apart; what
            # is contracted must be met entry by entry.
            is_free = any(how == "free" for _, how in uses)
            met = tuple((p.stride, p.size, how) for p, how in uses if how != "free")
            if is_free:
                inner.append(Span(0, _EVERYWHERE, ("free", met)))
            else:
                inner.append(Span(first, last, (met, self._par.offsets[axis])))
            if is_free:
                rows = [s for a, s in self._rows if a == axis]
                offsets.append(self._par.offsets[axis])
                strides.append(tuple(map(sum, zip(*rows, strict=True))))
        for column in inherited:
            offsets.append(0)
            strides.append(tuple(int(c == column) for c in range(n_columns)))
        return Root(
            ("leaf", self._par.leaf), tuple(inner), tuple(offsets), tuple(strides)
        )


def index_of(
    par: Par,
    shape: Sequence[int],
    dims: Sequence[tuple[int, Sequence[LeafPart]]],
    rank: int,
) -> np.ndarray | None:
    """Which entry of a leaf each place has, where parts of it run along places."""
    strides, stride = [], 1
    for size in reversed(shape):
        strides.insert(0, stride)
        stride *= size
    index = np.zeros((1,) * rank, np.int64)
    any_place = False
    for dim, parts in dims:
        for part in parts:
            if part.leaf_axis is None or part.size == 1:
                continue
            any_place = True
            along = [1] * rank
            along[dim] = part.size
            run = np.arange(part.size) * part.stride * strides[part.leaf_axis]
            index = index + run.reshape(along)
    for axis, offset in enumerate(par.offsets):
        index = index + offset * strides[axis]
    return index.astype(np.int32) if any_place else None


def equal_entries(value: Any) -> float:
    """The number that all entries of a parameter with a start of its own equal.

    Raises:
        NoLimitError: if they differ, or are not known.
    """
    try:
        array = np.asarray(value)
    except Exception as error:
        raise NoLimitError(
            "a gain whose start is not known while the model is read: pass the model "
            "from outside of `jit` and other transformations"
        ) from error
    if not np.all(array == array.ravel()[0]):
        raise NoLimitError("a gain whose entries do not start equal")
    return float(array.ravel()[0])
