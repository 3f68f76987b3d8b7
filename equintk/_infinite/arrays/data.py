"""Deterministic arrays: inputs, constants, and means over infinitely many entries."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from ..._trace.flatten import aval, evaluate
from ..averages import Average, after, merged, multiplied
from ..errors import NoLimitError
from ..layout import groups
from ..nodes import Data
from . import noise

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
_MOVES = frozenset(
    "concatenate stack unstack tile pad rev slice dynamic_slice dynamic_update_slice "
    "gather scatter split copy reduce_precision real imag complex conj "
    "reduce_window_max reduce_window_min cummax cummin cumlogsumexp "
    "optimization_barrier".split()
)
"""Of which the results are some of the entries, or no larger than they."""
_ADDS = frozenset(
    "dot_general conv_general_dilated cumsum reduce_window_sum scatter-add fft "
    "triangular_solve cholesky".split()
)


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
    if data.const is None or (data.average is not None and data.average.is_open):
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
        NoLimitError: if it is made of a sum over a wide axis whose fluctuations count.
    """
    if data.average is not None:
        data.average.checked()
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
        data.average,
    )


def as_coefficient(data: Data) -> Data:
    """The same with the shape of its value."""
    shape = tuple(1 if c else n for n, c in zip(data.shape, data.copies, strict=True))
    return Data(
        shape, (False,) * len(shape), data.dtype, data.compute, data.const, data.average
    )


def full(data: Data) -> Callable[[Any, int], Any]:
    """The value with its copies written out."""
    return lambda m, side: jnp.broadcast_to(m.value(data, side), data.shape)


def made(
    shape: Sequence[int],
    copies: Sequence[bool],
    dtype: Any,
    compute: Callable[[Any, int], Any],
    operands: Sequence[Data],
    average: Average | None = None,
) -> Data:
    """A deterministic array; evaluated at once where all it is made of is known."""
    const = None
    if not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        dtype = np.dtype(dtype)
    if all(d.const is not None for d in operands):
        with jax.ensure_compile_time_eval():
            const = np.asarray(compute(_CONSTANTS, 0))
    return Data(tuple(shape), tuple(copies), dtype, compute, const, average)


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
    average = _carried(eqn, operands)
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

        copies = (False,) * len(shape)
        result = made(shape, copies, out.dtype, compute, operands, average)
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

    return made(shape, copies, data.dtype, compute, [data], data.average)


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
        data.average,
    )  # fmt: skip


def transposed(data: Data, permutation: Sequence[int]) -> Data:
    """With its axes in another order."""
    return made(
        [data.shape[i] for i in permutation],
        [data.copies[i] for i in permutation],
        data.dtype,
        lambda m, side: jnp.transpose(m.value(data, side), permutation),
        [data],
        data.average,
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

    return made(out.shape, copies, out.dtype, compute, [data], data.average)


def _pointwise(eqn: JaxprEqn, operands: list[Data], out: Any) -> Data:
    average = _average(eqn, operands)
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

    return made(out.shape, copies, out.dtype, compute, operands, average)


def _average(eqn: JaxprEqn, operands: list[Data]) -> Average | None:
    averages = [d.average for d in operands]
    numbers = [scalar_of(d) if d.average is None else None for d in operands]
    return after(eqn, averages, numbers)


def _carried(eqn: JaxprEqn, operands: list[Data]) -> Average | None:
    """What becomes of averages in an equation that has no rule of its own.

    Raises:
        NoLimitError: where it is not known whether it jumps, as a search does.
    """
    known = [d for d in operands if d.average is not None]
    name = eqn.primitive.name
    if not known:
        return None
    if name in _MOVES or name == "sort" and len(operands) == 1:
        return merged([d.average for d in known])
    if name not in _ADDS:
        raise NoLimitError(
            "no rule for what is done here to a mean over an axis that goes to infinity"
        )
    if name == "dot_general":
        contracted = eqn.params["dimension_numbers"][0]
        along = {id(d): axes for d, axes in zip(operands, contracted, strict=True)}
    else:  # as many as there may be
        along = {id(d): range(len(d.shape)) for d in known}
    copies = [[d.shape[i] for i in along[id(d)] if d.copies[i]] for d in known]
    added = float(max(math.prod(sizes) for sizes in copies))
    for data in operands:
        if data.average is None and data.const is not None:
            numbers = np.asarray(data.const)
            if numbers.dtype.kind == "f" and numbers.size:
                added *= float(np.max(np.abs(numbers))) or 1.0
    average = known[0].average
    for data in known[1:]:
        average = multiplied(average, data.average)
    assert average is not None
    return average.times(added)._replace(positive=False)


def _summed(eqn: JaxprEqn, data: Data, out: Any) -> Data:
    axes = tuple(eqn.params["axes"])
    copied = 1
    for i in axes:
        copied *= data.shape[i] if data.copies[i] else 1
    kept = [c for i, c in enumerate(data.copies) if i not in axes]
    count = float(math.prod(data.shape[i] for i in axes))
    average = None if data.average is None else data.average.times(count)

    def compute(m: Any, side: int) -> Any:
        return (m.value(data, side).sum(axis=axes) * copied).astype(data.dtype)

    return made(out.shape, kept, out.dtype, compute, [data], average)


def _reduced(eqn: JaxprEqn, data: Data, out: Any) -> Data:
    """A reduction that keeps copies along the other axes."""
    axes = tuple(eqn.params["axes"])
    kept = [c for i, c in enumerate(data.copies) if i not in axes]
    settled(data)
    copied = any(data.copies[i] and data.shape[i] > 1 for i in axes)
    if data.average is not None and eqn.primitive.name == "reduce_prod" and copied:
        raise NoLimitError(
            "a mean over an axis that goes to infinity, to a power that grows with it"
        )

    def compute(m: Any, side: int) -> Any:
        value = m.value(data, side)
        whole = [data.shape[i] if i in axes else n for i, n in enumerate(value.shape)]
        return evaluate(eqn, [jnp.broadcast_to(value, whole)])[0]

    return made(out.shape, kept, out.dtype, compute, [data], data.average)
