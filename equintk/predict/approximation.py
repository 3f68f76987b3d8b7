"""Outputs that are not exact, and how far they are from exact ones."""

import equinox as eqx
from jaxtyping import Array, Float


class Approximation(eqx.Module):
    """Outputs at some inputs, with their error.

    Attributes:
        value: the outputs, `(m, *out)`, or `(n_times, m, *out)` for several times.
        error: for each time a bound on the root-mean-square error of `value`, over
            examples and outputs, in units of the outputs: what the dynamics answers
            less what the kernel's whole eigenbasis would. The precision that products
            are rounded in counts, as far as it was seen; that of `value` itself does
            not.
    """

    value: Float[Array, "..."]
    error: Float[Array, "..."]
