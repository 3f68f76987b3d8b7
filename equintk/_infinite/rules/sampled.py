"""Functions of many places, whose expectations are known by sampling alone."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn

from ..._trace.flatten import aval, evaluate
from ..arrays import fields
from ..errors import NoLimitError
from ..layout import Factor
from ..nodes import Field, Par, itself
from ..reader import Reader, rule

_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "reduce_max": jnp.max,
    "reduce_min": jnp.min,
    "reduce_prod": jnp.prod,
}


@rule(*_REDUCTIONS)
def _reduction(reader: Reader, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    axes = tuple(int(a) for a in eqn.params["axes"])
    reduce = _REDUCTIONS[eqn.primitive.name]
    whole = _of_places(
        reader, values[0], axes, lambda a: reduce(a, axes, keepdims=True),
        [1 if i in axes else n for i, n in enumerate(values[0].shape)],
    )  # fmt: skip
    return reader.traced(lambda a: lax.squeeze(a, axes), whole)


@rule("reduce_window_max", "reduce_window_min")
def _window(reader: Reader, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    p = eqn.params
    largest = eqn.primitive.name.endswith("max")
    shape = aval(eqn.outvars[0]).shape
    touched = [
        i
        for i, (size, n) in enumerate(zip(p["window_dimensions"], shape, strict=True))
        if size != 1 or n != values[0].shape[i]
    ]

    def of_windows(a: Any) -> Any:
        start = jnp.asarray(-jnp.inf if largest else jnp.inf, a.dtype)
        return lax.reduce_window(
            a, start, lax.max if largest else lax.min, p["window_dimensions"],
            p["window_strides"], p["padding"], p["base_dilation"], p["window_dilation"],
        )  # fmt: skip

    return [_of_places(reader, values[0], touched, of_windows, shape)]


@rule("cummax", "cummin", "cumprod", "cumlogsumexp")
def _running(reader: Reader, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    apply = lambda a: evaluate(eqn, [a])[0]
    touched = [eqn.params["axis"]]
    return [_of_places(reader, values[0], touched, apply, values[0].shape)]


@rule("sort")
def _sort(reader: Reader, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    if len(values) != 1:
        raise NoLimitError("several arrays are sorted together")
    axis = eqn.params["dimension"]
    apply = lambda a: jnp.sort(a, axis=axis)
    return [_of_places(reader, values[0], [axis], apply, values[0].shape)]


@rule("stop_gradient")
def _stop_gradient(reader: Reader, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    return [_of_places(reader, values[0], [], lax.stop_gradient, values[0].shape)]


def _of_places(
    reader: Reader,
    x: Any,
    touched: Sequence[int],
    function: Callable[[Any], Any],
    shape: Sequence[int],
) -> Field:
    """A function of an array that treats each of its wide entries by itself.

    Args:
        reader: that reads the model.
        x: the array.
        touched: the axes along which entries meet.
        function: of an array of size 1 along wide axes, and perhaps along others that
            are not touched.
        shape: of the result, of as many axes.
    """
    if not reader.atoms.sampled or isinstance(x, Par):
        raise NoLimitError("no rule for what is done here to something random")
    for axis in range(len(x.axes)):
        x = fields.plain(reader.atoms, x, axis)
    if any(x.axes[i][0].kind == "wide" for i in touched):
        raise NoLimitError(
            "a function of all entries along an axis that goes to infinity"
        )
    if any(atom.tangent for term in x.terms for *_, atom in term.factors):
        raise NoLimitError("a trainable gain meets a function of several places")
    wide = [i for i, (factor,) in enumerate(x.axes) if factor.kind == "wide"]
    sizes = [f.size if i in touched else None for i, (f,) in enumerate(x.axes)]
    sizes = [n for i, n in enumerate(sizes) if i not in wide]
    axes = tuple(
        (Factor("place", n),) if i in touched else x.axes[i]
        for i, n in enumerate(shape)
    )

    def call(arrays: list[Any], m: Any, side: int) -> Any:
        (a,) = arrays
        a = jnp.broadcast_to(a, [n or k for n, k in zip(sizes, a.shape, strict=True)])
        return jnp.squeeze(function(jnp.expand_dims(a, wide)), tuple(wide))

    rank = len(Field(axes, (), x.dtype).sizes)
    atom = reader.atoms.computed(call, [x.terms], rank)
    return Field(axes, (itself(atom),), x.dtype)
