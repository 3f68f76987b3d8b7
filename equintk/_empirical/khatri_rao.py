r"""Projections of a weight's gradient that never form it.

With independent random signs $u_r$ and $v_r$, the gradient $G = \sum_s a_s \delta_s^T$
has the projections

$$z_r = u_r^T G v_r / \sqrt m = \sum_s (u_r^T a_s)(v_r^T \delta_s) / \sqrt m,$$

for which $E[\sum_r z_r z'_r]$ is the product of the two gradients. With normal numbers
in place of signs, $m$ times its variance would be, for $K$ that product,

$$K_{ij}^2 + K_{ii} K_{jj}
+ 2 (\operatorname{tr} G^T G G'^T G' + \operatorname{tr} C^2 + \operatorname{tr} C C^T),
\quad C = G^T G',$$

at most $K_{ij}^2 + 7 K_{ii} K_{jj}$. Signs have a smaller one: their fourth moment is.

Source: the tensor sketches of Pham and Pagh, KDD 2013, with dense projections.
"""

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Int8

from .._parameters import wide_dtype
from .._types import Key
from .signs import signs
from .structure import Tapped

# Axes: b, s, i, o as in `sites.py`, k the outputs, r the projections.

Factors = tuple[Int8[Array, "b i r"], Int8[Array, "b o r"]]


def draw_factors(key: Key, tapped: Tapped, proj_dim: int) -> Factors:
    """The signs for activations (a bias has one more) and output derivatives."""
    b, _, i, o = tapped.sizes
    of_inputs, of_outputs = jr.split(key)
    return (
        signs(of_inputs, (b, i + (tapped.bias is not None), proj_dim), jnp.int8),
        signs(of_outputs, (b, o, proj_dim), jnp.int8),
    )


def projected(
    factors: Factors, activations: Array, derivatives: Array, looks_up: bool
) -> Array:
    """`(k, r)`, from activations `(b, s, i)`, or rows, and derivatives `(k, b, s, o)`.

    Sums run in float32 at least.
    """
    of_inputs, of_outputs = factors
    dtype = wide_dtype([derivatives])
    if looks_up:
        # A row that is not there has the number -1 and derivatives of zero.
        one = jnp.take_along_axis(of_inputs, activations[..., None], axis=1).astype(
            dtype
        )
    else:
        one = jnp.einsum(
            "bsi,bir->bsr", activations, of_inputs.astype(activations.dtype),
            precision="highest", preferred_element_type=dtype,
        )  # fmt: skip
    two = jnp.einsum(
        "kbso,bor->kbsr", derivatives, of_outputs.astype(derivatives.dtype),
        precision="highest", preferred_element_type=dtype,
    )  # fmt: skip
    return jnp.einsum("bsr,kbsr->kr", one, two) * of_inputs.shape[-1] ** -0.5
