r"""Where a weight meets the activations: contractions, convolutions and row look-ups.

At a site a weight $W_{bio}$ (batch, in, out) gives $y_{bso} = \sum_i a_{bsi} W_{bio}$
at positions $s$ that share it. With $\delta$ the derivative of an output by $y$, the
output's gradient by the weight is $\sum_s a_{bsi} \delta_{bso}$, and products of such
gradients need no gradient: see `features.py`. This file says how the axes of each
primitive become $b, s, i, o$.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn
from jaxtyping import Array

from .._trace.flatten import aval, evaluate
from .._trace.uses import Use


class Site(NamedTuple):
    """One use of a weight whose gradient is a sum of outer products.

    Attributes:
        use: of the weight.
        sizes: of the axes $b, s, i, o$, within one step of the scans around the site.
        activations: from the equation's operands to `(b, s, i)`; the rows looked up,
            `(b, s)` integers with -1 for none, where `looks_up`.
        result: the equation's result for its operands.
        fold: from the result's shape to `(b, s, o)`, for arrays of NumPy too.
        looks_up: whether the activations are rows of the identity matrix.
        source: equal for sites in one jaxpr that have the same activations.
    """

    use: Use
    sizes: tuple[int, int, int, int]
    activations: Callable[[Sequence[Any]], Array]
    result: Callable[[Sequence[Any]], Array]
    fold: Callable[[Any], Any]
    looks_up: bool
    source: Any

    @property
    def layout(self) -> Any:
        """Sites of a leaf with one layout have its entries in the same `(b, i, o)`."""
        return self.use.view.layout, self._axes_of_weight()

    def _axes_of_weight(self) -> Any:
        eqn = self.use.eqn
        assert eqn is not None
        if self.use.name == "dot_general":
            (contract, batch) = eqn.params["dimension_numbers"]
            return batch[self.use.operand], contract[self.use.operand]
        if self.use.name == "conv_general_dilated":
            return eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
        return "look-up", _looked_up_axis(eqn)


def site_of(use: Use) -> Site | None:
    """The site that a use is, or `None` where it has to be differentiated as it is."""
    if use.eqn is None or not use.view.keeps_all_entries:
        return None
    weight, result = aval(use.eqn.invars[use.operand]), aval(use.eqn.outvars[0])
    is_complex = [
        jnp.issubdtype(a.dtype, jnp.complexfloating) for a in (weight, result)
    ]
    times = [step.eqn.params["length"] for step in use.view.scans]
    if is_complex[0] != is_complex[1] or 0 in (*weight.shape, *result.shape, *times):
        return None  # a real weight among complex numbers: its gradient is a real part
    make = _MAKERS.get(use.name)
    return None if make is None else make(use, use.eqn)


def _contraction(use: Use, eqn: JaxprEqn) -> Site | None:
    """`dot_general`, the weight on either side."""
    contract, batch = eqn.params["dimension_numbers"]
    mine, other = use.operand, 1 - use.operand
    shape = aval(eqn.invars[other]).shape
    weight = aval(eqn.invars[mine]).shape
    free = _rest(len(shape), contract[other], batch[other])
    free_weight = _rest(len(weight), contract[mine], batch[mine])
    sizes = (
        math.prod(weight[d] for d in batch[mine]),
        math.prod(shape[d] for d in free),
        math.prod(weight[d] for d in contract[mine]),
        math.prod(weight[d] for d in free_weight),
    )
    order = (*batch[other], *free, *contract[other])
    n_batch, n_out = len(batch[mine]), len(free_weight)
    n_result = n_batch + n_out + len(free)
    axes = tuple(range(n_result))
    if mine == 0:  # the result's axes: batch, then the left operand's, the right's
        axes = (*axes[:n_batch], *axes[n_batch + n_out :], *axes[n_batch:][:n_out])
    b, s, i, o = sizes
    return Site(
        use,
        sizes,
        lambda values: values[other].transpose(order).reshape(b, s, i),
        lambda values: evaluate(eqn, values)[0],
        lambda result: result.transpose(axes).reshape(b, s, o),
        False,
        (eqn.invars[other], order, len(batch[mine]), len(free)),
    )


def _convolution(use: Use, eqn: JaxprEqn) -> Site | None:
    """`conv_general_dilated` with the weight as its kernel, and groups as $b$."""
    params = eqn.params
    if use.operand != 1 or params["batch_group_count"] != 1:
        return None
    if 0 in aval(eqn.invars[0]).shape:
        return None  # padding alone: nothing is seen
    groups = params["feature_group_count"]
    lhs, rhs, out = _specs(params)
    weight, result = aval(eqn.invars[1]).shape, aval(eqn.outvars[0]).shape
    window = tuple(weight[d] for d in rhs[2:])
    n_in, n_out = weight[rhs[1]], weight[rhs[0]] // groups
    positions = (result[out[0]], *(result[d] for d in out[2:]))
    sizes = (groups, math.prod(positions), n_in * math.prod(window), n_out)

    def activations(values: Sequence[Any]) -> Array:
        x = values[0].transpose(lhs)  # examples, channels, *space
        patches = _patches(x, window, positions[1:], params)
        # To groups, positions, (window, channels).
        patches = patches.reshape(-1, math.prod(window), groups, n_in)
        return patches.transpose(2, 0, 1, 3).reshape(sizes[:3])

    def fold(result: Any) -> Any:
        y = result.transpose(out).reshape(positions[0], groups, n_out, -1)
        return y.transpose(1, 0, 3, 2).reshape(groups, -1, n_out)

    how = {k: v for k, v in params.items() if k != "dimension_numbers"}
    source = (eqn.invars[0], lhs, window, positions, str(how))
    return Site(
        use, sizes, activations, lambda v: _convolved(eqn, v), fold, False, source
    )


def _look_up(use: Use, eqn: JaxprEqn) -> Site | None:
    """`gather` or `dynamic_slice` of single rows (along any one axis) of a table."""
    axis = _looked_up_axis(eqn)
    if use.operand != 0 or axis is None:
        return None
    table, result = aval(eqn.invars[0]).shape, aval(eqn.outvars[0]).shape
    if use.name == "gather":
        numbers = eqn.params["dimension_numbers"]
        gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
        kept = [d for d in range(len(table)) if d not in gone]
        place = dict(zip(kept, numbers.offset_dims, strict=True))
    else:
        place = {d: d for d in range(len(table))}
    columns = [place[d] for d in range(len(table)) if d != axis]
    rest = [d for d in range(len(result)) if d not in columns]
    n_rows, n_out = table[axis], math.prod(table) // table[axis]
    n_positions = math.prod(result[d] for d in rest)

    def rows(values: Sequence[Any]) -> Array:
        # The same look-up in a table of one column that holds its row numbers.
        narrow = tuple(n_rows if d == axis else 1 for d in range(len(table)))
        numbers = jnp.arange(n_rows, dtype=jnp.int32).reshape(narrow)
        ones = (1,) * len(table)
        if use.name == "dynamic_slice":
            found = lax.dynamic_slice(numbers, values[1:], ones)
        else:
            # A row that was promised to be there and is not has no derivative.
            clips = eqn.params["mode"] == lax.GatherScatterMode.CLIP
            mode = lax.GatherScatterMode.FILL_OR_DROP
            found = lax.gather(
                numbers, values[1], eqn.params["dimension_numbers"], ones,
                mode=eqn.params["mode"] if clips else mode, fill_value=-1,
            )  # fmt: skip
        return found.reshape(1, n_positions)

    def fold(result: Any) -> Any:
        return result.transpose(*rest, *columns).reshape(1, n_positions, n_out)

    sizes = (1, n_positions, n_rows, n_out)
    source = object()  # two look-ups of the same rows are not worth a comparison
    return Site(use, sizes, rows, lambda v: evaluate(eqn, v)[0], fold, True, source)


_MAKERS: dict[str, Callable[[Use, JaxprEqn], Site | None]] = {
    "dot_general": _contraction,
    "conv_general_dilated": _convolution,
    "gather": _look_up,
    "dynamic_slice": _look_up,
}


def _looked_up_axis(eqn: JaxprEqn) -> int | None:
    """The axis of which one entry is taken while the others are taken whole."""
    table, sizes = aval(eqn.invars[0]).shape, eqn.params["slice_sizes"]
    if eqn.primitive.name == "gather":
        if eqn.params["dimension_numbers"].operand_batching_dims:
            return None
    cut = [d for d, (n, size) in enumerate(zip(table, sizes, strict=True)) if n != size]
    return cut[0] if len(cut) == 1 and sizes[cut[0]] == 1 else None


def _rest(n: int, *used: Sequence[int]) -> list[int]:
    return [d for d in range(n) if all(d not in some for some in used)]


def _specs(params: Any) -> list[tuple[int, ...]]:
    """The axes of input, kernel and result: examples (out), channels (in), *space."""
    numbers = params["dimension_numbers"]
    return [tuple(numbers.lhs_spec), tuple(numbers.rhs_spec), tuple(numbers.out_spec)]


def _patches(
    x: Array, window: tuple[int, ...], positions: tuple[int, ...], params: Any
) -> Array:
    """What each entry of the window sees: `(examples, positions * window, channels)`.

    As one look-up of pixels: a slice for each entry would be a loop for each to
    compile, and a grouped convolution several times slower on CPU. Channels last: they
    lie together in the result.
    """
    size = math.prod(x.shape[2:])
    n_space = len(window)
    pixels, exists = np.zeros((), np.int32), np.ones((), bool)
    for axis in range(n_space):
        (low, _), inner = params["padding"][axis], params["lhs_dilation"][axis]
        place = np.add.outer(
            np.arange(positions[axis]) * params["window_strides"][axis] - low,
            np.arange(window[axis]) * params["rhs_dilation"][axis],
        )
        # Beside the image, and between the pixels of a dilated one, there is nothing.
        here = (place % inner == 0) & (place >= 0)
        place = place // inner
        here &= place < x.shape[2 + axis]
        shape = [1] * 2 * n_space
        shape[axis], shape[n_space + axis] = place.shape
        pixels = pixels * x.shape[2 + axis] + place.reshape(shape)
        exists = exists & here.reshape(shape)
    found = np.where(exists, pixels, size).reshape(-1)
    x = jnp.moveaxis(x, 1, -1).reshape(x.shape[0], size, x.shape[1])
    return x.at[:, found.astype(np.int32)].get(mode="fill", fill_value=0)


def _convolved(eqn: JaxprEqn, values: Sequence[Any]) -> Array:
    """The convolution; one with strides as one without, over blocks of pixels.

    XLA's CPU backend has a fast path for convolutions without dilation, and the
    derivative of a strided one by its input is dilated. Folding each block of `stride`
    pixels into channels, and the window alike, leaves no stride: the derivative of
    that is twice as fast.
    """
    params = eqn.params
    strides = tuple(params["window_strides"])
    plain = all(d == 1 for d in (*params["rhs_dilation"], *params["lhs_dilation"]))
    if not plain or all(s == 1 for s in strides) or params["feature_group_count"] != 1:
        return evaluate(eqn, values)[0]
    lhs, rhs, out = _specs(params)
    x, w = values[0].transpose(lhs), values[1].transpose(rhs)
    n_space = len(strides)
    positions = [aval(eqn.outvars[0]).shape[d] for d in out[2:]]
    reach = [-(-k // s) for k, s in zip(w.shape[2:], strides, strict=True)]
    blocks = [p - 1 + r for p, r in zip(positions, reach, strict=True)]
    zero = jnp.zeros((), x.dtype)
    pad_x = [
        (low, s * n - size - low, 0)
        for (low, _), s, n, size in zip(
            params["padding"], strides, blocks, x.shape[2:], strict=True
        )
    ]
    pad_w = [
        (0, r * s - k, 0) for r, s, k in zip(reach, strides, w.shape[2:], strict=True)
    ]
    x = lax.pad(x, zero, [(0, 0, 0), (0, 0, 0), *pad_x])
    w = lax.pad(w, jnp.zeros((), w.dtype), [(0, 0, 0), (0, 0, 0), *pad_w])
    y = lax.conv_general_dilated(
        _blocks_to_channels(x, blocks, strides),
        _blocks_to_channels(w, reach, strides),
        (1,) * n_space,
        "VALID",
        precision=params["precision"],
        preferred_element_type=params["preferred_element_type"],
    )
    return y.transpose(np.argsort(out))


def _blocks_to_channels(
    x: Array, blocks: Sequence[int], strides: Sequence[int]
) -> Array:
    """`(n, channels, *space)` to `(n, prod(strides) * channels, *blocks)`."""
    n_space = len(strides)
    pairs = [size for pair in zip(blocks, strides, strict=True) for size in pair]
    x = x.reshape(*x.shape[:2], *pairs)
    inner = [3 + 2 * d for d in range(n_space)]
    outer = [2 + 2 * d for d in range(n_space)]
    x = x.transpose(0, *inner, 1, *outer)
    return x.reshape(x.shape[0], -1, *blocks)
