"""The kernel of two blocks of examples, from their features."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax import lax
from jaxtyping import Array, PyTree

from .._parameters import common_dtype, wide_dtype
from .features import Dense, Factored, Features, Gram

# Columns of two tiles' rows at a time: on CPU a product with a long inner axis is up to
# twice as fast in such pieces.
_PIECE = 1024
# Below this length, or of so few rows, the product is made at once: with these a loop
# over pieces spares nothing, and takes a tenth of a second to compile.
_LONG = 2**14
_FEW_ROWS = 32

# Gradients that are made to be multiplied at once, in bytes.
_PIECE_BYTES = 2**22

# Rows of a product from which on more do not make it faster.
_ROWS = 256

# Operations from which on it is worth to leave out what is below a diagonal.
_MANY = 2.0**29

# Of more, features and products of fewer rows take longer than what is spared.
_MOST_PARTS = 4

# Axes as in `features.py`; `m, g, t` are to the second block what `n, f, s` are to the
# first.


def contracted(one: Features, two: Features, precision: str) -> list[list[Array]]:
    """For each feature and each output array, its part `(n, m, e, f, f)` of the kernel.

    The sum over features is the kernel, averaged over nothing: `t` axes are summed.
    """
    return completed(one, two, summands(one, two, precision), precision)


def summands(one: Features, two: Features, precision: str) -> list[list[Array]]:
    """For each feature and each output array, what its part of the kernel is linear in.

    The sum over the entries of `t`: it may be taken of some of them at a time.
    """
    found = []
    for f1, f2 in zip(one, two, strict=True):
        if f1.weights is not None:
            found.append(f1.weights)
        elif isinstance(f1, Factored):
            found.append([_of_factors(f1, f2, precision)])
        elif isinstance(f1, Gram):
            found.append(_of_derivatives(f1, f2, f1.derivatives, precision))
        else:
            found.append(_of_gradients(f1, f2, f1.gradients, precision))
    return found


def completed(
    one: Features, two: Features, sums: list[list[Array]], precision: str
) -> list[list[Array]]:
    """What `contracted` says, from the sums over the entries of `t`."""
    parts = []
    for f1, f2, total in zip(one, two, sums, strict=True):
        if isinstance(f1, Gram):
            if f1.weights is not None:
                weighted = _weighted(f1, total)
                total = _of_derivatives(f1, f2, weighted, precision)
            seen = _seen(f1, f2, precision)
            b, n, s, m, t = seen.shape
            seen = seen.reshape(b, 1, n, 1, s, m, 1, t)
            kernels = [_real(seen * part).sum((0, 4, 7)) for part in total]
            parts.append([kernel.transpose(1, 3, 0, 2, 4) for kernel in kernels])
        else:
            if isinstance(f1, Dense) and f1.weights is not None:
                weighted = [
                    _times(g.reshape(len(g), len(w), -1), w[:, None]).reshape(g.shape)
                    for g, w in zip(f1.gradients, total, strict=True)
                ]
                total = _of_gradients(f1, f2, weighted, precision)
            parts.append(total)
    return parts


def multiplied(shared: Features, precision: str) -> Features:
    """The same with products of derivatives that are alike for all examples, made once.

    With the features, and not with each tile: there XLA knows many of them when it
    compiles, and leaves their sums of squares out of the program.
    """

    def of_one(feature: Any) -> Any:
        if not isinstance(feature, Gram) or feature.weights is not None:
            return feature
        return dataclasses.replace(
            feature,
            derivatives=[
                None if d is None else _of_rows(feature, d, d, rows, 1, 1, precision)
                for d, rows in zip(feature.derivatives, feature.rows, strict=True)
            ],
        )

    return [of_one(feature) for feature in shared]


def pair_bytes(features: Features) -> int:
    """Of the temporaries and the result, for one pair of examples."""
    largest = result = 0
    for feature in features:
        held = 0
        if isinstance(feature, Gram):
            b, s = feature.positions
            for d, (e, f) in zip(feature.derivatives, feature.rows, strict=True):
                itemsize = wide_dtype([d]).itemsize
                held = max(held, b * s * s * (1 + e * f * f) * itemsize)
                result = max(result, e * f * f * itemsize)
        elif isinstance(feature, Dense):
            for gradient, (e, f) in zip(feature.gradients, feature.rows, strict=True):
                result = max(result, e * f * f * wide_dtype([gradient]).itemsize)
        largest = max(largest, held)
    return largest + 3 * result


def array_bytes(tree: PyTree) -> int:
    """Of all arrays of a tree, or of their shapes."""
    return sum(a.size * a.dtype.itemsize for a in jtu.tree_leaves(tree))


def summands_bytes(features: Features) -> int:
    """Of what `summands` gives, for one pair of examples."""
    total = 0
    for feature in features:
        if feature.weights is not None:
            continue
        if isinstance(feature, Gram):
            arrays, (b, s) = feature.derivatives, feature.positions
        elif isinstance(feature, Dense):
            arrays, b, s = feature.gradients, 1, 1
        else:
            continue  # gradients in pieces do not take turns
        for a, (e, f) in zip(arrays, feature.rows, strict=True):
            if a.ndim > 1:  # else they are alike for all examples
                total += b * s * s * e * f * f * wide_dtype([a]).itemsize
    return total


def n_parts(features: Features, n: int) -> int:
    """Into how many tiles a side to cut the kernel of `n` examples with themselves.

    Of tiles on and above the diagonal alone there are fewer operations, but a product
    of few rows takes longer for each.

    Args:
        features: of one example.
        n: the number of examples.
    """
    operations = rows = 0.0
    for feature in features:
        if isinstance(feature, Gram):
            b, s = feature.positions
            for d, (_, f) in zip(feature.derivatives, feature.rows, strict=True):
                own = 2.0 * s * f * d.size
                operations += own
                rows += own * f * s
        elif isinstance(feature, Dense):
            for gradient, (_, f) in zip(feature.gradients, feature.rows, strict=True):
                own = 2.0 * f * gradient.size
                operations += own
                rows += own * f
    if n * n * operations < _MANY:
        return 1
    by_rows = n * rows / operations / _ROWS
    return int(min(_MOST_PARTS, n, max(1, by_rows)))


def _of_derivatives(
    one: Gram, two: Any, derivatives: Sequence[Array], precision: str
) -> list[Array]:
    """`(b, e, n, f, s, m, f, t)`; `n = m = 1` where they are alike for all examples."""
    n, m = (f.activations.shape[0] for f in (one, two))
    products = []
    for d1, d2, rows in zip(derivatives, two.derivatives, one.rows, strict=True):
        if d1.ndim > 2:  # `multiplied` already
            products.append(d1)
            continue
        k1, k2 = (1, 1) if d1.ndim == 1 else (n, m)
        products.append(_of_rows(one, d1, d2, rows, k1, k2, precision))
    return products


def _of_rows(
    feature: Gram, d1: Array, d2: Array, rows: Any, n: int, m: int, precision: str
) -> Array:
    """Products of the derivatives of one output array, as `_of_derivatives` says."""
    (b, s), (e, f) = feature.positions, rows
    rows1, rows2 = (d.reshape(k, b * e, f * s, -1) for d, k in ((d1, n), (d2, m)))
    return _products(rows1, rows2, precision).reshape(b, e, n, f, s, m, f, s)


def _weighted(one: Gram, weights: Sequence[Array]) -> list[Array]:
    """Derivatives of an averaged output, alike for all outputs, times their weights."""
    b, s = one.positions
    weighted = []
    for d, w, (e, f) in zip(one.derivatives, weights, one.rows, strict=True):
        rows = _times(d.reshape(-1, b, e * f * s, w.size // b), w.reshape(b, 1, -1))
        weighted.append(rows.reshape(*d.shape[:-1], -1))
    return weighted


def _seen(one: Gram, two: Any, precision: str) -> Array:
    """Products of what the weights see, `(b, n, s, m, t)`, of what biases see added."""
    a1, a2 = (
        f.activations.reshape(f.activations.shape[0], *f.positions, -1)
        for f in (one, two)
    )
    if jnp.issubdtype(a1.dtype, jnp.integer):
        rows1, rows2 = (a[..., 0].transpose(1, 0, 2) for a in (a1, a2))
        alike = rows1[..., None, None] == rows2[:, None, None, :, :]
        return alike.astype(wide_dtype(one.derivatives))
    # A product may mix dtypes: data in float32 with weights in float64.
    a1, a2 = (_as_fine_as(a, one.derivatives) for a in (a1, a2))
    products = _products(a1, a2, precision)
    if one.offsets is None:
        return products
    o1, o2 = (
        _as_fine_as(o, one.derivatives).reshape(-1, *one.positions).swapaxes(0, 1)
        for o in (one.offsets, two.offsets)
    )
    added = o1[..., None, None] * o2.conj()[:, None, None, :, :]
    return products + added.astype(products.dtype)


def _as_fine_as(array: Array, others: Sequence[Array]) -> Array:
    dtype = common_dtype([array, *others])
    return array.astype(dtype if jnp.iscomplexobj(array) else jnp.finfo(dtype).dtype)


def _of_gradients(
    one: Dense, two: Any, gradients: Sequence[Array], precision: str
) -> list[Array]:
    kernels = []
    for g1, g2, rows in zip(gradients, two.gradients, one.rows, strict=True):
        g1, g2 = (g.reshape(g.shape[0], *rows, -1) for g in (g1, g2))
        kernels.append(_real(_products(g1, g2, precision)).transpose(1, 3, 0, 2, 4))
    return kernels


def _of_factors(one: Factored, two: Any, precision: str) -> Array:
    """From gradients made in pieces that stay in a cache until they are multiplied."""
    (a1, d1), (a2, d2) = (
        (
            f.activations.reshape(len(f.activations), f.positions, -1),
            f.columns.reshape(len(f.columns), f.outputs, f.positions, -1),
        )
        for f in (one, two)
    )
    dtype = common_dtype([d1, d2, a1, a2])
    n_outputs, n_columns = d1.shape[1], d1.shape[3]
    column_bytes = max(len(d1), len(d2)) * a1.shape[2] * dtype.itemsize
    largest = max(1, _PIECE_BYTES // column_bytes)
    n_parts = -(-n_columns // largest)
    size = -(-n_columns // n_parts)
    several = [k for k in range(1, n_outputs + 1) if n_outputs % k == 0]
    at_once = max((k for k in several if k * n_columns <= largest), default=1)

    def filled(d: Array) -> Array:
        more = n_parts * size - n_columns  # zeros, whose gradients are zero
        return jnp.pad(d.astype(dtype), ((0, 0), (0, 0), (0, 0), (0, more)))

    def gradients(d: Array, activations: Array, start: Array) -> Array:
        n, _, s, _ = d.shape
        output, column = start
        piece = lax.dynamic_slice(d, (0, output, 0, column), (n, at_once, s, size))
        product = lax.dot_general(
            piece.swapaxes(1, 2).reshape(n, s, -1), activations.astype(dtype),
            (((1,), (1,)), ((0,), (0,))), precision="highest",
        )  # fmt: skip
        return product.reshape(n, -1)

    def add(total: Array, start: Array) -> tuple[Array, None]:
        g1 = gradients(f1, a1, start)
        g2 = g1 if one is two else gradients(f2, a2, start)
        return total + _matrix_product(g1, g2, precision), None

    f1 = filled(d1)
    f2 = f1 if one is two else filled(d2)
    outputs, columns = range(0, n_outputs, at_once), range(0, n_parts * size, size)
    starts = jnp.asarray(np.array(list(itertools.product(outputs, columns))))
    nothing = jnp.zeros((len(d1), len(d2)), wide_dtype([d1, d2, a1, a2]))
    total, _ = lax.scan(add, nothing, starts)
    return _real(total)[:, :, None, None, None]


def _times(array: Array, weights: Array) -> Array:
    # In float32 at least: squares leave the range of half precision.
    weights = weights.reshape((1,) * (array.ndim - weights.ndim) + weights.shape)
    return array.astype(weights.dtype) * weights


def _products(one: Array, two: Array, precision: str) -> Array:
    """Of the rows of `(n, batch, rows, x)` and of `m` others: `(batch, n, r, m, r)`."""
    one, two = (a.astype(common_dtype([one, two])) for a in (one, two))
    n, batch, rows1, size = one.shape
    m, _, rows2, _ = two.shape
    if batch > 1:
        return jnp.einsum(
            "nbrx,mbqx->bnrmq", one, two.conj(), precision=precision,
            preferred_element_type=wide_dtype([one, two]),
        )  # fmt: skip
    one, two = one.reshape(n * rows1, size), two.reshape(m * rows2, size)
    return _matrix_product(one, two, precision).reshape(1, n, rows1, m, rows2)


def _matrix_product(one: Array, two: Array, precision: str) -> Array:
    """`one @ two.conj().T`; a long inner axis in pieces that stay in a cache."""

    def product(one: Array, two: Array) -> Array:
        # Sums run in float32 at least: half precision keeps three digits of many.
        return lax.dot_general(
            one, two.conj(), (((1,), (1,)), ((), ())), precision=precision,
            preferred_element_type=wide_dtype([one, two]),
        )  # fmt: skip

    size, n_rows = one.shape[1], max(len(one), len(two))
    is_short = size < _LONG or n_rows <= _FEW_ROWS
    if is_short or jax.default_backend() != "cpu":
        return product(one, two)
    # Without a rest where one can: it would be more loops that have to be compiled.
    piece = next((k for k in range(_PIECE, 2 * _PIECE) if size % k == 0), _PIECE)
    rest = size % piece

    def add(total: Array, start: Array) -> tuple[Array, None]:
        pieces = (lax.dynamic_slice_in_dim(a, start, piece, 1) for a in (one, two))
        return total + product(*pieces), None

    if rest:
        start = product(one[:, size - rest :], two[:, size - rest :])
    else:
        start = jnp.zeros((len(one), len(two)), wide_dtype([one, two]))
    return lax.scan(add, start, jnp.asarray(np.arange(0, size - rest, piece)))[0]


def _real(array: Array) -> Array:
    # Real and imaginary parts are parameters of their own.
    return array.real if jnp.iscomplexobj(array) else array
