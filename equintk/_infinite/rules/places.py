"""Linear maps of places: padding, sums over windows, running sums."""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn

from ..._trace.flatten import aval
from ..arrays import data as deterministic, fields
from ..errors import NoLimitError
from ..nodes import Data, Par
from ..reader import Reader, rule


@rule("pad")
def _pad(reader: Reader, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    x, filler = values
    config = eqn.params["padding_config"]
    if isinstance(x, Par) or not isinstance(filler, Data):
        raise NoLimitError("a parameter is padded")
    if deterministic.scalar_of(filler) != 0:
        raise NoLimitError("a random array is padded with something other than zeros")
    touched = [i for i, c in enumerate(config) if tuple(c) != (0, 0, 0)]
    return [
        fields.along_places(
            reader.atoms, x, ("pad", tuple(map(tuple, config))),
            lambda a, m, side: lax.pad(a, jnp.zeros((), a.dtype), config),
            aval(eqn.outvars[0]).shape, touched, True, True,
        )
    ]  # fmt: skip


@rule("reduce_window_sum")
def _window_sum(reader: Reader, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    (x,) = values
    p = eqn.params
    touched = [
        i
        for i in range(len(x.shape))
        if (
            p["window_dimensions"][i], p["window_strides"][i], tuple(p["padding"][i]),
            p["base_dilation"][i],
        ) != (1, 1, (0, 0), 1)
    ]  # fmt: skip
    return [
        fields.along_places(
            reader.atoms, x, ("reduce_window_sum", str(p)),
            lambda a, m, side: lax.reduce_window(
                a, jnp.zeros((), a.dtype), lax.add, p["window_dimensions"],
                p["window_strides"], p["padding"], p["base_dilation"],
                p["window_dilation"],
            ),
            aval(eqn.outvars[0]).shape, touched, False,
        )
    ]  # fmt: skip


@rule("cumsum")
def _cumsum(reader: Reader, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    (x,) = values
    if isinstance(x, Par):
        raise NoLimitError("a running sum of a parameter")
    axis, turned = eqn.params["axis"], eqn.params["reverse"]
    return [
        fields.along_places(
            reader.atoms, x, ("cumsum", axis, turned),
            lambda a, m, side: lax.cumsum(a, axis, turned), x.shape, [axis], False,
        )
    ]  # fmt: skip
