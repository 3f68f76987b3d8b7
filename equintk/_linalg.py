"""Kernels as matrices, positive semi-definite up to rounding.

The only place with rounding floors.
"""

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from ._checks import is_traced

NOISE = 10.0


def rounding(n: int, dtype: Any) -> float:
    """How far the eigenvalues of an `(n, n)` kernel are noise, relative to its entries.

    Independent errors of a few eps in each entry move an eigenvalue by about sqrt(n)
    of them; a kernel's entries are long sums, hence the factor.
    """
    return NOISE * math.sqrt(n) * float(jnp.finfo(dtype).eps)


def flatten_kernel(kernel: Any, n_out_axes: int) -> Any:
    """`(n1, n2, *out, *out)` as the matrix `(n1*out, n2*out)`, sample-major."""
    n1, n2, *rest = kernel.shape
    size = math.prod(rest[:n_out_axes])
    split = kernel.reshape(n1, n2, size, size)
    return split.swapaxes(1, 2).reshape(n1 * size, n2 * size)


def unflatten_kernel(kernel: Any, out: tuple[int, ...]) -> Any:
    """The matrix `(n1*out, n2*out)`, sample-major, as `(n1, n2, *out, *out)`."""
    size = math.prod(out)
    n1, n2 = (length // size for length in kernel.shape)
    split = kernel.reshape(n1, size, n2, size).swapaxes(1, 2)
    return split.reshape(n1, n2, *out, *out)


def root(covariance: Any, floor: Any) -> Any:
    """A matrix that gives the covariance when it is multiplied by its transpose.

    Args:
        covariance: `(n, n)`, symmetric.
        floor: how far eigenvalues are below zero by rounding.

    Raises:
        ValueError: if an eigenvalue is below that.
    """
    text = "The covariance has a negative eigenvalue beyond rounding"
    if is_traced(covariance, floor):
        values, vectors = jnp.linalg.eigh(covariance)
        values = eqx.error_if(values, values[0] < -floor, text + ".")
        return vectors * jnp.sqrt(jnp.maximum(values, 0))[None]
    values, vectors = np.linalg.eigh(np.asarray(covariance, np.float64))
    if values[0] < -floor:
        raise ValueError(
            f"{text}: {values[0]:.2e}, where {-floor:.2e} is allowed. All kernels must "
            "be of one kind and one random draw."
        )
    return vectors * np.sqrt(np.maximum(values, 0))


def require_semidefinite(kernel: Any) -> None:
    """Refuse a kernel `(n, n)` that is not positive semi-definite up to rounding.

    Raises:
        ValueError: as `Eigenbasis`. Where the kernel is traced it is not looked at.

    Cost: a Cholesky factor, a twentieth of an eigendecomposition.
    """
    if is_traced(kernel):
        return
    dtype = np.dtype(kernel.dtype)
    kernel = np.asarray(kernel, np.float64)
    scale = np.max(np.abs(kernel))
    skew = np.max(np.abs(kernel - kernel.T))
    kernel = (kernel + kernel.T) / 2
    floor = rounding(len(kernel), dtype) * scale
    if skew <= floor:
        # The shift lets null modes pass, the rounding of the factor itself included.
        slack = floor + len(kernel) * float(jnp.finfo(float).tiny)
        try:
            np.linalg.cholesky(kernel + slack * np.eye(len(kernel)))
            return
        except np.linalg.LinAlgError:
            pass
    values = np.linalg.eigvalsh(kernel)
    accept(values, skew, 0.0, floor_of(values, scale, dtype), dtype)


def floor_of(values: Any, largest_entry: Any, dtype: Any) -> Any:
    """Below it an eigenvalue is noise: of the kernel's entries, or of the solver."""
    xp = values.__array_namespace__()
    entries = rounding(len(values), dtype) * largest_entry
    return xp.maximum(xp.asarray(entries, dtype=values.dtype), solver_noise(values))


def solver_noise(values: Any) -> Any:
    """Eigenvalues are solved for to a few eps of the largest. Not 0 even for zeros."""
    xp = values.__array_namespace__()
    info = jnp.finfo(values.dtype)
    return xp.maximum(
        NOISE * float(info.eps) * xp.max(xp.abs(values)), 1e4 * float(info.tiny)
    )


def accept(values: Any, skew: Any, shift: Any, floor: Any, dtype: Any) -> Any:
    """The eigenvalues, zero where they are below zero by rounding, or an error."""
    remedies = (
        "A sketched or Monte Carlo kernel must use one random draw for all blocks. "
        "Otherwise compute the kernel in float64"
    )
    if is_traced(values, shift):
        values = jnp.asarray(values)
        skew, floor, shift = (
            jnp.asarray(a, values.dtype) for a in (skew, floor, shift)
        )
        smallest = values[0] + shift
        values = eqx.error_if(
            values, skew > floor,
            f"The train-train kernel is not symmetric beyond rounding. {remedies}.",
        )  # fmt: skip
        values = eqx.error_if(
            values, smallest < -floor,
            "The train-train kernel has a negative eigenvalue beyond rounding. "
            f"{remedies}, or add a `ridge`.",
        )  # fmt: skip
        return jnp.where(jnp.abs(values) <= floor, jnp.maximum(values, 0), values)
    if skew > floor:
        raise ValueError(
            "The train-train kernel must be symmetric, but an entry and its mirror "
            f"image differ by {skew:.2e}, where rounding in {dtype} allows "
            f"{floor:.2e}. {remedies}."
        )
    if values[0] + shift < -floor:
        raise ValueError(
            "The train-train kernel must be positive semi-definite, but its smallest "
            f"eigenvalue is {values[0]:.2e}, where rounding in {dtype} allows "
            f"{-floor:.2e}; the largest is {values[-1]:.2e}. {remedies}, or add a "
            f"`ridge` above {-values[0]:.2e} * c."
        )
    return np.where(np.abs(values) <= floor, np.maximum(values, 0), values)
