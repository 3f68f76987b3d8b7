"""Axes repeated, merged, split, put in another order, or run through backwards."""

from typing import Any

from jax import lax
from jax.extend.core import JaxprEqn

from ..._trace.flatten import aval
from ..arrays import fields, parameters
from ..errors import NoLimitError
from ..nodes import Par
from ..reader import Reader, rule


@rule("broadcast_in_dim")
def _broadcast(reader: Reader, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    shape = aval(eqn.outvars[0]).shape
    places = [int(i) for i in eqn.params["broadcast_dimensions"]]
    if isinstance(values[0], Par):
        return [parameters.broadcast(values[0], shape, places)]
    return [fields.broadcast(reader.atoms, values[0], shape, places)]


@rule("reshape", "squeeze", "expand_dims")
def _reshape(reader: Reader, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    shape = aval(eqn.outvars[0]).shape
    if eqn.params.get("dimensions") is not None and eqn.primitive.name == "reshape":
        raise NoLimitError("a reshape with another order of axes")
    if isinstance(values[0], Par):
        return [parameters.reshaped(values[0], shape)]
    return [fields.reshape(reader.atoms, values[0], shape)]


@rule("transpose")
def _transpose(reader: Reader, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    permutation = eqn.params["permutation"]
    if isinstance(values[0], Par):
        return [parameters.transposed(values[0], permutation)]
    return [fields.transpose(reader.atoms, values[0], permutation)]


@rule("rev")
def _rev(reader: Reader, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    axes = tuple(eqn.params["dimensions"])
    (x,) = values
    if isinstance(x, Par):
        for axis in axes:
            if len(x.axes[axis]) != 1:
                raise NoLimitError("a parameter that was reshaped is reversed")
            (part,) = x.axes[axis]
            offsets = list(x.offsets)
            if part.leaf_axis is not None:
                offsets[part.leaf_axis] += part.stride * (part.size - 1)
            turned = type(part)(part.leaf_axis, -part.stride, part.size)
            x = Par(
                x.leaf, (*x.axes[:axis], (turned,), *x.axes[axis + 1 :]),
                tuple(offsets), x.scale, x.dtype,
            )  # fmt: skip
        return [x]
    return [
        fields.along_places(
            reader.atoms, x, ("rev", axes), lambda a, m, side: lax.rev(a, axes),
            x.shape, axes, True,
        )
    ]  # fmt: skip
