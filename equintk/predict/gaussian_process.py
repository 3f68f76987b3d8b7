"""Gaussian process regression: the posterior of a kernel, and the evidence for it."""

import math
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float

from . import arguments
from .covariance import covariance_kernel, gaussian
from .flow import flow_filters
from .gaussian import Gaussian
from .problem import Problem, times_matrix

END = np.asarray(np.inf)


class GaussianProcess(eqx.Module):
    r"""Functions drawn with a kernel as covariance, seen with noise at training inputs.

    With $A = K_{tt} + (\text{ridge}/c) I$, so that ridge / c is the variance of the
    noise,

    $$\text{mean} = K_{*t} A^{-1} Y, \quad
    \text{covariance} = K_{**} - K_{*t} A^{-1} K_{t*}.$$

    With the NNGP it is the posterior of infinitely wide Bayesian networks; with the NTK
    a process whose mean is where the ensemble ends, though not its covariance: that is
    `Ensemble`. Without noise null modes of the kernel are left out.

    Source: Rasmussen and Williams, Gaussian Processes for Machine Learning (2006),
    equations 2.22 to 2.30.
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
            k_train_train: `(n, n)`, the same for each output, or `(n, n, *out, *out)`.
                Symmetric and positive semi-definite up to rounding.
            y_train: the targets, `(n, *out)`; their mean is taken for zero.
            c: divides the ridge, as in `GradientFlow`.
            ridge: the variance of the noise, times c.
            ridge_relative: instead of `ridge`, the variance of the noise as a multiple
                of the mean diagonal of the kernel.

        Raises:
            ValueError: as `GradientFlow`.

        Cost: one eigendecomposition, of order n^3, or (n*out)^3 with outputs coupled.
        """
        self.problem = Problem(k_train_train, y_train, c, ridge, ridge_relative)

    def train(self) -> Gaussian:
        """The posterior of the outputs, without noise, at the training inputs."""
        problem = self.problem
        zeros = np.zeros(problem.y_train.shape, problem.y_train.dtype)
        mean = problem.train(flow_filters, END, zeros)
        cast, _ = problem.precision(flow_filters, END)
        size = problem.basis.eigenvectors.shape[0]
        identity = cast(np.eye(size))
        (solve,) = flow_filters(cast(END), cast(problem.c))
        # K - K A^-1 K is shift K A^-1, without the rounding of the difference.
        fitted = problem.basis.fitted(solve, identity)
        covariance = cast(problem.shift) * fitted
        prior = cast(np.ones(1)) * cast(problem.basis.largest)
        return gaussian(problem, mean, covariance, prior, over_times=False)

    def test(self, k_test_train: Any, k_test_test: Any) -> Gaussian:
        """The posterior of the outputs, without noise, at test inputs, jointly.

        Args:
            k_test_train: `(m, n)` or `(m, n, *out, *out)`, as `k_train_train`.
            k_test_test: `(m, m)` or `(m, m, *out, *out)`.

        Raises:
            ValueError: for shapes that do not match, NaN or infinity, or kernels that
                do not belong together.
        """
        problem = self.problem
        n, *out = problem.y_train.shape
        kernel = arguments.test_kernel(k_test_train, (n, *out), problem.coupled)
        m = len(kernel)
        within = covariance_kernel("k_test_test", k_test_test, m, m, problem)
        zeros = [np.zeros((k, *out), problem.y_train.dtype) for k in (n, m)]
        mean = problem.test(flow_filters, END, kernel, *zeros)
        cast, dtype = problem.precision(flow_filters, END, kernel, within)
        kernel, within = cast(problem.flat(kernel)), cast(within)
        (solve,) = flow_filters(cast(END), cast(problem.c))
        known = times_matrix(kernel, problem.basis.coefficients(solve, kernel.T))
        return gaussian(
            problem, mean.astype(dtype), within - known, within.diagonal(), False
        )

    def log_marginal_likelihood(self) -> Float[Array, ""]:
        """The log density of the targets, in nats: what kernel parameters maximise.

        Differentiate what creates the process, and fit weight and bias variances and
        the ridge by gradient steps.

        Returns:
            The sum over outputs.

        Raises:
            ValueError: if the kernel with the noise is singular up to rounding.
        """
        problem = self.problem
        cast, dtype = problem.precision(flow_filters, END)
        y = cast(problem.y_train)
        y = y.reshape((-1, 1) if problem.coupled else (len(y), -1))
        (solve,) = flow_filters(cast(END), cast(problem.c))
        misfit = (y * problem.basis.coefficients(solve, y)).sum()
        volume = y.shape[1] * cast(problem.basis.log_determinant())
        density = -(misfit + volume + y.size * math.log(2 * math.pi)) / 2
        return arguments.in_range(density, dtype)
