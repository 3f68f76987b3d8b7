"""Functions of a kernel applied to a vector, in its eigenbasis, and their derivatives.

What the functions are is said in `_decay`. This file is the only place with rounding
floors.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._checks import is_traced
from ._decay import AbstractFilter, differences, weights

NOISE = 10.0
OF_ITSELF = (
    "An eigenbasis cannot be differentiated by itself: create GradientFlow or "
    "GradientDescent inside the function that is differentiated by the kernel."
)


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


class Eigenbasis(eqx.Module):
    """The eigenbasis of a positive semi-definite kernel, to be asked many times.

    A concrete kernel is solved in float64 by NumPy, and applied so to concrete vectors.
    A traced one is solved in its own precision; then first derivatives with respect to
    it are right at any eigenvalues, repeated ones included, through `jax.grad` of
    whatever creates the basis.
    """

    eigenvalues: Any
    eigenvectors: Any
    kernel: Any
    floor: Any
    shift: Any
    dtype: Any = eqx.field(static=True)

    def __init__(self, kernel: Any, shift: Any = 0.0):
        """Decompose the kernel.

        Args:
            kernel: `(n, n)`, finite. Asymmetry and negative eigenvalues within
                rounding, a multiple of the eps of its own dtype, are removed.
            shift: added to each eigenvalue: ridge / c.

        Raises:
            ValueError: if the kernel is not symmetric, or if, with the shift, it is
                not positive semi-definite beyond rounding.
        """
        self.dtype = np.dtype(kernel.dtype)
        self.shift = shift
        if is_traced(kernel):
            kernel = jnp.asarray(kernel, np.promote_types(self.dtype, np.float32))
            self.kernel = (kernel + kernel.T) / 2
            skew = jnp.max(jnp.abs(kernel - kernel.T))
            values, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(self.kernel))
        else:
            kernel = np.asarray(kernel, np.float64)
            self.kernel = None
            skew = np.max(np.abs(kernel - kernel.T))
            values, vectors = np.linalg.eigh((kernel + kernel.T) / 2)
        xp = values.__array_namespace__()
        self.floor = _floor(values, xp.max(xp.abs(kernel)), self.dtype)
        self.eigenvalues = _accept(values, skew, shift, self.floor, self.dtype)
        self.eigenvectors = vectors

    @property
    def largest(self) -> Any:
        """The largest eigenvalue of the kernel, with the shift."""
        if is_traced(self):
            values = jnp.asarray(self.eigenvalues)
            return values[-1] + jnp.asarray(self.shift, values.dtype)
        return float(self.eigenvalues[-1] + self.shift)

    def coefficients(self, filter: AbstractFilter, residual: Any) -> Any:
        """g(A) residual, for a residual `(n, p)`: what K_*t multiplies."""
        return self._apply(filter, residual, times_kernel=False)

    def fitted(self, filter: AbstractFilter, residual: Any) -> Any:
        """K g(A) residual, without the rounding of a product with K itself."""
        return self._apply(filter, residual, times_kernel=True)

    def log_determinant(self) -> Any:
        """Of the kernel with the shift.

        Raises:
            ValueError: if it is singular up to rounding.
        """
        text = (
            "The kernel is singular up to rounding, so its determinant is 0 and "
            "outputs have no density. Add a `ridge`, the variance of the noise times c"
        )
        if not is_traced(self):
            shifted = self.eigenvalues + self.shift
            if shifted[0] <= self.floor:
                raise ValueError(f"{text}, above {self.floor:.2e} * c.")
            return np.sum(np.log(shifted))
        values = jnp.asarray(self.eigenvalues)
        shift, floor = (jnp.asarray(a, values.dtype) for a in (self.shift, self.floor))
        singular = jax.lax.stop_gradient(values[0] + shift <= floor)
        values = eqx.error_if(values, singular, text + ".")
        return _log_determinant(self.kernel, values, self.eigenvectors, shift)

    def _apply(self, filter: AbstractFilter, residual: Any, times_kernel: bool) -> Any:
        values, vectors = self.eigenvalues, self.eigenvectors
        if not is_traced(self, filter, residual):
            weight = weights(filter, values, self.shift, self.floor, times_kernel)
            return vectors @ (weight[:, None] * (vectors.T @ np.asarray(residual)))
        values, vectors, shift, floor = (
            jnp.asarray(a, residual.dtype)
            for a in (values, vectors, self.shift, self.floor)
        )
        floor = jnp.maximum(floor, _solver_noise(values))
        floor = jax.lax.stop_gradient(floor)
        return _filtered(
            self.kernel, values, vectors, shift, filter, residual,
            floor=floor, times_kernel=times_kernel,
        )  # fmt: skip


def require_semidefinite(kernel: Any) -> None:
    """Refuse a kernel `(n, n)` that has no eigenbasis to be asked of.

    Raises:
        ValueError: as `Eigenbasis`. Where the kernel is traced it is not looked at.

    Cost: a Cholesky factor, a twentieth of an eigendecomposition.
    """
    if is_traced(kernel):
        return
    dtype = np.dtype(kernel.dtype)
    kernel = np.asarray(kernel, np.float64)
    scale = np.max(np.abs(kernel))
    floor = rounding(len(kernel), dtype) * scale
    if np.max(np.abs(kernel - kernel.T)) <= floor:
        # The shift lets null modes pass, the rounding of the factor itself included.
        slack = floor + len(kernel) * float(jnp.finfo(float).tiny)
        try:
            np.linalg.cholesky((kernel + kernel.T) / 2 + slack * np.eye(len(kernel)))
            return
        except np.linalg.LinAlgError:
            pass
    Eigenbasis(np.asarray(kernel, dtype))


def _floor(values: Any, largest_entry: Any, dtype: Any) -> Any:
    """Below it an eigenvalue is noise: of the kernel's entries, or of the solver."""
    xp = values.__array_namespace__()
    entries = rounding(len(values), dtype) * largest_entry
    return xp.maximum(xp.asarray(entries, dtype=values.dtype), _solver_noise(values))


def _solver_noise(values: Any) -> Any:
    """Eigenvalues are solved for to a few eps of the largest. Not 0 even for zeros."""
    xp = values.__array_namespace__()
    info = jnp.finfo(values.dtype)
    return xp.maximum(
        NOISE * float(info.eps) * xp.max(xp.abs(values)), 1e4 * float(info.tiny)
    )


def _accept(values: Any, skew: Any, shift: Any, floor: Any, dtype: Any) -> Any:
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


@eqx.filter_custom_jvp
def _filtered(kernel, values, vectors, shift, filter, residual, *, floor, times_kernel):
    """V g(lambda + shift) V^T residual; `kernel` is there to be differentiated by."""
    weight = weights(filter, values, shift, floor, times_kernel)
    return _times(vectors, weight[:, None] * _times(vectors.T, residual))


@_filtered.def_jvp
def _filtered_jvp(primals, tangents, *, floor, times_kernel):
    kernel, values, vectors, shift, filter, residual = primals
    t_kernel, t_values, t_vectors, t_shift, t_filter, t_residual = tangents
    if t_values is not None or t_vectors is not None:
        raise TypeError(OF_ITSELF)
    given = {"floor": floor, "times_kernel": times_kernel}
    out = _filtered(*primals, **given)

    values, vectors, shift = _once(kernel, shift, values, vectors)
    weigh = lambda filter: weights(filter, values, shift, floor, times_kernel)
    along = _times(vectors.T, residual)
    moved = jnp.zeros_like(along)
    if t_residual is not None:
        moved += weigh(filter)[:, None] * _times(vectors.T, t_residual)
    if jax.tree.leaves(t_filter):
        moved += eqx.filter_jvp(weigh, (filter,), (t_filter,))[1][:, None] * along
    if t_shift is not None:
        curve = differences(filter, values, shift, floor, times_kernel=False)
        power = values if times_kernel else 1
        moved += (t_shift * power * jnp.diagonal(curve))[:, None] * along
    if t_kernel is not None:
        # Daleckii and Krein: in the eigenbasis a function's derivative is the matrix of
        # its divided differences times the perturbation, entry by entry.
        rotated = _times(vectors.T, _times(t_kernel, vectors))
        moved += _times(differences(filter, values, shift, **given) * rotated, along)
    return out, _times(vectors, moved)


@eqx.filter_custom_jvp
def _log_determinant(kernel, values, vectors, shift):
    return jnp.sum(jnp.log(values + shift))


@_log_determinant.def_jvp
def _log_determinant_jvp(primals, tangents):
    t_kernel, t_values, t_vectors, t_shift = tangents
    if t_values is not None or t_vectors is not None:
        raise TypeError(OF_ITSELF)
    kernel, values, vectors, shift = primals
    out = _log_determinant(*primals)
    values, vectors, shift = _once(kernel, shift, values, vectors)
    inverse = 1 / (values + shift)
    moved = jnp.zeros_like(out)
    if t_shift is not None:
        moved += t_shift * jnp.sum(inverse)
    if t_kernel is not None:
        moved += jnp.sum(_times(t_kernel, vectors) * vectors * inverse[None])
    return out, moved


@eqx.filter_custom_jvp
def _once(kernel, shift, values, vectors):
    """The eigenbasis inside a first derivative, where it may not be perturbed again.

    Without this a second derivative would miss what moves the eigenbasis, silently.
    """
    return values, vectors, shift


@_once.def_jvp
def _once_jvp(primals, tangents):
    raise NotImplementedError(
        "Predictions have first derivatives with respect to the kernel, the ridge and "
        "c, but not second ones: a function of a matrix has no simple one where "
        "eigenvalues repeat."
    )


def _times(a: Any, b: Any) -> Any:
    """Matrix product at full precision, which accelerators do not take by default."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
