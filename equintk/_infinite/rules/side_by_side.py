"""Arrays side by side along an old axis or a new one, and taken apart again."""

from collections.abc import Sequence
from typing import Any

from jax import lax
from jax.extend.core import JaxprEqn

from ..arrays import fields, joins
from ..arrays.pieces import Pieces
from ..errors import NoLimitError
from ..layout import Factor
from ..nodes import Data, Field, Par
from ..reader import Reader, rule


@rule("concatenate")
def _concatenate(reader: Reader, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    axis = int(eqn.params["dimension"])
    parts = [fields.from_data(v) if isinstance(v, Data) else v for v in values]
    likes = [part for part in parts if isinstance(part, Field)]
    if not likes:
        raise NoLimitError("parameters are concatenated")
    parts = [_drawn(reader, part, likes[0], axis) for part in parts]
    kinds = [tuple(f.kind for f in part.axes[axis]) for part in parts]
    if all(kind == ("wide",) for kind in kinds):
        return [Pieces(axis, tuple(parts))]
    return [joins.concatenate(reader.atoms, parts, axis)]


def _drawn(reader: Reader, part: Any, like: Field, axis: int) -> Any:
    """A parameter beside an array, as an array of the same kinds of axes."""
    if not isinstance(part, Par):
        return part
    factors = like.axes[axis]
    kind = "wide" if any(f.kind == "wide" for f in factors) else "place"
    own = (Factor(kind, part.shape[axis]),)
    axes = fields.replaced(like.axes, axis, own)
    return reader.field(part, Field(axes, (), like.dtype))


@rule("stack")
def _stack(reader: Reader, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    return [stacked(reader, values, eqn.params["axis"])]


def stacked(reader: Reader, values: Sequence[Any], axis: int) -> Any:
    parts = [reader.traced(lambda a: lax.expand_dims(a, (axis,)), v)[0] for v in values]
    return reader.traced(lambda *a: lax.concatenate(a, axis), *parts)[0]


@rule("unstack")
def _unstack(reader: Reader, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    axis = eqn.params["axis"]
    take = lambda a, i: lax.squeeze(lax.slice_in_dim(a, i, i + 1, axis=axis), (axis,))
    return [
        reader.traced(lambda a, i=i: take(a, i), values[0])[0]
        for i in range(values[0].shape[axis])
    ]
