"""Gradient flow on a squared loss: training in continuous time."""

from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from .._decay import AbstractDecay, curve_of_slopes
from .arguments import moments
from .problem import Problem
from .state import State


class GradientFlow(eqx.Module):
    r"""Outputs of a linearised network that is trained by gradient flow.

    On the loss $L = (c/2) \sum (f - y)^2 + (\text{ridge}/2) |\theta - \theta_0|^2$,

    $$F_{*t} = F_{*0} - K_{*t} A^{-1} [I - e^{-c t A}] (F_0 - Y), \quad
    A = K_{tt} + (\text{ridge}/c) I.$$

    The eigenbasis of the kernel is computed once and asked at any times. Concrete
    arrays are worked on in float64 on the host, whatever their dtype; under `jit`,
    `vmap` or `grad` in their own precision. The result has the arrays' common dtype.
    Predictions have first derivatives by every array and number, also where eigenvalues
    repeat, if the object is created inside the function that is differentiated.

    Times are learning rate times steps. Infinity is the end of training, where null
    modes of the kernel are left as they started: the pseudo-inverse.

    Source: Lee et al., arXiv:1902.06720, section 2.2.
    """

    problem: Problem

    def __init__(
        self,
        k_train_train: Any,
        y_train: Any,
        *,
        c: Any = 1.0,
        ridge: Any = 0.0,
        ridge_relative: Any = 0.0,
    ):
        """Decompose the kernel.

        Args:
            k_train_train: `(n, n)`, one averaged kernel for each output (`nt.ntk`), or
                `(n, n, *out, *out)`, with outputs coupled (`nt.ntk_full`), which is
                exact. Symmetric and positive semi-definite up to rounding.
            y_train: the targets, `(n, *out)`.
            c: the loss is (c/2) * sum (f - y)^2; `nt.loss_scale` gives it by name.
            ridge: the penalty ridge/2 * |theta - theta_0|^2 beside it.
            ridge_relative: instead of `ridge`, ridge / c as a multiple of the mean
                diagonal of the kernel.

        Raises:
            ValueError: for shapes that do not match, NaN or infinity, a negative
                ridge, `c <= 0`, or a kernel that is not positive semi-definite.

        Cost: one eigendecomposition, of order n^3, or (n*out)^3 with outputs coupled.
        """
        self.problem = Problem(k_train_train, y_train, c, ridge, ridge_relative)

    def train(self, t: Any, f0_train: Any) -> Float[Array, "..."]:
        """Outputs on the training inputs.

        Args:
            t: a time of at least 0, or several; `jnp.inf` is the end of training.
            f0_train: outputs at initialisation, `(n, *out)`: the network's own, or
                zeros for the mean over infinitely wide networks. Or a `State`.

        Returns:
            `(n, *out)`, or `(n_times, n, *out)` for several times.

        Raises:
            ValueError: for a negative time, a wrong shape, NaN or infinity.
        """
        return self.problem.train(flow_filters, flow_times(t), f0_train)

    def test(
        self, t: Any, k_test_train: Any, f0_train: Any, f0_test: Any
    ) -> Float[Array, "..."]:
        """Outputs on test inputs.

        Args:
            t: a time of at least 0, or several; `jnp.inf` is the end of training.
            k_test_train: `(m, n)` or `(m, n, *out, *out)`, as `k_train_train`.
            f0_train: outputs at initialisation on the training inputs, `(n, *out)`, or
                a `State`.
            f0_test: outputs on the test inputs at the same time, `(m, *out)`.

        Returns:
            `(m, *out)`, or `(n_times, m, *out)` for several times.

        Raises:
            ValueError: for a negative time, a wrong shape, NaN or infinity.
        """
        return self.problem.test(
            flow_filters, flow_times(t), k_test_train, f0_train, f0_test
        )

    def state(self, t: Any, f0_train: Any) -> State:
        """Where training stands, for any dynamics to carry on from.

        Args:
            t: one time of at least 0; `jnp.inf` is the end of training.
            f0_train: outputs at initialisation, `(n, *out)`, or a `State`.

        Raises:
            ValueError: as `train`, and for several times.
        """
        at_rest = lambda time, c: ()
        return self.problem.state(flow_filters, at_rest, flow_times(t), f0_train)


class _Flow(AbstractDecay):
    """E = exp(-scaled_time * lambda)."""

    scaled_time: Any
    ended: Any

    @classmethod
    def at(cls, time: Any, c: Any) -> "_Flow":
        xp = time.__array_namespace__()
        ended = xp.isinf(time)
        return cls(scaled_time=c * xp.where(ended, 0, time), ended=ended)

    @property
    def duration(self) -> Any:
        return self.scaled_time

    def slope(self, larger: Any, smaller: Any) -> Any:
        xp = larger.__array_namespace__()
        gap = larger - smaller
        apart = xp.where(gap > 0, gap, 1)
        lost = -xp.expm1(-self.scaled_time * apart) / apart
        lost = xp.where(gap > 0, lost, self.scaled_time)
        return xp.exp(-self.scaled_time * smaller) * lost

    def curve(self, larger: Any, smaller: Any) -> Any:
        return curve_of_slopes(self, larger, smaller, inverse_steps=0.0)


def flow_filters(time: Any, c: Any) -> tuple[_Flow]:
    """What flow makes of a residual in some time."""
    return (_Flow.at(time, c),)


def flow_times(t: Any) -> Any:
    """The times, checked."""
    return moments("t", t, "a time of at least 0", lambda t: t >= 0)
