"""Deterministic arrays: inputs, constants, and means over infinitely many entries."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from .._trace.flatten import aval, evaluate
from . import noise
from .errors import NoLimitError
from .layout import groups
from .nodes import Data

POINTWISE = frozenset(
    "add sub mul div rem max min exp exp2 log log1p expm1 tanh logistic sin cos tan "
    "asin acos atan sinh cosh asinh acosh atanh erf erfc lgamma digamma erf_inv sqrt "
    "rsqrt cbrt pow integer_pow square neg abs sign floor ceil round clamp select_n eq "
    "ne lt le gt ge and or not xor is_finite atan2 convert_element_type copy".split()
)
"""Primitives that treat each entry by itself."""

_REDUCTIONS = frozenset(
    "reduce_max reduce_min reduce_prod reduce_and reduce_or".split()
)
_BITS = frozenset("bitcast_convert_type shift_right_logical shift_left".split())
_CARRY = frozenset("convert_element_type copy neg".split())
_SCALE = 1.5  # sums over wide axes count as means up to this multiple of the mean


def constant(value: Any) -> Data:
    """An array that is known while the model is read."""
    array = np.asarray(value)
    return Data(
        array.shape, (False,) * array.ndim, array.dtype, lambda m, side: None, array
    )


def given(index: int, struct: Any) -> Data:
    """An array of the example."""
    return Data(
        tuple(struct.shape),
        (False,) * len(struct.shape),
        struct.dtype,
        lambda m, side: m.inputs[side][index],
    )


def scalar_of(data: Data) -> float | None:
    """The number that all entries equal, if that is known."""
    if data.const is None or data.width is not None:
        return None
    array = np.asarray(data.const)
    if array.size == 0 or array.dtype.kind not in "biuf":
        return None
    first = array.ravel()[0]
    same = np.all(array == first)
    return float(first) if same else None


def settled(data: Data) -> Data:
    """The array, where nothing in it grows with the width.

    Raises:
        NoLimitError: if it is a sum over a wide axis that is not divided by its size.
    """
    if data.width is not None and data.width > _SCALE:
        raise NoLimitError(
            "a sum over an axis that goes to infinity, which is not divided by its "
            "size before it is used: its fluctuations would count"
        )
    return data


def with_copies(data: Data) -> Data:
    """A constant with the axes found along which its entries are equal."""
    if data.const is None or all(data.copies):
        return data
    value = np.asarray(data.const)
    if value.size == 0 or value.dtype == object:
        return data
    copies = list(data.copies)
    for axis in range(value.ndim):
        first = np.take(value, [0], axis)
        if not copies[axis] and np.all(value == first):
            copies[axis], value = True, first
    return Data(
        data.shape,
        tuple(copies),
        data.dtype,
        data.compute,
        value,
        data.width,
        data.positive,
    )


def as_coefficient(data: Data) -> Data:
    """The same with the shape of its value."""
    shape = tuple(1 if c else n for n, c in zip(data.shape, data.copies, strict=True))
    return Data(shape, (False,) * len(shape), data.dtype, data.compute, data.const)


def full(data: Data) -> Callable[[Any, int], Any]:
    """The value with its copies written out."""
    return lambda m, side: jnp.broadcast_to(m.value(data, side), data.shape)


def made(
    shape: Sequence[int],
    copies: Sequence[bool],
    dtype: Any,
    compute: Callable[[Any, int], Any],
    operands: Sequence[Data],
    width: float | None = None,
    positive: bool = False,
) -> Data:
    """A deterministic array; evaluated at once where all it is made of is known."""
    const = None
    if not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        dtype = np.dtype(dtype)
    if all(d.const is not None for d in operands):
        with jax.ensure_compile_time_eval():
            const = np.asarray(compute(_CONSTANTS, 0))
    return Data(tuple(shape), tuple(copies), dtype, compute, const, width, positive)


class _Constants:
    """Gives the values of constants."""

    def value(self, data: Data, side: int) -> Any:
        return jnp.asarray(data.const)


_CONSTANTS: Any = _Constants()


def rule(eqn: JaxprEqn, operands: list[Data]) -> list[Data]:
    """The results of an equation all of whose operands are deterministic."""
    name = eqn.primitive.name
    if len(eqn.outvars) == 1:
        out = aval(eqn.outvars[0])
        if name in POINTWISE or name == "stop_gradient":
            return [noise.pointwise(eqn, operands, _pointwise(eqn, operands, out))]
        if name in _REDUCTIONS:
            return [_reduced(eqn, operands[0], out)]
        if name == "broadcast_in_dim":
            repeated = _broadcast(eqn, operands[0], out)
            return [noise.repeated(eqn, operands[0], repeated)]
        if name in ("reshape", "squeeze", "expand_dims"):
            return [reshaped(operands[0], out.shape)]
        if name == "transpose":
            return [transposed(operands[0], eqn.params["permutation"])]
        if name == "reduce_sum":
            return [_summed(eqn, operands[0], out)]
    values = [full(settled(d)) for d in operands]
    results = []
    for i, var in enumerate(eqn.outvars):
        out = aval(var)
        if type(var).__name__ == "DropVar":
            results.append(None)
            continue
        shape = tuple(getattr(out, "shape", ()))

        def compute(m: Any, side: int, i: int = i) -> Any:
            key = ("eqn", id(eqn), tuple(id(d) for d in operands), side)
            kept = getattr(m, "results", None)
            if kept is None:
                return evaluate(eqn, [v(m, side) for v in values])[i]
            if key not in kept:
                kept[key] = evaluate(eqn, [v(m, side) for v in values])
            return kept[key][i]

        result = made(shape, (False,) * len(shape), out.dtype, compute, operands)
        if name == "random_bits":
            result = noise.bits(eqn, operands[0], result)
        elif name in _BITS:
            result = noise.pointwise(eqn, operands, result)
        results.append(result)
    return results


def reshaped(data: Data, shape: Sequence[int]) -> Data:
    """In another shape; copies stay copies where they are axes of their own."""
    copies: list[bool] = [False] * len(shape)
    compacted: list[int] = [0] * len(shape)
    expand = []  # axes that must be written out
    for ins, outs in groups(data.shape, shape):
        lazy = all(data.copies[i] or data.shape[i] == 1 for i in ins)
        for j in outs:
            copies[j] = lazy
            compacted[j] = 1 if lazy else shape[j]
        expand += [] if lazy else ins
    target = tuple(compacted)

    def compute(m: Any, side: int) -> Any:
        value = m.value(data, side)
        whole = [data.shape[i] if i in expand else n for i, n in enumerate(value.shape)]
        return jnp.broadcast_to(value, whole).reshape(target)

    return made(shape, copies, data.dtype, compute, [data], data.width, data.positive)


def broadcast(data: Data, shape: Sequence[int]) -> Data:
    """With axes of size 1, or no axes at all, repeated."""
    if data.shape == tuple(shape):
        return data
    if not data.shape:
        data = reshaped(data, (1,) * len(shape))
    copies = [
        c or n != target
        for c, n, target in zip(data.copies, data.shape, shape, strict=True)
    ]
    return made(
        shape, copies, data.dtype, lambda m, side: m.value(data, side), [data],
        data.width, data.positive,
    )  # fmt: skip


def transposed(data: Data, permutation: Sequence[int]) -> Data:
    """With its axes in another order."""
    return made(
        [data.shape[i] for i in permutation],
        [data.copies[i] for i in permutation],
        data.dtype,
        lambda m, side: jnp.transpose(m.value(data, side), permutation),
        [data],
        data.width,
        data.positive,
    )


def _broadcast(eqn: JaxprEqn, data: Data, out: Any) -> Data:
    places = eqn.params["broadcast_dimensions"]
    copies = [True] * len(out.shape)
    sizes = [1] * len(out.shape)
    for i, j in enumerate(places):
        copies[j] = data.copies[i] or data.shape[i] != out.shape[j]
        sizes[j] = 1 if copies[j] else data.shape[i]

    def compute(m: Any, side: int) -> Any:
        return m.value(data, side).reshape(sizes)

    return made(
        out.shape, copies, out.dtype, compute, [data], data.width, data.positive
    )


def _pointwise(eqn: JaxprEqn, operands: list[Data], out: Any) -> Data:
    width, positive = _width(eqn, operands)
    rank = len(out.shape)
    copies = [
        all(d.copies[i] or d.shape[i] < out.shape[i] for d in operands if d.shape)
        for i in range(rank)
    ]

    def compute(m: Any, side: int) -> Any:
        values = [m.value(d, side) for d in operands]
        shape = jnp.broadcast_shapes(*(v.shape for v in values if v.ndim == rank))
        values = [
            jnp.broadcast_to(v, shape)
            if v.ndim or eqn.primitive.name != "select_n"
            else v
            for v in values
        ]
        return evaluate(eqn, values)[0]

    return made(out.shape, copies, out.dtype, compute, operands, width, positive)


def _width(eqn: JaxprEqn, operands: list[Data]) -> tuple[float | None, bool]:
    """What becomes of sums over wide axes that are still to be divided."""
    open_sums = [d for d in operands if d.width is not None]
    widths = [d.width for d in operands if d.width is not None]
    if not open_sums:
        return None, False
    name = eqn.primitive.name
    if name in _CARRY:
        return open_sums[0].width, open_sums[0].positive and name != "neg"
    if name in ("mul", "div") and len(open_sums) == 1:
        i = operands.index(open_sums[0])
        factor = scalar_of(operands[1 - i])
        if factor is not None and (name == "mul" or i == 0) and factor != 0:
            factor = abs(factor) if name == "mul" else 1 / abs(factor)
            width = widths[0] * factor
            return (None if width <= _SCALE else width), open_sums[0].positive
    if name in ("add", "sub") and len(open_sums) == 2:
        return max(widths), False
    if all(d.positive for d in open_sums) and name in (
        "mul div sqrt rsqrt pow integer_pow log".split()
    ):
        return None, False
    for data in open_sums:
        settled(data)
    return None, False


def _summed(eqn: JaxprEqn, data: Data, out: Any) -> Data:
    axes = tuple(eqn.params["axes"])
    copied = 1
    for i in axes:
        copied *= data.shape[i] if data.copies[i] else 1
    kept = [c for i, c in enumerate(data.copies) if i not in axes]
    settled(data)

    def compute(m: Any, side: int) -> Any:
        return (m.value(data, side).sum(axis=axes) * copied).astype(data.dtype)

    return made(out.shape, kept, out.dtype, compute, [data])


def _reduced(eqn: JaxprEqn, data: Data, out: Any) -> Data:
    """A reduction that keeps copies along the other axes."""
    axes = tuple(eqn.params["axes"])
    kept = [c for i, c in enumerate(data.copies) if i not in axes]
    settled(data)

    def compute(m: Any, side: int) -> Any:
        value = m.value(data, side)
        whole = [data.shape[i] if i in axes else n for i, n in enumerate(value.shape)]
        return evaluate(eqn, [jnp.broadcast_to(value, whole)])[0]

    return made(out.shape, kept, out.dtype, compute, [data])
