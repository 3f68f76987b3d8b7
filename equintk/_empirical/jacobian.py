"""Features whose products are the tangent kernel: Jacobians, parameter by parameter.

The only file that knows how the exact kernel is computed.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._parameters import common_dtype, wide_dtype
from .._types import Examples

Features = list[Float[Array, "_ out_size _"]]


@eqx.filter_jit
def features(params: PyTree, static: PyTree, x: Examples) -> Features:
    """The Jacobian of the ravelled output by each parameter leaf, for a block."""

    def one(example: Examples) -> list[Float[Array, "out_size _"]]:
        def output(p: PyTree) -> Float[Array, " out_size"]:
            return jnp.ravel(eqx.combine(p, static)(example))

        out, vjp = jax.vjp(output, params)
        (rows,) = jax.vmap(vjp)(jnp.eye(out.size, dtype=out.dtype))
        return [leaf.reshape(out.size, -1) for leaf in jax.tree_util.tree_leaves(rows)]

    return jax.vmap(one)(x)


@eqx.filter_jit
def averaged(one: Features, two: Features, precision: str) -> Float[Array, "b1 b2"]:
    """Trace over outputs divided by the number of outputs."""
    out_size = one[0].shape[1]
    return _sum_over_leaves("iap,jap->ij", one, two, precision) / out_size


@eqx.filter_jit
def per_output(
    one: Features, two: Features, precision: str
) -> Float[Array, "b1 b2 out_size"]:
    """Each output with itself."""
    return _sum_over_leaves("iap,jap->ija", one, two, precision)


@eqx.filter_jit
def full(
    one: Features, two: Features, precision: str
) -> Float[Array, "b1 b2 out_size out_size"]:
    """Every output with every other."""
    return _sum_over_leaves("iap,jbp->ijab", one, two, precision)


def _sum_over_leaves(
    contraction: str, one: Features, two: Features, precision: str
) -> Array:
    # Sums run in float32 at least: half precision keeps three digits of a long sum.
    wide = wide_dtype(one)
    kernel = sum(
        jnp.einsum(contraction, a, b, precision=precision, preferred_element_type=wide)
        for a, b in zip(one, two, strict=True)
    )
    return jnp.asarray(kernel, common_dtype(one))
