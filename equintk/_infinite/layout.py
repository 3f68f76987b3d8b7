"""The axes of a random array, and how its entries are numbered.

An array axis is a product of factors. Along a *wide* factor entries are independent
and alike, and its size goes to infinity; along a *place* they differ (pixels, tokens);
along a *copies* factor they are equal.

Only places and copies are dimensions of the arrays that covariances are held in. Along
wide factors a Gaussian is told by its `Root`: which parameter it comes from, and which
entry of it, an affine function of the indices of the wide factors.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

from .errors import NoLimitError


class Factor(NamedTuple):
    """A part of an array axis.

    Attributes:
        kind: `"wide"`, `"place"` or `"copies"`.
        size: the number of entries along it in the model as it was given.
        of: along a wide factor, how many entries there are in the axis that it is a
            part of, or 0 where it is the whole.
    """

    kind: str
    size: int
    of: int = 0

    @property
    def whole(self) -> int:
        """How many entries there are in the axis that it is a part of."""
        return self.of or self.size


Axis = tuple[Factor, ...]
Axes = tuple[Axis, ...]


class Root(NamedTuple):
    """Which Gaussian entries an array holds.

    Attributes:
        origin: what was drawn: a parameter leaf, or a product of fields.
        inner: how the parameter was contracted; per axis of the leaf.
        offsets: per free axis of the origin, its index where all wide indices are 0.
        strides: per free axis of the origin, its step by each wide index.
    """

    origin: Hashable
    inner: tuple[Hashable, ...]
    offsets: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]

    def varies_along(self, columns: Sequence[int]) -> bool:
        """Whether entries differ along one of these wide factors."""
        return any(row[c] for row in self.strides for c in columns)


def related(one: Root, two: Root) -> bool:
    """Whether two arrays hold the same entries (true), or independent ones.

    Raises:
        NoLimitError: if they hold the entries of one parameter in two orders.
    """
    if one == two:
        return True
    if one.origin != two.origin:
        return False
    if any(_disjoint(a, b) for a, b in zip(one.inner, two.inner, strict=False)):
        return False
    if one.inner == two.inner and one.strides == two.strides:
        return False  # entries of different indices
    raise NoLimitError(
        "one parameter is used in two orders of its axes, or with two fan-ins, whose "
        "entries are combined here"
    )


def _disjoint(one: Hashable, two: Hashable) -> bool:
    """Whether two parts of one axis of a leaf have no entry in common."""
    if not (isinstance(one, Span) and isinstance(two, Span)):
        return False
    return one.last < two.first or two.last < one.first


class Span(NamedTuple):
    """The entries of a leaf's axis that a use takes.

    Attributes:
        first: the smallest index.
        last: the largest.
        how: what is done with them; equal for entries that meet the same partners.
    """

    first: int
    last: int
    how: Hashable


class WideOp(NamedTuple):
    """A change of the wide factors alone.

    Attributes:
        name: `"permute"`, `"split"`, `"insert"`, `"drop"` or `"slice"`.
        column: the factor that is changed, or -1.
        numbers: the new order, the sizes of the parts, or start and step.
    """

    name: str
    column: int
    numbers: tuple[int, ...]

    def __call__(self, root: Root) -> Root:
        """The root after the change."""
        c = self.column
        offsets = root.offsets
        if self.name == "permute":
            strides = tuple(tuple(row[i] for i in self.numbers) for row in root.strides)
        elif self.name == "split":
            steps = [1]
            for size in reversed(self.numbers[1:]):
                steps.insert(0, steps[0] * size)
            strides = tuple(
                (*row[:c], *(row[c] * step for step in steps), *row[c + 1 :])
                for row in root.strides
            )
        elif self.name == "insert":
            strides = tuple((*row[:c], 0, *row[c:]) for row in root.strides)
        elif self.name == "drop":
            strides = tuple((*row[:c], *row[c + 1 :]) for row in root.strides)
        else:
            start, step = self.numbers
            offsets = tuple(
                o + row[c] * start for o, row in zip(offsets, root.strides, strict=True)
            )
            strides = tuple(
                (*row[:c], row[c] * step, *row[c + 1 :]) for row in root.strides
            )
        return Root(root.origin, root.inner, offsets, strides)


def axis_size(axis: Axis) -> int:
    """The number of entries along an array axis."""
    size = 1
    for factor in axis:
        size *= factor.size
    return size


def groups(
    before: Sequence[int], after: Sequence[int]
) -> list[tuple[list[int], list[int]]]:
    """The finest parts of a reshape: which axes become which, in order."""
    found, i, j = [], 0, 0
    while i < len(before) or j < len(after):
        ins, outs, n_in, n_out = [], [], 1, 1
        while True:
            if n_in == n_out and (ins or outs) and (n_in > 1 or (ins and outs)):
                break
            if n_in <= n_out and i < len(before):
                n_in *= before[i]
                ins.append(i)
                i += 1
            elif j < len(after):
                n_out *= after[j]
                outs.append(j)
                j += 1
            elif i < len(before):
                n_in *= before[i]
                ins.append(i)
                i += 1
            else:
                break
        found.append((ins, outs))
    return found
