"""Full-batch gradient descent on a squared loss: training in steps."""

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import _checks
from .._decay import AbstractDecay, AbstractFilter, curve_of_slopes
from .._linalg import rounding
from .arguments import moments, number
from .heavy_ball import MOST_STEPS, RESIDUAL, VELOCITY, WAY, HeavyBall, Response
from .problem import Problem
from .state import State


class GradientDescent(eqx.Module):
    r"""Outputs of a linearised network after steps of full-batch gradient descent.

    On the loss $L = (c/2) \sum (f - y)^2 + (\text{ridge}/2) |\theta - \theta_0|^2$,

    $$F_{*s} = F_{*0} - K_{*t} A^{-1} [I - (I - \text{lr}\, c A)^s] (F_0 - Y), \quad
    A = K_{tt} + (\text{ridge}/c) I.$$

    With momentum, in the convention of optax, the power becomes that of a recursion of
    two steps. All else is as in `GradientFlow`. At half the largest stable learning
    rate the two differ by about a third after one step, and agree from some twenty
    steps on.

    Source: Lee et al., arXiv:1902.06720, section 2.2, in discrete time.
    """

    problem: Problem
    learning_rate: Any
    momentum: Any

    def __init__(
        self,
        k_train_train: Any,
        y_train: Any,
        *,
        learning_rate: Any,
        momentum: Any = 0.0,
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
            learning_rate: of gradient descent on the loss. It is stable below
                2 (1 + momentum) / (c * largest eigenvalue + ridge); beyond, a warning
                says so.
            momentum: of heavy ball, in [0, 1), as in `optax.sgd`: the velocity is
                momentum * velocity + gradient, a step learning_rate * velocity.
            c: the loss is (c/2) * sum (f - y)^2; `nt.loss_scale` gives it by name.
            ridge: the penalty ridge/2 * |theta - theta_0|^2 beside it.
            ridge_relative: instead of `ridge`, ridge / c as a multiple of the mean
                diagonal of the kernel.

        Raises:
            ValueError: for shapes that do not match, NaN or infinity, a negative
                ridge, `c <= 0`, `learning_rate <= 0`, a momentum outside [0, 1), or a
                kernel that is not positive semi-definite.

        Cost: one eigendecomposition, of order n^3, or (n*out)^3 with outputs coupled.
        """
        self.learning_rate = number(_checks.positive("learning_rate", learning_rate))
        self.momentum = number(_checks.fraction("momentum", momentum))
        self.problem = Problem(k_train_train, y_train, c, ridge, ridge_relative)
        if not _checks.is_traced(self):
            basis = self.problem.basis
            slack = rounding(len(basis.eigenvalues), basis.dtype)
            if self._speed() > (1 + slack) * self._limit():
                _checks.warn(
                    f"`learning_rate` is {self.learning_rate:.6g}, beyond the largest "
                    f"stable one, {self._bound():.6g}: predictions diverge with the "
                    "number of steps. Type a smaller one, such as half of it.",
                )

    def train(self, steps: Any, f0_train: Any) -> Float[Array, "..."]:
        """Outputs on the training inputs.

        Args:
            steps: a number of steps, or several; `jnp.inf` is the end of training.
            f0_train: outputs at initialisation, `(n, *out)`: the network's own, or
                zeros for the mean over infinitely wide networks. Or a `State`.

        Returns:
            `(n, *out)`, or `(n_times, n, *out)` for several times. Where training
            diverges, it stops growing at about 1e19 times the start; with momentum only
            where its square would leave the range of the precision worked in.

        Raises:
            ValueError: for a negative or fractional number of steps, a wrong shape,
                NaN or infinity, or the end of training at an unstable learning rate.
        """
        return self.problem.train(self.filters, self.steps(steps), f0_train)

    def test(
        self, steps: Any, k_test_train: Any, f0_train: Any, f0_test: Any
    ) -> Float[Array, "..."]:
        """Outputs on test inputs.

        Args:
            steps: a number of steps, or several; `jnp.inf` is the end of training.
            k_test_train: `(m, n)` or `(m, n, *out, *out)`, as `k_train_train`.
            f0_train: outputs at initialisation on the training inputs, `(n, *out)`, or
                a `State`.
            f0_test: outputs on the test inputs at the same time, `(m, *out)`.

        Returns:
            `(m, *out)`, or `(n_times, m, *out)` for several times.

        Raises:
            ValueError: as `train`.
        """
        steps = self.steps(steps)
        return self.problem.test(self.filters, steps, k_test_train, f0_train, f0_test)

    def state(self, steps: Any, f0_train: Any) -> State:
        """Where training stands, for any dynamics to carry on from.

        Args:
            steps: one number of steps; `jnp.inf` is the end of training.
            f0_train: outputs at initialisation, `(n, *out)`, or a `State`.

        Raises:
            ValueError: as `train`, and for several numbers of steps.
        """
        return self.problem.state(
            self.filters, self._velocity_filters, self.steps(steps), f0_train
        )

    def steps(self, steps: Any) -> Any:
        """The numbers of steps, checked."""
        steps = whole_steps(steps)
        if self._has_momentum:
            steps = _countable(steps)
        if not (_checks.is_traced(steps) or np.isinf(steps).any()):
            return steps
        if _checks.is_traced(self, steps):
            steps = jnp.asarray(steps)
            return eqx.error_if(
                steps,
                jnp.any(jnp.isinf(steps)) & (self._speed() >= self._limit()),
                "At this learning rate training has no end: it does not converge.",
            )
        if self._speed() >= self._limit():
            raise ValueError(
                f"`steps` is infinite, but at `learning_rate` {self.learning_rate:.6g} "
                f"training has no end: only below {self._bound():.6g} does it converge."
            )
        return steps

    def _speed(self) -> Any:
        """Learning rate times the largest curvature; stable below 2."""
        largest, c = self.problem.basis.largest, self.problem.c
        if not _checks.is_traced(self):
            return self.learning_rate * c * largest
        largest = jnp.asarray(largest)
        rate, c = (jnp.asarray(a, largest.dtype) for a in (self.learning_rate, c))
        return rate * c * largest

    def _limit(self) -> Any:
        """The largest stable speed."""
        return 2 * (1 + self.momentum)

    def _bound(self) -> float:
        return self._limit() * self.learning_rate / self._speed()

    @property
    def _has_momentum(self) -> bool:
        return _checks.is_traced(self.momentum) or self.momentum != 0

    def filters(self, steps: Any, c: Any) -> tuple[AbstractFilter, ...]:
        """What so many steps make of a residual and, with momentum, a velocity."""
        if self._has_momentum:
            decay = self._heavy_ball(steps, c)
            return decay, Response(
                decay, self._like(steps, self.learning_rate), WAY, VELOCITY
            )
        return descent_filters(steps, self._like(steps, self.learning_rate) * c)

    def _velocity_filters(self, steps: Any, c: Any) -> tuple[AbstractFilter, ...]:
        if not self._has_momentum:
            return ()
        decay = self._heavy_ball(steps, c)
        one = self._like(steps, 1.0)
        return (
            Response(decay=decay, scale=c, row=VELOCITY, column=RESIDUAL),
            Response(decay=decay, scale=one, row=VELOCITY, column=VELOCITY),
        )

    def _heavy_ball(self, steps: Any, c: Any) -> HeavyBall:
        xp = steps.__array_namespace__()
        ended = xp.isinf(steps)
        return HeavyBall(
            rate=self._like(steps, self.learning_rate) * c,
            momentum=self._like(steps, self.momentum),
            steps=xp.where(ended, 0, steps),
            ended=ended,
        )

    def _like(self, steps: Any, value: Any) -> Any:
        return steps.__array_namespace__().asarray(value, dtype=steps.dtype)


def descent_filters(steps: Any, rate: Any) -> tuple[AbstractFilter]:
    """What steps of a rate, c * learning_rate, make of a residual."""
    return (_Descent.at(steps, rate),)


def whole_steps(steps: Any) -> Any:
    """Numbers of steps, checked."""
    whole = lambda s: s == s.__array_namespace__().floor(s)
    return moments("steps", steps, "a whole number of at least 0", whole)


def _countable(steps: Any) -> Any:
    """Numbers of steps whose binary digits can be gone through."""
    text = f"`steps` must be at most {MOST_STEPS:.0e} with momentum, or infinity"
    too_many = (steps > MOST_STEPS) & (steps < np.inf)
    if _checks.is_traced(steps):
        return eqx.error_if(steps, jnp.any(too_many), text + ".")
    if too_many.any():
        raise ValueError(
            f"{text}, but it holds {steps[too_many].flat[0]:g}. Type `jnp.inf` for the "
            "end of training."
        )
    return steps


class _Descent(AbstractDecay):
    """E = (1 - rate * lambda)^steps."""

    rate: Any
    steps: Any
    ended: Any

    @classmethod
    def at(cls, steps: Any, rate: Any) -> "_Descent":
        xp = steps.__array_namespace__()
        ended = xp.isinf(steps)
        return cls(rate=rate, steps=xp.where(ended, 0, steps), ended=ended)

    @property
    def duration(self) -> Any:
        return self.rate * self.steps

    def slope(self, larger: Any, smaller: Any) -> Any:
        xp = larger.__array_namespace__()
        before, after = 1 - self.rate * smaller, 1 - self.rate * larger
        gap = larger - smaller
        apart = xp.where(gap > 0, gap, 1)
        # An odd power of a negative number is negative: past the learning rate that
        # learns a mode in one step, its residual changes sign at each step.
        odd = xp.mod(self.steps, 2)
        # Of one sign: |big|^s - |small|^s through their ratio, without cancellation.
        big = xp.maximum(xp.abs(before), xp.abs(after))
        eps = float(xp.finfo(larger.dtype).eps)
        ratio = xp.minimum(self.rate * gap / xp.where(big > 0, big, 1), 1 - eps)
        lost = -xp.expm1(self.steps * xp.log1p(-ratio)) / apart
        lost = _power(big, self.steps) * lost
        equal = self.rate * self.steps * _power(big, xp.maximum(self.steps - 1, 0))
        sign = xp.where(after < 0, 2 * odd - 1, 1)
        alike = sign * xp.where(gap > 0, lost, equal)
        # Of two signs: nothing to cancel in the difference of the eigenvalues.
        residual = _power(xp.abs(after), self.steps) * (1 - 2 * odd)
        unlike = (_power(xp.abs(before), self.steps) - residual) / apart
        return xp.where((gap > 0) & (before * after <= 0), unlike, alike)

    def curve(self, larger: Any, smaller: Any) -> Any:
        inverse_steps = 1 / jnp.maximum(self.steps, 1)
        return curve_of_slopes(self, larger, smaller, inverse_steps)


def _power(base: Any, exponent: Any) -> Any:
    """base^exponent for numbers of at least 0, without overflow or NaN.

    It stops at the root of the largest float32, which the result may have to fit.
    """
    xp = base.__array_namespace__()
    largest = math.log(float(jnp.finfo(jnp.float32).max)) / 2
    logarithm = exponent * xp.log(xp.where(base > 0, base, 1))
    power = xp.exp(xp.minimum(logarithm, largest))
    return xp.where(base > 0, power, xp.where(exponent == 0, 1, 0))
