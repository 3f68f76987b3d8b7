"""Projections of gradients from one backward pass per output.

They are computed from the same taps as exact kernels: for each weight seen at sites,
by products of two projections (`khatri_rao.py`) or, where its gradient is the cheaper
thing to have, by folding that (`folding.py`); for all other leaves by folding.
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from .._batch import Blocks
from .._compiled import filter_jit
from .._parameters import common_dtype, wide_dtype
from .._progress import reporter
from .._trace.flatten import flatten
from .._types import Examples, Key, Progress
from .backward import at_all_sites, with_offsets
from .folding import folded, folded_size, rows_and_columns
from .khatri_rao import draw_factors, projected
from .signs import signs
from .structure import Structure, Tapped, structure_of
from .tapped import run, zero_taps

# What an entry written and read again costs, in operations of a matrix product.
_PASS = 24.0

# The variance of products of projections over that of folds, measured: 1 to 6.
_VARIANCE_RATIO = 4.0


def from_taps(
    params: PyTree,
    static: PyTree,
    key: Key,
    sides: Sequence[Blocks],
    out: jax.ShapeDtypeStruct,
    proj_dim: int,
    progress: Progress,
) -> list[Array]:
    """For each side, projections of the outputs' gradients, `(n, *out, r)`.

    The signs are drawn once, for all blocks and sides.
    """
    drawn = _draw(params, static, sides[0][0], key, out.size, proj_dim)
    report = reporter(progress, "mc_ntk")
    total = sum(len(blocks) for blocks in sides)
    features, done = [], 0
    for blocks in sides:
        parts = []
        for i in range(len(blocks)):
            block = _project(params, static, drawn, blocks[i], out.size, proj_dim)
            parts.append(block[: blocks.n_real(i)])
            done += 1
            report(done, total)
        joined = jnp.concatenate(parts)
        features.append(joined.reshape(joined.shape[0], *out.shape, proj_dim))
    return features


class _Drawn(eqx.Module):
    """Signs in one byte each: of each tapped weight, and of each ordinary leaf."""

    tapped: list[Any]
    ordinary: list[Array]


@filter_jit
def _draw(
    params: PyTree, static: PyTree, x: Examples, key: Key, n_outputs: int, proj_dim: int
) -> _Drawn:
    structure, _ = _read(params, static, x)
    leaves = jtu.tree_leaves(params)
    tapped = []
    for weight in structure.tapped:
        own = jr.fold_in(key, weight.leaf)
        if _is_folded(weight, n_outputs, proj_dim):
            tapped.append(signs(own, _matrix(weight), jnp.int8))
        else:
            tapped.append(draw_factors(own, weight, proj_dim))
    ordinary = [
        signs(jr.fold_in(key, leaf), rows_and_columns(leaves[leaf].shape), jnp.int8)
        for leaf in structure.ordinary
    ]
    return _Drawn(tapped, ordinary)


@filter_jit
def _project(
    params: PyTree,
    static: PyTree,
    drawn: _Drawn,
    x: Examples,
    n_outputs: int,
    proj_dim: int,
) -> Array:
    """Projections of a block, `(n, k, r)`."""
    structure, inputs = _read(params, static, x)
    leaves = jtu.tree_leaves(params)
    ordinary = [leaves[i] for i in structure.ordinary]

    def one(*xs: Array) -> Array:
        def output(ordinary: list[Array], taps: Any) -> Any:
            given = list(leaves)
            for i, leaf in zip(structure.ordinary, ordinary, strict=True):
                given[i] = leaf
            (result,), seen = run(structure, [*given, *xs], taps)
            return jnp.ravel(result), seen

        result, vjp, seen = jax.vjp(
            output, ordinary, zero_taps(structure), has_aux=True
        )
        rows, taps = jax.vmap(vjp)(jnp.eye(result.size, dtype=result.dtype))
        sums, start = [], 0
        for weight, own in zip(structure.tapped, drawn.tapped, strict=True):
            looks_up = weight.sites[0].looks_up
            activations, offsets, derivatives = at_all_sites(weight, seen, taps)
            activations = with_offsets(activations, offsets)
            if _is_folded(weight, n_outputs, proj_dim):
                gradient = _gradient(weight, activations, derivatives)
                sums.append(folded(gradient, own, start, proj_dim))
                start += folded_size(*_matrix(weight), proj_dim)
            else:
                sums.append(projected(own, activations, derivatives, looks_up))
        for row, own in zip(rows, drawn.ordinary, strict=True):
            row = row.reshape(row.shape[0], *own.shape).astype(wide_dtype([row]))
            sums.append(folded(row, own, start, proj_dim))
            start += folded_size(own.shape[0], own.shape[1], proj_dim)
        wide = [z.astype(wide_dtype(leaves)) for z in sums]
        return sum(wide[1:], wide[0]).astype(common_dtype(leaves))

    return jax.vmap(one)(*inputs)


def _read(params: PyTree, static: PyTree, x: Examples) -> tuple[Structure, list[Array]]:
    """The structure of a model that returns one array, and the leaves of its inputs."""
    leaves, of_params = jtu.tree_flatten(params)
    inputs, of_inputs = jtu.tree_flatten(x)
    example = jax.eval_shape(lambda inputs: [a[0] for a in inputs], inputs)

    def output(leaves: Any, *xs: Array) -> Array:
        model = eqx.combine(of_params.unflatten(leaves), static)
        return jnp.asarray(model(of_inputs.unflatten(xs)))

    return structure_of(flatten(output, leaves, *example), len(leaves)), inputs


def _matrix(weight: Tapped) -> tuple[int, int]:
    """Rows and columns of a weight's gradient, the bias in one more row."""
    b, _, i, o = weight.sizes
    return b * (i + (weight.bias is not None)), o


def _gradient(weight: Tapped, activations: Array, derivatives: Array) -> Array:
    """`(k, rows, columns)`, in float32 at least."""
    dtype = wide_dtype([derivatives])
    if weight.sites[0].looks_up:
        activations = jax.nn.one_hot(activations, weight.sizes[2], dtype=dtype)
    gradient = jnp.einsum(
        "bsi,kbso->kbio", activations.astype(dtype), derivatives.astype(dtype),
        precision="highest",
    )  # fmt: skip
    return gradient.reshape(gradient.shape[0], *_matrix(weight))


def _is_folded(weight: Tapped, n_outputs: int, proj_dim: int) -> bool:
    """Whether the gradient is formed: where that gives less error for the time.

    The square of the error falls as the inverse of `proj_dim`, so that of two ways the
    one is better whose operations times variance are fewer.
    """
    rows, columns = _matrix(weight)
    if folded_size(rows, columns, proj_dim) <= proj_dim:
        return True  # and exact
    b, s, i, o = weight.sizes
    k, r = n_outputs, proj_dim
    i_projected = 1 if weight.sites[0].looks_up else i
    fold = k * b * i * o * (2 * s + 2 * _PASS)
    project = 2 * b * s * r * (i_projected + k * o) + _PASS * b * s * r * (1 + k)
    return fold <= _VARIANCE_RATIO * project
