r"""What training does at one eigenvalue of a kernel, and its divided differences.

All dynamics of a squared loss are one expression. With $A = K + \text{shift}\, I$ and
the decay $E$ of a residual along an eigenvector, $E(0) = 1$,

$$w(\lambda) = \frac{1 - E(\lambda)}{\lambda}, \qquad
F_{*s} = F_{*0} - K_{*t}\, w(A)\, (F_0 - Y).$$

$w$ is minus the divided difference $E[\lambda, 0]$, and the derivative of $w(A)$ needs
$w[\lambda, \mu] = -E[\lambda, \mu, 0]$. So a dynamic only has to say how its decay
differs between eigenvalues, without cancellation: `AbstractDecay.slope` and `.curve`.
"""

import abc
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp


class AbstractFilter(eqx.Module):
    """A function g of an eigenvalue, which `Eigenbasis` applies to a kernel.

    A function of NumPy or of JAX numbers, whichever its eigenvalues are. Derivatives
    with respect to the fields are taken through `value`, those with respect to the
    eigenvalues never are.

    Attributes:
        ended: whether this is the end of training.
    """

    ended: eqx.AbstractVar[Any]

    @property
    @abc.abstractmethod
    def duration(self) -> Any:
        """How long training took: c times flow time. Any finite number at the end."""

    @abc.abstractmethod
    def value(self, eigenvalues: Any) -> Any:
        """The function itself."""

    @abc.abstractmethod
    def difference(self, larger: Any, smaller: Any) -> Any:
        """(g(larger) - g(smaller)) / (larger - smaller), and g' where they are equal.

        At the end of training both are above 0.
        """

    @abc.abstractmethod
    def product_difference(self, larger: Any, smaller: Any, shift: Any) -> Any:
        """The same of (eigenvalue - shift) g."""


class AbstractDecay(AbstractFilter):
    """What is left of a residual after some training, E(lambda), with E(0) = 1.

    As a filter it is w = (1 - E) / lambda. At the end of training only E(0) is left.
    """

    @abc.abstractmethod
    def slope(self, larger: Any, smaller: Any) -> Any:
        """-E[larger, smaller]: (E(smaller) - E(larger)) / (larger - smaller), or -E'.

        Read only before the end of training.
        """

    @abc.abstractmethod
    def curve(self, larger: Any, smaller: Any) -> Any:
        """-E[larger, smaller, 0], read only before the end of training."""

    def value(self, eigenvalues: Any) -> Any:
        xp = eigenvalues.__array_namespace__()
        tiny = float(xp.finfo(eigenvalues.dtype).tiny)
        end = 1 / xp.maximum(eigenvalues, tiny)
        before = self.slope(eigenvalues, xp.zeros_like(eigenvalues))
        return xp.where(self.ended, end, before)

    def difference(self, larger: Any, smaller: Any) -> Any:
        xp = larger.__array_namespace__()
        end = -1 / larger / smaller
        return xp.where(self.ended, end, self.curve(larger, smaller))

    def product_difference(self, larger: Any, smaller: Any, shift: Any) -> Any:
        # lambda w = 1 - E, so this is a sum of two terms of one sign.
        xp = larger.__array_namespace__()
        slope = xp.where(self.ended, 0, self.slope(larger, smaller))
        return slope - shift * self.difference(larger, smaller)


def curve_of_slopes(
    decay: AbstractDecay, larger: Any, smaller: Any, inverse_steps: Any
) -> Any:
    """-E[larger, smaller, 0] for E = (1 - lambda duration / steps)^steps and its limit.

    Args:
        decay: the decay, of which this is the curve.
        larger: eigenvalues.
        smaller: eigenvalues that are not above them.
        inverse_steps: one over the number of steps, 0 in continuous time.
    """
    slope = decay.slope(larger, smaller)
    to_zero = decay.slope(smaller, jnp.zeros_like(smaller))
    # Early on the two slopes agree in all but their last digits, so E's Taylor series
    # at 0 takes over: four terms, wrong by x^4/72, where that is below rounding, eps/x.
    tau, h = decay.duration, inverse_steps
    radius = (72 * float(jnp.finfo(larger.dtype).eps)) ** 0.2
    early = tau * larger < radius
    quotient = (slope - to_zero) / jnp.where(early | (larger == 0), 1, larger)
    h1 = larger + smaller
    h2 = larger**2 + larger * smaller + smaller**2
    h3 = h1 * (larger**2 + smaller**2)
    r1, r2, r3, r4 = (tau * (1 - k * h) / (k + 1) for k in range(1, 5))
    series = -tau * r1 * (1 - r2 * (h1 - r3 * (h2 - r4 * h3)))
    return jnp.where(early, series, quotient)


def weights(
    filter: AbstractFilter, values: Any, shift: Any, floor: Any, times_kernel: bool
) -> Any:
    """g(lambda + shift), times lambda if the kernel multiplies the result."""
    xp = values.__array_namespace__()
    shifted = xp.maximum(values + shift, 0)
    dropped = is_dropped(filter, shifted, floor)
    weight = filter.value(xp.where(dropped, 1, shifted))
    return xp.where(dropped, 0, values * weight if times_kernel else weight)


@functools.partial(jax.jit, static_argnames="times_kernel")
def differences(
    filter: AbstractFilter, values: Any, shift: Any, floor: Any, *, times_kernel: bool
) -> Any:
    """Divided differences of `weights` between all pairs of eigenvalues."""
    shifted = jnp.maximum(values + shift, 0)
    dropped = is_dropped(filter, shifted, floor)
    kept = jnp.where(dropped, floor, shifted)
    larger = jnp.maximum(kept[:, None], kept[None, :])
    smaller = jnp.minimum(kept[:, None], kept[None, :])
    if times_kernel:
        found = filter.product_difference(larger, smaller, shift)
    else:
        found = filter.difference(larger, smaller)
    # A dropped mode counts as an eigenvalue of exactly 0, where the function is 0.
    weight = weights(filter, values, shift, floor, times_kernel)
    beside = (weight[:, None] + weight[None, :]) / larger
    one = dropped[:, None] | dropped[None, :]
    both = dropped[:, None] & dropped[None, :]
    return jnp.where(one, jnp.where(both, 0, beside), found)


def is_dropped(filter: AbstractFilter, shifted: Any, floor: Any) -> Any:
    """Null modes whose weight is unknown.

    An eigenvalue below the floor could be anything up to it. While duration * floor
    is below 1, w is about the duration whatever the eigenvalue is. Later w could be
    anything from 1/floor to the duration, and would multiply what may be only rounding
    noise in the test-train kernel: the mode is left unlearned, as in the
    pseudo-inverse, the end of training. A ridge above the floor lifts every mode over.
    """
    return (shifted <= floor) & (filter.ended | (filter.duration * floor > 1))
