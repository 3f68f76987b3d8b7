r"""The tangent kernel estimated from Gaussian projections of the parameter gradients.

With $R$ of independent standard normal entries, $E[J R R^T J'^T] / m = J J'^T$. A
column of $R$ is drawn when it is needed, from its own key, and used as the direction of
one forward-mode derivative; neither $R$ nor a Jacobian is ever stored.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, Float, PyTree

from .. import _checks, _inputs
from .._batch import Blocks
from .._parameters import output_struct, partition, refuse_complex, wide_dtype
from .._progress import reporter
from .._types import Examples, Integer, Key, Model, Progress, Text, Trainable

# Numbers in the directions held at once: enough to fill the machine, little to store.
_NUMBERS_PER_CHUNK = 2**23


def mc_ntk(
    model: Model,
    key: Key,
    x1: Examples,
    x2: Examples | None = None,
    proj_dim: Integer = 100,
    method: Text = "gaussian",
    batch_size: Integer = 32,
    *,
    trainable: Trainable = None,
    precision: Text = "highest",
    progress: Progress = False,
) -> Float[Array, "n1 n2"]:
    """Unbiased estimate of `ntk` from random projections of the gradients.

    For one output its variance is `(K_ij² + K_ii K_jj) / proj_dim`, so its relative
    Frobenius error is `sqrt((1 + tr(K)² / ||K||²) / proj_dim)`. The rank is at most
    `proj_dim * out_size`. Time is `proj_dim` forward derivatives: `ntk` is exact and
    often faster; this saves memory.

    Args:
        model: an `equinox.Module` that maps one example to one array of any rank.
        key: draws the projection. One draw serves all blocks and both sides, whatever
            the `batch_size`; a larger `proj_dim` extends the same draw.
        x1: the examples that index the rows; the first axis counts them.
        x2: the examples that index the columns; `None` means `x1` again.
        proj_dim: the number of random directions.
        method: `"gaussian"`, the only one so far.
        batch_size: the largest number of examples differentiated at once.
        trainable: which leaves are parameters, as in `ntk`.
        precision: of the contraction, as in `jax.lax.Precision`.
        progress: `True` for lines on stderr, or a function of (blocks done, blocks).

    Returns:
        `[i, j]` as in `ntk`, averaged over the output entries.

    Raises:
        ValueError: as `ntk`, and for `proj_dim < 1`, an unknown method, or no key.

    Holds features, `(n1 + n2) * out_size * proj_dim` numbers.
    """
    features = _features_of_both(
        model, key, x1, x2, proj_dim, method, batch_size, trainable, progress
    )
    return _checks.finite_result("A kernel", averaged_product(*features, precision))


def ntk_features(
    model: Model,
    key: Key,
    x: Examples,
    proj_dim: Integer = 100,
    method: Text = "gaussian",
    batch_size: Integer = 32,
    *,
    trainable: Trainable = None,
    progress: Progress = False,
) -> Float[Array, "n *out proj_dim"]:
    """Random features whose contraction over all but the first axis is `mc_ntk`.

    Arguments and errors as `mc_ntk`. The same key gives the same projection, so
    features of any two batches may be contracted with each other.
    """
    features, _ = _features_of_both(
        model, key, x, None, proj_dim, method, batch_size, trainable, progress
    )
    return features


def averaged_product(
    z1: Array, z2: Array, precision: str = "highest"
) -> Float[Array, "n1 n2"]:
    """The kernel averaged over outputs, from features `(n, *out, proj_dim)`."""
    one, two = (z.reshape(z.shape[0], -1) for z in (z1, z2))
    return jnp.einsum("id,jd->ij", one, two, precision=precision)


def coupled_product(z1: Array, z2: Array) -> Float[Array, "n1 n2 *out_out"]:
    """The kernel with outputs coupled, from features scaled for their average."""
    out = z1.shape[1:-1]
    one, two = (z.reshape(z.shape[0], -1, z.shape[-1]) for z in (z1, z2))
    kernel = jnp.einsum("iad,jbd->ijab", one, two, precision="highest") * one.shape[1]
    return kernel.reshape(kernel.shape[:2] + out + out)


def _features_of_both(
    model: Model,
    key: Key,
    x1: Examples,
    x2: Examples | None,
    proj_dim: Integer,
    method: Text,
    batch_size: Integer,
    trainable: Trainable,
    progress: Progress,
) -> tuple[Array, Array]:
    """Features of both sides from one draw: each direction is drawn once for both."""
    _checks.positive_integer("proj_dim", proj_dim)
    _checks.positive_integer("batch_size", batch_size)
    if method != "gaussian":
        raise ValueError(f'`method` must be "gaussian", but it is {method!r}.')
    _inputs.random_key(key)
    x1, x2 = _inputs.pair(x1, x2)
    params, static = partition(model, trainable)
    refuse_complex(params, "mc_ntk")
    out = output_struct(model, _inputs.one_example(x1))
    sides = [Blocks(x, batch_size) for x in (x1, x2) if x is not None]

    n_params = sum(leaf.size for leaf in jtu.tree_leaves(params))
    chunk = max(1, min(proj_dim, _NUMBERS_PER_CHUNK // max(n_params, 1)))
    starts = range(0, proj_dim, chunk)
    report = reporter(progress, "mc_ntk")
    columns: list[list[Array]] = [[] for _ in sides]
    for done, start in enumerate(starts, 1):
        # The last chunk draws beyond `proj_dim` and is cut, so that one program serves.
        directions = _draw(params, key, start + jnp.arange(chunk))
        for blocks, column in zip(sides, columns, strict=True):
            parts = [
                _project(params, static, directions, blocks[i])[: blocks.n_real(i)]
                for i in range(len(blocks))
            ]
            column.append(jnp.concatenate(parts)[..., : proj_dim - start])
        report(done, len(starts))
    scale = (proj_dim * out.size) ** -0.5
    features = [jnp.concatenate(column, axis=-1) * scale for column in columns]
    features = [_checks.finite_result("Features", z) for z in features]
    return features[0], features[-1]


@eqx.filter_jit
def _draw(params: PyTree, key: Key, indices: Array) -> PyTree:
    """Standard normal directions, a leading axis in front of each leaf of `params`."""
    leaves, treedef = jtu.tree_flatten(params)
    sizes = [leaf.size for leaf in leaves]
    offsets = [sum(sizes[:i]) for i in range(1, len(sizes))]
    dtype = wide_dtype(leaves)  # half precision would repeat its few values

    def one(index: Any) -> PyTree:
        normals = jr.normal(jr.fold_in(key, index), (sum(sizes),), dtype)
        parts = [
            part.reshape(leaf.shape).astype(leaf.dtype)
            for part, leaf in zip(jnp.split(normals, offsets), leaves, strict=True)
        ]
        return jtu.tree_unflatten(treedef, parts)

    return jax.vmap(one)(indices)


@eqx.filter_jit
def _project(
    params: PyTree, static: PyTree, directions: PyTree, x: Examples
) -> Float[Array, "block *out chunk"]:
    """Derivatives of the outputs of a block along each direction."""

    def one(example: Examples) -> Array:
        def output(p: PyTree) -> Array:
            return eqx.combine(p, static)(example)

        _, derivative = jax.linearize(output, params)
        return jax.vmap(derivative, out_axes=-1)(directions)

    return jax.vmap(one)(x)
