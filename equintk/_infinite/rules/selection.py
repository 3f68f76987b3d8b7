"""Some of the entries along an axis: slices and look-ups."""

import math
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn

from ..._trace.flatten import aval
from ..arrays import data as deterministic, fields, parameters
from ..errors import NoLimitError
from ..nodes import Data, Field, Par
from ..reader import Reader, rule


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
        new = (x.axes[axis][0]._replace(size=size, of=x.axes[axis][0].whole),)
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


@rule("scatter-add")
def _scatter_add(reader: Reader, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    """Sums of the rows that have one number, as `jax.ops.segment_sum` takes them."""
    start, indices, rows = values
    d = eqn.params["dimension_numbers"]
    if not (isinstance(start, Data) and isinstance(indices, Data)):
        raise NoLimitError("random entries or numbers of rows that are added to")
    if isinstance(rows, Par) or deterministic.scalar_of(start) != 0:
        raise NoLimitError("rows are added to what is not zero")
    (axis, *others), n_rows = d.inserted_window_dims, len(indices.shape) - 1
    batched = getattr(d, "operand_batching_dims", ())
    if others or n_rows != 1 or batched or 0 in d.update_window_dims:
        raise NoLimitError("sums of anything but rows along one axis")
    (numbers,) = reader.traced(lambda i: i[:, 0], indices)
    size = start.shape[axis]

    def added(a: Any, m: Any, side: int) -> Any:
        n = jnp.broadcast_to(m.value(numbers, side), rows.shape[:1])
        whole = jnp.zeros((size, *a.shape[1:]), a.dtype)
        return whole.at[jnp.where(n < 0, size, n)].add(a, mode="drop")

    found = fields.along_places(
        reader.atoms, rows, ("scatter-add", id(numbers), size), added,
        (size, *rows.shape[1:]), [0], False, operands=(numbers,),
    )  # fmt: skip
    order = [*range(1, axis + 1), 0, *range(axis + 1, len(start.shape))]
    return [fields.transpose(reader.atoms, found, order)]
