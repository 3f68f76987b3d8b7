r"""The tangent kernel estimated from random projections of the parameter gradients.

With $R$ of independent entries of mean zero and variance one, $E[J R R^T J'^T] / m$ is
$J J'^T$. `directions.py` and `tap_sketch.py` are two ways to $J R$.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import _checks, _inputs
from .._batch import Blocks
from .._parameters import output_struct, partition, refuse_complex, wide_dtype
from .._types import Examples, Integer, Key, Model, Progress, Text, Trainable
from .directions import along_directions
from .tap_sketch import from_taps

_METHODS = ("gaussian", "rademacher", "sketch")


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
    r"""Unbiased estimate of `ntk` from random projections of the gradients.

    `ntk` is exact and often faster; this saves memory (docs/monte_carlo.md has the
    measurements). The rank is at most `proj_dim * out_size`. For one output, `proj_dim`
    times the variance of an entry is

    - `"gaussian"`: `K_ij² + K_ii K_jj`, so the relative Frobenius error is
      `sqrt((1 + tr(K)² / ||K||²) / proj_dim)`. Time: `proj_dim` forward derivatives.
    - `"rademacher"`, directions of signs: the same less `2 Σ_p (J_ip J_jp)²`, so never
      more. Time: the same, less most of the drawing.
    - `"sketch"`: time is one backward pass per output, and for each parameter whichever
      gives the smaller error for its time of two projections. For a weight that meets
      activations in contractions, convolutions or look-ups, the product of projections
      of activations and of output derivatives adds at most `6 Kˡ_ii Kˡ_jj` for that
      weight's part `Kˡ` of the kernel, so that the error is at most √7 times that of
      `"gaussian"`; measured 1 to 2.1 times. Gradients added up with signs have no law,
      since which entries meet is not random; measured 0.5 to 1.1 times. No error at
      all where `proj_dim` is at least the number of parameters.

    Args:
        model: an `equinox.Module` that maps one example to one array of any rank.
        key: draws the projection. One draw serves all blocks and both sides, whatever
            the `batch_size`. A larger `proj_dim` extends the same draw, but for
            `"sketch"`.
        x1: the examples that index the rows; the first axis counts them.
        x2: the examples that index the columns; `None` means `x1` again.
        proj_dim: the number of projections.
        method: `"gaussian"`, `"rademacher"` or `"sketch"`.
        batch_size: the largest number of examples differentiated at once.
        trainable: which leaves are parameters, as in `ntk`.
        precision: of the contraction, as in `jax.lax.Precision`.
        progress: `True` for lines on stderr, or a function of (blocks done, blocks).

    Returns:
        `[i, j]` as in `ntk`, averaged over the output entries.

    Raises:
        ValueError: as `ntk`, and for `proj_dim < 1`, an unknown method, no key, complex
            parameters, and for directions through a `jax.custom_vjp` function, which
            has no forward derivative.

    Holds features, `(n1 + n2) * out_size * proj_dim` numbers, and for `"sketch"` a byte
    for each parameter or `proj_dim` bytes for each unit of a layer, whichever its
    projection takes.
    """
    _checks.precision(precision)
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
    features of any two batches may be contracted with each other: for `"sketch"` of
    any two with examples of one shape, since sizes decide how a gradient is projected.
    All outputs share the projection: products of two outputs' features are unbiased
    for the kernel that couples them.
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
    # Sums run in float32 at least: half precision keeps three digits of a long sum.
    kernel = jnp.einsum(
        "id,jd->ij", one, two, precision=precision,
        preferred_element_type=wide_dtype([one, two]),
    )  # fmt: skip
    return kernel.astype(z1.dtype)


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
    if method not in _METHODS:
        raise ValueError(
            '`method` must be "gaussian", "rademacher" or "sketch", but it is '
            f"{method!r}."
        )
    _inputs.random_key(key)
    x1, x2 = _inputs.pair(x1, x2)
    params, static = partition(model, trainable)
    refuse_complex(params, "mc_ntk")
    out = output_struct(model, _inputs.one_example(x1))
    sides = [Blocks(x, batch_size) for x in (x1, x2) if x is not None]
    if method == "sketch":
        features = from_taps(params, static, key, sides, out, proj_dim, progress)
        scale = out.size**-0.5
    else:
        features = along_directions(
            params, static, key, sides, proj_dim, method, progress
        )
        scale = (proj_dim * out.size) ** -0.5
    features = [_checks.finite_result("Features", z * scale) for z in features]
    return features[0], features[-1]
