"""Gradient descent on a squared loss, of a kernel too large for its eigenbasis."""

import math
from typing import Any

import equinox as eqx
import numpy as np

from .. import _checks
from .._types import Number, Progress
from .approximation import Approximation
from .arguments import number
from .descent import descent_filters, whole_steps
from .krylov_problem import KrylovProblem
from .residual_bound import Pace
from .state import State


class KrylovDescent(eqx.Module):
    """What `GradientDescent` says, from products with the kernel, with an error bound.

    All else is as in `KrylovFlow`, with steps instead of times.
    """

    problem: KrylovProblem
    learning_rate: float

    def __init__(
        self,
        k_train_train: Any,
        y_train: Any,
        f0_train: Any,
        *,
        learning_rate: Number,
        momentum: Number = 0.0,
        c: Number = 1.0,
        ridge: Number = 0.0,
        ridge_relative: Number = 0.0,
        latest: Number = math.inf,
        tolerance: Number = 1e-6,
        max_bytes: Number = 2e9,
        progress: Progress = False,
    ):
        """Grow the space.

        Args:
            k_train_train: as in `KrylovFlow`, like all that is not said here.
            y_train: the targets, `(n, *out)`.
            f0_train: outputs at initialisation, `(n, *out)`, or a `State`.
            learning_rate: of gradient descent on the loss. It is stable below 2 / (c *
                largest eigenvalue + ridge); beyond, a warning says so.
            momentum: 0. What is left over of a space, and hence the error, is bounded
                for plain descent alone.
            c: the loss is (c/2) * sum (f - y)^2.
            ridge: the penalty ridge/2 * |theta - theta_0|^2 beside it.
            ridge_relative: the same in units of the mean diagonal of the kernel.
            latest: the last number of steps that will be asked for.
            tolerance: of the relative error.
            max_bytes: how much memory the space may take.
            progress: whether and how to report it.

        Raises:
            ValueError: as `KrylovFlow`, for `learning_rate <= 0`, and with momentum.
        """
        self.learning_rate = number(_checks.positive("learning_rate", learning_rate))
        if _checks.is_traced(momentum) or momentum != 0:
            raise ValueError(
                f"`momentum` is {momentum}, but errors of a Krylov space are bounded "
                "without momentum only: type 0. With momentum type `GradientDescent`, "
                "which needs the eigenbasis, or `FunctionSpaceDescent`, which takes "
                "the steps one by one with products alone."
            )
        self.problem = KrylovProblem(
            k_train_train,
            y_train,
            f0_train,
            pace=self._pace,
            latest=float(whole_steps(latest)),
            c=c,
            ridge=ridge,
            ridge_relative=ridge_relative,
            tolerance=tolerance,
            max_bytes=max_bytes,
            progress=progress,
        )
        if self.learning_rate > self._bound():
            _checks.warn(
                f"`learning_rate` is {self.learning_rate:.6g}, beyond the largest "
                f"stable one, {self._bound():.6g}: predictions diverge with the number "
                "of steps. Type a smaller one, such as half of it.",
            )

    def train(self, steps: Any) -> Approximation:
        """Outputs on the training inputs.

        Args:
            steps: a number of steps, or several; `jnp.inf` is the end of training.

        Returns:
            `.value`, `(n, *out)` or `(n_times, n, *out)`, and its `.error`.

        Raises:
            ValueError: for a negative or fractional number of steps, or the end of
                training at an unstable learning rate.
        """
        return self.problem.train(self._pace(self.problem.c), self._steps(steps))

    def test(self, steps: Any, k_test_train: Any, f0_test: Any) -> Approximation:
        """Outputs on test inputs.

        Args:
            steps: a number of steps, or several; `jnp.inf` is the end of training.
            k_test_train: as in `KrylovFlow.test`.
            f0_test: outputs on the test inputs at the start, `(m, *out)`.

        Returns:
            `.value`, `(m, *out)` or `(n_times, m, *out)`, and its `.error`.

        Raises:
            ValueError: as `train`, for a wrong shape, NaN or infinity.
        """
        pace, steps = self._pace(self.problem.c), self._steps(steps)
        return self.problem.test(pace, steps, k_test_train, f0_test)

    def state(self, steps: Any) -> State:
        """Where training stands, for any dynamics to carry on from.

        Args:
            steps: one number of steps; `jnp.inf` is the end of training.

        Raises:
            ValueError: as `train`, and for several numbers of steps.
        """
        return self.problem.state(self._pace(self.problem.c), self._steps(steps))

    def _pace(self, c: float) -> Pace:
        rate = c * self.learning_rate
        return Pace(
            lambda steps: descent_filters(steps, rate)[0], unit=rate, in_steps=True
        )

    def _bound(self) -> float:
        """The largest stable learning rate, as far as the space knows."""
        spectrum, c = self.problem.spectrum, self.problem.c
        curvature = c * (spectrum.largest + spectrum.shift)
        return 2 / curvature if curvature else math.inf

    def _steps(self, steps: Any) -> Any:
        steps = whole_steps(steps)
        if np.isinf(steps).any() and self.learning_rate >= self._bound():
            raise ValueError(
                f"`steps` is infinite, but at `learning_rate` {self.learning_rate:.6g} "
                f"training has no end: only below {self._bound():.6g} does it converge."
            )
        return steps
