"""Random arrays side by side along an axis that goes to infinity, kept apart."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from jax import lax
from jax.extend.core import JaxprEqn

from ..._trace.flatten import evaluate
from ..errors import NoLimitError
from ..nodes import Par
from .data import POINTWISE


class Pieces(NamedTuple):
    """Random arrays side by side along an axis that goes to infinity."""

    axis: int
    parts: tuple[Any, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of the parts, along the axis."""
        return tuple(part.shape[self.axis] for part in self.parts)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole."""
        first = self.parts[0].shape
        return (*first[: self.axis], sum(self.sizes), *first[self.axis + 1 :])

    @property
    def dtype(self) -> Any:
        """Of the whole."""
        return self.parts[0].dtype


def piecewise(reader: Any, eqn: JaxprEqn, values: list[Any]) -> Any:
    """An equation of arrays that were concatenated along a wide axis."""
    name = eqn.primitive.name
    pieces = next(v for v in values if isinstance(v, Pieces))
    axis, sizes = pieces.axis, pieces.sizes
    apply = lambda *a: evaluate(eqn, a)[0]
    if name == "concatenate" and eqn.params["dimension"] == axis:
        parts: list[Any] = []
        for v in values:
            parts += v.parts if isinstance(v, Pieces) else [v]
        return Pieces(axis, tuple(parts))
    if name in POINTWISE:
        each = [_parts(reader, v, axis, sizes) for v in values]
        found = [reader.traced(apply, *some)[0] for some in zip(*each, strict=True)]
        return Pieces(axis, tuple(found))
    if name == "reduce_sum" and axis in eqn.params["axes"]:
        sums = [reader.traced(apply, part)[0] for part in pieces.parts]
        return reader.traced(lambda *a: sum(a[1:], a[0]), *sums)[0]
    if name == "dot_general":
        i = values.index(pieces)
        contracted = eqn.params["dimension_numbers"][0]
        if axis in contracted[i] and isinstance(values[1 - i], Par):
            other = contracted[1 - i][contracted[i].index(axis)]
            weights = _parts(reader, values[1 - i], other, sizes)
            products = [
                reader.traced(apply, *((part, w) if i == 0 else (w, part)))[0]
                for part, w in zip(pieces.parts, weights, strict=True)
            ]
            return reader.traced(lambda *a: sum(a[1:], a[0]), *products)[0]
    raise NoLimitError(
        "arrays were concatenated along an axis that goes to infinity; they can be "
        "contracted by a parameter, summed, or treated entry by entry, but not this"
    )


def _parts(reader: Any, value: Any, axis: int, sizes: Sequence[int]) -> list[Any]:
    """A value cut along an axis at the places where pieces meet."""
    if isinstance(value, Pieces):
        if (value.axis, value.sizes) != (axis, tuple(sizes)):
            raise NoLimitError(
                "arrays concatenated along axes that go to infinity meet, cut at "
                "different entries"
            )
        return list(value.parts)
    if not value.shape or value.shape[axis] == 1:
        return [value] * len(sizes)
    found, start = [], 0
    for size in sizes:
        cut = lambda a, start=start, size=size: lax.slice_in_dim(
            a, start, start + size, axis=axis
        )
        found.append(reader.traced(cut, value)[0])
        start += size
    return found
