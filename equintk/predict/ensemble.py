"""Infinitely many infinitely wide networks in training: their mean and covariance."""

from typing import Any

import equinox as eqx
import numpy as np

from .._linalg import require_semidefinite
from . import arguments
from .covariance import covariance_kernel, gaussian
from .descent import GradientDescent
from .flow import GradientFlow, flow_filters, flow_times
from .gaussian import Gaussian
from .problem import each, times_matrix


class Ensemble(eqx.Module):
    r"""The distribution over initialisations of the outputs of wide networks.

    At the start they are normal with the NNGP $\mathcal K$ as covariance; in training
    each moves by the same NTK, so that with $B = K_{*t}\, w(A)$ as in `GradientFlow`

    $$\text{mean} = B Y, \quad \text{covariance} = \mathcal K_{**} - B \mathcal K_{t*}
    - \mathcal K_{*t} B^\top + B \mathcal K_{tt} B^\top.$$

    With the NNGP in place of the NTK only the last layer is trained, which ends at the
    posterior of `GaussianProcess` with the NNGP.

    Source: Lee et al., arXiv:1902.06720, section 2.3.
    """

    dynamics: GradientFlow | GradientDescent
    nngp_train_train: Any

    def __init__(
        self,
        k_train_train: Any,
        y_train: Any,
        *,
        nngp_train_train: Any,
        learning_rate: Any = None,
        momentum: Any = 0.0,
        c: Any = 1.0,
        ridge: Any = 0.0,
        ridge_relative: Any = 0.0,
    ):
        """Decompose the kernel.

        Args:
            k_train_train: the NTK, as in `GradientFlow`.
            y_train: the targets, `(n, *out)`.
            nngp_train_train: the covariance of the outputs at the start, `(n, n)` or,
                if `k_train_train` is coupled, also `(n, n, *out, *out)`.
            learning_rate: `None` for gradient flow; a number for gradient descent, of
                which all times are then numbers of steps.
            momentum: of gradient descent.
            c: the loss is (c/2) * sum (f - y)^2; `nt.loss_scale` gives it by name.
            ridge: the penalty ridge/2 * |theta - theta_0|^2 beside it.
            ridge_relative: instead of `ridge`, ridge / c as a multiple of the mean
                diagonal of the kernel.

        Raises:
            ValueError: as `GradientFlow` and `GradientDescent`, for either kernel, and
                for a momentum without a learning rate.
        """
        given = {"c": c, "ridge": ridge, "ridge_relative": ridge_relative}
        if learning_rate is None:
            if isinstance(momentum, int | float) and momentum != 0:
                raise ValueError(
                    f"`momentum` is {momentum:g}, but without a `learning_rate` this "
                    "is gradient flow, which has none. Type a `learning_rate`."
                )
            self.dynamics = GradientFlow(k_train_train, y_train, **given)
        else:
            self.dynamics = GradientDescent(
                k_train_train,
                y_train,
                learning_rate=learning_rate,
                momentum=momentum,
                **given,
            )
        problem = self.dynamics.problem
        n = len(problem.y_train)
        self.nngp_train_train = covariance_kernel(
            "nngp_train_train", nngp_train_train, n, n, problem
        )
        require_semidefinite(self.nngp_train_train)

    def train(self, t: Any) -> Gaussian:
        """Outputs on the training inputs.

        Args:
            t: a time of at least 0, or several; `jnp.inf` is the end of training. With
                a learning rate numbers of steps.

        Raises:
            ValueError: as `GradientFlow.train` and `GradientDescent.train`.
        """
        problem = self.dynamics.problem
        times, filters_at = self._when(t)
        zeros = np.zeros(problem.y_train.shape, problem.y_train.dtype)
        mean = problem.train(filters_at, times, zeros)
        cast, _ = problem.precision(filters_at, times, self.nngp_train_train)
        nngp = cast(self.nngp_train_train)
        identity = cast(np.eye(len(nngp)))

        def covariance(time: Any) -> Any:
            decay = filters_at(time, cast(problem.c))[0]
            left = identity - problem.basis.fitted(decay, identity)
            return times_matrix(times_matrix(left, nngp), left.T)

        spread = each(covariance, cast(times))
        prior = nngp.diagonal()
        return gaussian(problem, mean, spread, prior, bool(times.ndim))

    def test(
        self, t: Any, k_test_train: Any, nngp_test_train: Any, nngp_test_test: Any
    ) -> Gaussian:
        """Outputs on test inputs, jointly.

        Args:
            t: as in `train`.
            k_test_train: the NTK, `(m, n)` or `(m, n, *out, *out)`.
            nngp_test_train: the NNGP, of the same kind as `nngp_train_train`.
            nngp_test_test: the same between the test inputs.

        Raises:
            ValueError: as `train`, and if the kernels do not belong together: a
                variance would be negative beyond rounding.

        Cost: for each time of order m n^2 and m^2 n. For the mean alone ask
        `GradientFlow` or `GradientDescent` with outputs of zeros at the start.
        """
        problem = self.dynamics.problem
        times, filters_at = self._when(t)
        n, *out = problem.y_train.shape
        zeros = np.zeros(problem.y_train.shape, problem.y_train.dtype)
        kernel = arguments.test_kernel(k_test_train, (n, *out), problem.coupled)
        m = len(kernel)
        f0_test = np.zeros((m, *out), problem.y_train.dtype)
        crossed = covariance_kernel("nngp_test_train", nngp_test_train, m, n, problem)
        within = covariance_kernel("nngp_test_test", nngp_test_test, m, m, problem)
        mean = problem.test(filters_at, times, kernel, zeros, f0_test)
        arrays = (kernel, crossed, within, self.nngp_train_train)
        cast, dtype = problem.precision(filters_at, times, *arrays)
        crossed, within, nngp = (cast(a) for a in arrays[1:])
        kernel = cast(problem.flat(kernel))

        def covariance(time: Any) -> Any:
            decay = filters_at(time, cast(problem.c))[0]
            taken = problem.basis.coefficients(decay, kernel.T).T
            shared = times_matrix(taken, crossed.T)
            spread = times_matrix(times_matrix(taken, nngp), taken.T)
            return within - shared - shared.T + spread

        spread = each(covariance, cast(times))
        mean = mean.astype(dtype)
        return gaussian(problem, mean, spread, within.diagonal(), bool(times.ndim))

    def _when(self, t: Any) -> Any:
        if isinstance(self.dynamics, GradientFlow):
            return flow_times(t), flow_filters
        return self.dynamics.steps(t), self.dynamics.filters
