"""A number estimated from random vectors, with its error bars."""

import equinox as eqx
from jaxtyping import Array, Float


class Estimate(eqx.Module):
    """An estimated number.

    Attributes:
        value: the number.
        standard_error: of `value`, from the spread of the samples.
        bias: how far the mean of `value` over keys may be from the truth; 0 for what
            is unbiased.
    """

    value: Float[Array, ""]
    standard_error: Float[Array, ""]
    bias: Float[Array, ""]
