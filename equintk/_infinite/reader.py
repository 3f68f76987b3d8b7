"""A flat jaxpr read once: each equation has a rule by what its operands are."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer, eval_jaxpr
from jax.extend.core import DropVar, JaxprEqn

from .._trace.flatten import (
    Environment,
    Flat,
    aval,
    evaluate,
    inlined,
    scan_parts,
    subjaxpr,
)
from . import algebra, data as deterministic, fields, joins, parameters
from .algebra import zero_mean
from .contraction import Drawer, overlap, summed
from .data import POINTWISE
from .errors import NoLimitError, line, located
from .nodes import Atoms, Data, Field, Par, Term


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


Value = Data | Par | Field | Pieces
_CUSTOM = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")
Rule = Callable[["Reader", JaxprEqn, list[Any]], list[Any]]
_RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register what equations with these primitives give."""

    def register(function: Rule) -> Rule:
        for name in names:
            _RULES[name] = function
        return function

    return register


class Reader:
    """Gives each variable of a jaxpr its meaning."""

    def __init__(self, atoms: Atoms, drawer: Drawer):
        self.atoms, self.drawer = atoms, drawer
        self._line = ""

    def read(self, flat: Flat, args: Sequence[Value]) -> list[Value]:
        """The results of a flat jaxpr for these operands."""
        consts = [self.literal(c) for c in flat.consts]
        environment = Environment(Flat(flat.jaxpr, tuple(consts)), args)
        for eqn in flat.jaxpr.eqns:
            values = [self.literal(v) for v in environment.read(eqn.invars)]
            here = line(eqn)
            self._line = here.replace(" at ", " after ", 1) if here else self._line
            try:
                results = self.equation(eqn, values)
            except NoLimitError as error:
                raise located(error, eqn, self._line) from None
            environment.write(eqn.outvars, results)
        return [self.literal(v) for v in environment.read(flat.jaxpr.outvars)]

    def literal(self, value: Any) -> Value:
        """A value of the jaxpr's own as a deterministic array."""
        if isinstance(value, Data | Par | Field | Pieces):
            return value
        if isinstance(value, Tracer) or jnp.issubdtype(
            getattr(value, "dtype", np.float64), jax.dtypes.prng_key
        ):
            return Data(
                tuple(value.shape), (False,) * len(value.shape), value.dtype,
                lambda m, side: value,
            )  # fmt: skip
        return deterministic.constant(value)

    def equation(self, eqn: JaxprEqn, values: list[Value]) -> list[Any]:
        """What an equation gives."""
        name = eqn.primitive.name
        if all(isinstance(v, Data) for v in values) and name != "scan":
            return deterministic.rule(eqn, values)  # type: ignore[arg-type]
        if name == "scan" and all(isinstance(v, Data) for v in values):
            return deterministic.rule(eqn, values)  # type: ignore[arg-type]
        if any(isinstance(v, Pieces) for v in values) and name not in _CUSTOM:
            return [self._piecewise(eqn, values)]
        if name in POINTWISE:
            return [self.pointwise(eqn, values)]
        if name not in _RULES:
            raise NoLimitError("no rule for what is done here to something random")
        return _RULES[name](self, eqn, values)

    def _piecewise(self, eqn: JaxprEqn, values: list[Any]) -> Any:
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
            each = [self._parts(v, axis, sizes) for v in values]
            found = [self.traced(apply, *some)[0] for some in zip(*each, strict=True)]
            return Pieces(axis, tuple(found))
        if name == "reduce_sum" and axis in eqn.params["axes"]:
            sums = [self.traced(apply, part)[0] for part in pieces.parts]
            return self.traced(lambda *a: sum(a[1:], a[0]), *sums)[0]
        if name == "dot_general":
            i = values.index(pieces)
            contracted = eqn.params["dimension_numbers"][0]
            if axis in contracted[i] and isinstance(values[1 - i], Par):
                other = contracted[1 - i][contracted[i].index(axis)]
                weights = self._parts(values[1 - i], other, sizes)
                products = [
                    self.traced(apply, *((part, w) if i == 0 else (w, part)))[0]
                    for part, w in zip(pieces.parts, weights, strict=True)
                ]
                return self.traced(lambda *a: sum(a[1:], a[0]), *products)[0]
        raise NoLimitError(
            "arrays were concatenated along an axis that goes to infinity; they can be "
            "contracted by a parameter, summed, or treated entry by entry, but not this"
        )

    def _parts(self, value: Any, axis: int, sizes: Sequence[int]) -> list[Any]:
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
            found.append(self.traced(cut, value)[0])
            start += size
        return found

    def traced(self, function: Callable[..., Any], *values: Value) -> list[Any]:
        """The results of a function of arrays, read like the model's own code."""
        structs = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in values]
        closed = jax.make_jaxpr(function)(*structs)
        return self.read(inlined(closed.jaxpr, closed.consts), values)

    def field(self, value: Value, like: Field | None = None) -> Field:
        """Any value as a random array; a parameter as one that is added."""
        if isinstance(value, Field):
            return value
        if isinstance(value, Data):
            return fields.from_data(value)
        if isinstance(value, Pieces):
            raise NoLimitError(
                "arrays concatenated along an axis that goes to infinity"
            )
        random, mean = self.drawer.alone(value, like)
        if mean:
            shift = fields.with_terms(
                random, [Term(algebra._number(mean, len(random.sizes)), ())]
            )
            return algebra.add(self.atoms, random, shift)
        return random

    def pointwise(self, eqn: JaxprEqn, values: list[Value]) -> Value:
        """An equation that treats each entry by itself."""
        name = eqn.primitive.name
        pars = [v for v in values if isinstance(v, Par)]
        if len(pars) == 1:
            kept = self._scaled(name, eqn, values, pars[0])
            if kept is not None:
                return kept
        if pars and name in ("add", "sub", "mul", "div") and len(pars) == 1:
            i = values.index(pars[0])
            other = values[1 - i]
            if name == "div" and i == 1:
                raise NoLimitError("a division by a parameter")
            shape = aval(eqn.outvars[0]).shape
            par = parameters.broadcast(pars[0], shape, range(len(pars[0].axes)))
            like = self.field(other)
            like = fields.broadcast(self.atoms, like, shape, range(len(like.axes)))
            values[i] = self.field(par, like)
        elif pars:
            raise NoLimitError(
                "a parameter is transformed before it meets an array (normalised "
                "weights, functions or sums of parameters)"
            )
        return algebra.pointwise(self.atoms, eqn, values)  # type: ignore[arg-type]

    def _scaled(
        self, name: str, eqn: JaxprEqn, values: list[Value], par: Par
    ) -> Par | None:
        """A parameter times a number, in another precision or as it is."""
        if name in ("copy", "convert_element_type"):
            dtype = aval(eqn.outvars[0]).dtype
            if jnp.issubdtype(dtype, jnp.floating):
                return Par(par.leaf, par.axes, par.offsets, par.scale, dtype)
        if name == "neg":
            return parameters.scaled(par, -1.0)
        if name in ("mul", "div") and not (name == "div" and values[1] is par):
            other = values[1] if values[0] is par else values[0]
            number = deterministic.scalar_of(other) if isinstance(other, Data) else None
            if number is not None and aval(eqn.outvars[0]).shape == par.shape:
                return parameters.scaled(par, number if name == "mul" else 1 / number)
        return None


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


@rule("slice")
def _slice(reader: Reader, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    (x,) = values
    starts, limits = eqn.params["start_indices"], eqn.params["limit_indices"]
    steps = eqn.params["strides"] or (1,) * len(starts)
    for axis, (start, limit, step) in enumerate(
        zip(starts, limits, steps, strict=True)
    ):
        x = _sliced(reader, x, axis, start, -(-(limit - start) // step), step)
    return [x]


def _sliced(reader: Reader, x: Any, axis: int, start: int, size: int, step: int) -> Any:
    if (start, size, step) == (0, x.shape[axis], 1):
        return x
    if isinstance(x, Par):
        return parameters.sliced(x, axis, start, size, step)
    if len(x.axes[axis]) == 1 and x.axes[axis][0].kind == "wide":
        _, column = fields.position(x, axis, 0)
        new = (x.axes[axis][0]._replace(size=size),)
        op = fields.WideOp("slice", column, (start, step))
        return fields.rewide(reader.atoms, x, op, fields.replaced(x.axes, axis, new))
    shape = [*x.shape[:axis], size, *x.shape[axis + 1 :]]
    limit = start + (size - 1) * step + 1
    return fields.along_places(
        reader.atoms, x, ("slice", axis, start, size, step),
        lambda a, m, side: lax.slice_in_dim(a, start, limit, step, axis),
        shape, [axis], True,
    )  # fmt: skip


@rule("split")
def _split(reader: Reader, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    axis, parts, start = eqn.params["axis"], [], 0
    for size in eqn.params["sizes"]:
        parts.append(_sliced(reader, values[0], axis, start, int(size), 1))
        start += int(size)
    return parts


@rule("dynamic_slice")
def _dynamic_slice(reader: Reader, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    x, *starts = values
    sizes = eqn.params["slice_sizes"]
    if not all(isinstance(s, Data) for s in starts):
        raise NoLimitError("an index that is random")
    for axis, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        if size == x.shape[axis]:
            continue
        number = deterministic.scalar_of(start)
        if number is not None:
            first = min(max(int(number), 0), x.shape[axis] - size)
            x = _sliced(reader, x, axis, first, size, 1)
        elif isinstance(x, Par):
            x = _row(reader, x, start, axis, size)
        else:
            x = _moving_slice(reader, x, start, axis, size)
    return [x]


def _row(reader: Reader, par: Par, start: Data, axis: int, size: int) -> Any:
    if size != 1:
        raise NoLimitError("a slice of a parameter at a place that the input decides")
    (clamped,) = reader.traced(
        lambda i: jnp.clip(i, 0, par.shape[axis] - 1).reshape(1), start
    )
    found = reader.drawer.looked_up(par, clamped, axis)
    order = [*range(1, axis + 1), 0, *range(axis + 1, len(par.shape))]
    return fields.transpose(reader.atoms, found, order)


def _moving_slice(reader: Reader, x: Any, start: Data, axis: int, size: int) -> Any:
    shape = [*x.shape[:axis], size, *x.shape[axis + 1 :]]
    return fields.along_places(
        reader.atoms, x, ("dynamic_slice", axis, size, id(start)),
        lambda a, m, side: lax.dynamic_slice_in_dim(
            a, m.value(start, side), size, axis
        ),
        shape, [axis], True, operands=(start,),
    )  # fmt: skip


@rule("gather")
def _gather(reader: Reader, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    x, indices = values
    if not isinstance(indices, Data):
        raise NoLimitError("an index that is random")
    d = eqn.params["dimension_numbers"]
    sizes = eqn.params["slice_sizes"]
    if d.operand_batching_dims or d.start_indices_batching_dims:
        raise NoLimitError("a lookup in several tables at once")
    # Axes of which one entry is taken; along the others all must be.
    taken = [i for i, n in enumerate(sizes) if n != x.shape[i]]
    if len(taken) != 1 or sizes[taken[0]] != 1:
        raise NoLimitError("a lookup of anything but rows along one axis")
    (axis,) = taken
    which = d.start_index_map.index(axis)
    n = x.shape[axis]
    mode = str(eqn.params["mode"]).lower()
    if "fill" in mode and indices.const is None:
        raise NoLimitError(
            "a lookup that gives NaN outside of the table; use `mode='clip'`"
        )
    (rows,) = reader.traced(lambda i: jnp.clip(i[..., which], 0, n - 1), indices)
    if isinstance(x, Par):
        found = reader.drawer.looked_up(x, rows, axis)
    else:
        found = _rows_of(reader, x, rows, axis)
    # Now the axes of the indices, then those of the table without the one looked up.
    rank = len(rows.shape)
    rest = [i for i in range(len(sizes)) if i != axis]
    out_rank = len(aval(eqn.outvars[0]).shape)
    kept = [i for i in range(len(sizes)) if i not in d.collapsed_slice_dims]
    order = [-1] * out_rank
    for i, out in zip(kept, d.offset_dims, strict=True):
        order[out] = -2 if i == axis else rank + rest.index(i)
    batch = iter(range(rank))
    order = [next(batch) if o == -1 else o for o in order]
    moved = fields.transpose(reader.atoms, found, [o for o in order if o != -2])
    for out, o in enumerate(order):
        if o == -2:
            moved = fields.new_axis(reader.atoms, moved, out, 1)
    return [moved]


def _rows_of(reader: Reader, x: Field, rows: Data, axis: int) -> Field:
    order = [axis, *(i for i in range(len(x.axes)) if i != axis)]
    x = fields.transpose(reader.atoms, x, order)
    count = math.prod(rows.shape)
    flat = deterministic.reshaped(rows, (count,))
    found = fields.along_places(
        reader.atoms, x, ("gather", id(rows)),
        lambda a, m, side: jnp.take(
            a, jnp.broadcast_to(m.value(flat, side), (count,)), 0, mode="clip"
        ),
        [count, *x.shape[1:]], [0], True, operands=(flat,),
    )  # fmt: skip
    (row, *rest) = found.axes
    if len(rows.shape) != 1:
        shape = (*rows.shape, *(math.prod(f.size for f in a) for a in rest))
        return fields.reshape(reader.atoms, found, shape)
    return found


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


@rule("reduce_sum")
def _reduce_sum(reader: Reader, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    axes = tuple(eqn.params["axes"])
    if isinstance(values[0], Par):
        raise NoLimitError("a sum over the entries of a parameter")
    if not axes:
        return values
    return [summed(reader.atoms, values[0], axes)]


@rule("concatenate")
def _concatenate(reader: Reader, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    axis = int(eqn.params["dimension"])
    if any(isinstance(v, Par) for v in values):
        raise NoLimitError("parameters are concatenated")
    parts = [fields.from_data(v) if isinstance(v, Data) else v for v in values]
    kinds = [tuple(f.kind for f in part.axes[axis]) for part in parts]
    if all(kind == ("wide",) for kind in kinds):
        return [Pieces(axis, tuple(parts))]
    return [joins.concatenate(reader.atoms, parts, axis)]


@rule("stack")
def _stack(reader: Reader, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    return [_stacked(reader, values, eqn.params["axis"])]


def _stacked(reader: Reader, values: Sequence[Any], axis: int) -> Any:
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


@rule("dot_general")
def _dot_general(reader: Reader, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    (one_c, two_c), (one_b, two_b) = eqn.params["dimension_numbers"]
    one, two = values
    if isinstance(one, Par) and isinstance(two, Par):
        raise NoLimitError("a product of two parameters")
    if isinstance(one, Par) or isinstance(two, Par):
        first = isinstance(one, Par)
        par, other = (one, two) if first else (two, one)
        assert isinstance(par, Par) and isinstance(other, Data | Field)
        contracted, batch = (
            zip(one_c, two_c, strict=True),
            zip(one_b, two_b, strict=True),
        )
        pairs = [list(contracted), list(batch)]
        if not first:
            pairs = [[(j, i) for i, j in p] for p in pairs]
        if isinstance(other, Data):
            if deterministic.scalar_of(other) == 0:
                out = aval(eqn.outvars[0])
                zero = deterministic.constant(np.zeros((), out.dtype))
                return [deterministic.broadcast(zero, out.shape)]
            other = fields.from_data(other)
        return [reader.drawer.contracted(par, other, *pairs, par_first=first)]
    return [_product(reader, eqn, one, two)]


def _product(reader: Reader, eqn: JaxprEqn, one: Any, two: Any) -> Any:
    """A contraction of two arrays that are no parameters: their product, summed."""
    (one_c, two_c), (one_b, two_b) = eqn.params["dimension_numbers"]
    one_f = [i for i in range(len(one.shape)) if i not in (*one_c, *one_b)]
    two_f = [i for i in range(len(two.shape)) if i not in (*two_c, *two_b)]
    batch = [one.shape[i] for i in one_b]
    left, right = [one.shape[i] for i in one_f], [two.shape[i] for i in two_f]
    inner = [one.shape[i] for i in one_c]
    whole = (*batch, *left, *right, *inner)

    def multiplied(a: Any, b: Any) -> Any:
        a = jnp.transpose(a, (*one_b, *one_f, *one_c))
        b = jnp.transpose(b, (*two_b, *two_f, *two_c))
        n, l, r, c = len(batch), len(left), len(right), len(inner)
        a = lax.broadcast_in_dim(
            a, whole, (*range(n + l), *range(n + l + r, n + l + r + c))
        )
        b = lax.broadcast_in_dim(b, whole, (*range(n), *range(n + l, n + l + r + c)))
        return a * b

    (product,) = reader.traced(multiplied, one, two)
    axes = tuple(range(len(whole) - len(inner), len(whole)))
    if not axes:
        return product
    if isinstance(product, Data):
        (result,) = reader.traced(lambda a: jnp.sum(a, axes), product)
        return result
    wide = any(f.kind == "wide" for i in axes for f in product.axes[i])
    if (
        wide
        and zero_mean(product.terms)
        and all(isinstance(v, Field) for v in (one, two))
    ):
        return overlap(product, axes, reader.atoms)
    return summed(reader.atoms, product, axes)


@rule("conv_general_dilated")
def _convolution(reader: Reader, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    x, kernel = values
    if not isinstance(kernel, Par) or isinstance(x, Par):
        raise NoLimitError("a convolution whose kernel is no parameter")
    if isinstance(x, Data):
        x = fields.from_data(x)
    return [reader.drawer.convolved(kernel, x, eqn, aval(eqn.outvars[0]))]


@rule(*_CUSTOM)
def _custom(reader: Reader, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    name = next(n for n in ("call_jaxpr", "fun_jaxpr", "jaxpr") if n in eqn.params)
    jaxpr, consts = subjaxpr(eqn.params[name])
    flat = inlined(jaxpr, consts)
    _check_honest(eqn, flat, values)
    return reader.read(flat, values)


def _check_honest(eqn: JaxprEqn, flat: Flat, values: list[Any]) -> None:
    """Check that a gradient of its own is the derivative, which the limit needs."""
    rng = np.random.default_rng(0)
    points, floats = [], []
    for var, value in zip(eqn.invars, values, strict=True):
        shape, dtype = aval(var).shape, aval(var).dtype
        if isinstance(value, Data) and value.const is not None:
            points.append(jnp.broadcast_to(jnp.asarray(value.const), shape))
        elif jnp.issubdtype(dtype, jnp.floating):
            floats.append(len(points))
            points.append(jnp.asarray(rng.normal(size=shape) * 1.5, dtype))
        else:
            points.append(jnp.ones(shape, dtype))

    def gradients(function: Callable[..., Any]) -> Any:
        def scalar(*args: Any) -> Any:
            operands = list(points)
            for i, a in zip(floats, args, strict=True):
                operands[i] = a
            results = [r for r in function(operands) if r is not None]
            return sum(
                jnp.sum(jnp.cos(jnp.arange(r.size, dtype=r.dtype)).reshape(r.shape) * r)
                for r in results
                if jnp.issubdtype(r.dtype, jnp.floating)
            )

        return jax.grad(scalar, tuple(range(len(floats))))(*(points[i] for i in floats))

    def differ() -> bool:
        own = gradients(lambda x: evaluate(eqn, x))
        true = gradients(lambda x: eval_jaxpr(flat.jaxpr, flat.consts, *x))
        for a, b in zip(own, true, strict=True):
            eps = float(jnp.finfo(a.dtype).eps)
            if not np.allclose(a, b, rtol=1e4 * eps, atol=1e4 * eps, equal_nan=True):
                return True
        return False

    # A transformation of the caller's holds for his thread alone, and here numbers are
    # needed: rules of derivatives take no part in `jax.ensure_compile_time_eval`.
    with ThreadPoolExecutor(1) as outside:
        if outside.submit(differ).result():
            raise NoLimitError(
                "a gradient of its own that is not the function's derivative, from "
                "which the limit of the tangent kernel would differ"
            )


@rule("scan")
def _scan(reader: Reader, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    body, n_consts, n_carry = scan_parts(eqn)
    consts, carry = values[:n_consts], values[n_consts : n_consts + n_carry]
    stacked = values[n_consts + n_carry :]
    length = eqn.params["length"]
    steps = range(length)
    if eqn.params["reverse"]:
        steps = reversed(steps)
    outs: list[Any] = [None] * length
    for i in steps:
        slices = [
            reader.traced(
                lambda a, i=i: jnp.reshape(
                    lax.slice_in_dim(a, i, i + 1, axis=0), a.shape[1:]
                ),
                x,
            )[0]
            for x in stacked
        ]
        results = reader.read(body, [*consts, *carry, *slices])
        carry, outs[i] = results[:n_carry], results[n_carry:]
    final: list[Any] = list(carry)
    for number, var in enumerate(eqn.outvars[n_carry:]):
        if isinstance(var, DropVar):
            final.append(None)
            continue
        each = [out[number] for out in outs]
        final.append(_stacked(reader, each, 0))
    return final
