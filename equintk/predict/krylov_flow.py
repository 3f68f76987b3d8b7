"""Gradient flow on a squared loss, of a kernel too large for its eigenbasis."""

import math
from typing import Any

import equinox as eqx

from .._types import Number, Progress
from .approximation import Approximation
from .flow import flow_filters, flow_times
from .krylov_problem import KrylovProblem
from .residual_bound import Pace
from .state import State


class KrylovFlow(eqx.Module):
    r"""What `GradientFlow` says, from products with the kernel, with an error bound.

    Of what is to be learnt, $B = F_0 - Y$, one space of $B, K B, K^2 B, \ldots$ is
    grown until predictions at all times are as good as `tolerance` asks; then any
    number of times cost little more than one. Where memory ends before, the end of
    training with a ridge is solved for by conjugate gradients, which the space
    preconditions (Nystrom). Each answer carries a bound on its error. Works in float64
    on the host, whatever the dtype of the arrays, and is refused under `jit`, `vmap`
    and `grad`.

    Times are learning rate times steps; conventions are those of `GradientFlow`.

    Source: Hochbruck and Lubich, SIAM J. Numer. Anal. 34 (1997); the error is bounded
    in `residual_bound.py`.
    """

    problem: KrylovProblem

    def __init__(
        self,
        k_train_train: Any,
        y_train: Any,
        f0_train: Any,
        *,
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
            k_train_train: an array as in `GradientFlow`, `(n, n)` or `(n, n, *out,
                *out)`, of NumPy or JAX; or a symmetric lineax operator on arrays `(n,
                *out)`, coupled, such as `nt.NTKOperator(model, x)`, or on `(n,)`,
                alike for each output.
            y_train: the targets, `(n, *out)`.
            f0_train: outputs at initialisation, `(n, *out)`, or a `State`.
            c: the loss is (c/2) * sum (f - y)^2.
            ridge: the penalty ridge/2 * |theta - theta_0|^2 beside it.
            ridge_relative: instead of `ridge`, for arrays: ridge / c as a multiple of
                the mean diagonal of the kernel.
            latest: the last time that will be asked for. The end of training, the
                default, takes long to reach without a ridge.
            tolerance: of the root-mean-square error, relative to the root mean square
                of `f0_train - y_train`. What the precision of products adds, where it
                is that of an operator, is counted in errors beyond it.
            max_bytes: how much memory all this may take, beside the kernel. Where that
                ends before `tolerance` is reached, the errors of answers at finite
                times say so, and a warning.
            progress: `True` for lines on stderr, or a function of how many vectors (of
                a solve: products) there are and how many are expected.

        Raises:
            ValueError: as `GradientFlow`, for an operator that is not symmetric, or a
                `max_bytes` that holds no space.

        Cost: of the order of one product with the kernel for each decade between
        largest eigenvalue and ridge, and digit of the tolerance; holds some hundred
        vectors of the size of the targets.
        """
        self.problem = KrylovProblem(
            k_train_train,
            y_train,
            f0_train,
            pace=_pace,
            latest=float(flow_times(latest)),
            c=c,
            ridge=ridge,
            ridge_relative=ridge_relative,
            tolerance=tolerance,
            max_bytes=max_bytes,
            progress=progress,
        )

    def train(self, t: Any) -> Approximation:
        """Outputs on the training inputs.

        Args:
            t: a time of at least 0, or several; `jnp.inf` is the end of training.

        Returns:
            `.value`, `(n, *out)` or `(n_times, n, *out)`, and its `.error`.

        Raises:
            ValueError: for a negative time.
        """
        return self.problem.train(_pace(self.problem.c), flow_times(t))

    def test(self, t: Any, k_test_train: Any, f0_test: Any) -> Approximation:
        """Outputs on test inputs.

        Args:
            t: a time of at least 0, or several; `jnp.inf` is the end of training.
            k_test_train: of the same kind as `k_train_train`: an array `(m, n)` or
                `(m, n, *out, *out)`, or a lineax operator to `(m, *out)` or `(m,)`,
                such as `nt.NTKOperator(model, x_test, x_train)`.
            f0_test: outputs on the test inputs at the start, `(m, *out)`.

        Returns:
            `.value`, `(m, *out)` or `(n_times, m, *out)`, and its `.error`. It takes
            the mean of K(x, x) over the test inputs to be what it is over the training
            inputs.

        Raises:
            ValueError: for a negative time, a wrong shape, NaN or infinity.
        """
        pace = _pace(self.problem.c)
        return self.problem.test(pace, flow_times(t), k_test_train, f0_test)

    def state(self, t: Any) -> State:
        """Where training stands, for any dynamics to carry on from.

        Args:
            t: one time of at least 0; `jnp.inf` is the end of training.

        Raises:
            ValueError: for a negative time, or several.
        """
        return self.problem.state(_pace(self.problem.c), flow_times(t))


def _pace(c: float) -> Pace:
    return Pace(lambda time: flow_filters(time, c)[0], unit=c, in_steps=False)
