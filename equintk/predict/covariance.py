"""Covariances of outputs: their kernels checked, and brought back to their axes."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .. import _checks
from .._linalg import flatten_kernel, rounding, unflatten_kernel
from . import arguments
from .gaussian import Gaussian
from .problem import Problem


def covariance_kernel(
    name: str, kernel: Any, n1: int, n2: int, problem: Problem
) -> Any:
    """A covariance of outputs at `n1` and `n2` inputs, flat like the problem's kernel.

    Raises:
        ValueError: if its shape does not fit.
    """
    kernel = arguments.array(name, kernel)
    out = problem.y_train.shape[1:]
    allowed = [(n1, n2)] + [(n1, n2, *out, *out)] * problem.coupled
    if kernel.shape not in allowed:
        raise ValueError(
            f"`{name}` has shape {kernel.shape}, but needs "
            f"{' or '.join(map(str, allowed))}: rows and columns are inputs, and "
            "outputs are coupled only if those of `k_train_train` are."
        )
    if not problem.coupled:
        return kernel
    if kernel.ndim > 2:
        return flatten_kernel(kernel, len(out))
    xp = jnp if _checks.is_traced(kernel) else np
    size = int(np.prod(out))
    return xp.kron(xp.asarray(kernel), xp.eye(size, dtype=kernel.dtype))


def gaussian(
    problem: Problem, mean: Any, covariance: Any, prior: Any, over_times: bool
) -> Gaussian:
    """A mean and a flat covariance, as their reader wants them.

    Args:
        problem: whose outputs they are.
        mean: `(*times, m, *out)`, in the dtype of the result.
        covariance: `(*times, m, m)`, flat like the problem's kernel.
        prior: the variances at the start, whose rounding is that of the covariance.
        over_times: whether there are times.

    Raises:
        ValueError: if a variance is negative beyond rounding.
    """
    dtype = mean.dtype
    xp = covariance.__array_namespace__()
    covariance = (covariance + covariance.swapaxes(-1, -2)) / 2
    size = covariance.shape[-1]
    scale = xp.max(xp.abs(prior))
    entry = np.promote_types(dtype, np.float32)
    noise = rounding(size + len(problem.y_train), entry) * scale
    smallest = xp.min(xp.diagonal(covariance, axis1=-2, axis2=-1))
    text = (
        "A variance is negative beyond rounding: the kernels do not belong together. "
        "They must be of one architecture and, if random, of one draw"
    )
    if _checks.is_traced(smallest, noise):
        covariance = eqx.error_if(covariance, smallest < -noise, text + ".")
    elif smallest < -noise:
        raise ValueError(f"{text}: it is {smallest:.2e}, of {scale:.2e} at the start.")
    if problem.coupled:
        out = problem.y_train.shape[1:]
        split = lambda k: unflatten_kernel(k, out)
        if over_times:
            split = jax.vmap(split)
            covariance = jnp.asarray(covariance)
        covariance = split(covariance)
    covariance = arguments.in_range(covariance, dtype)
    return Gaussian(mean, covariance, noise, over_times)
