"""Functions of a kernel applied to a vector, in its eigenbasis, and their derivatives.

What the functions are is said in `_decay`, what counts as rounding in `_linalg`.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._checks import is_traced
from ._decay import AbstractFilter, differences, is_dropped, weights
from ._linalg import accept, floor_of, solver_noise

OF_ITSELF = (
    "An eigenbasis cannot be differentiated by itself: create GradientFlow or "
    "GradientDescent inside the function that is differentiated by the kernel."
)


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
        self.floor = floor_of(values, xp.max(xp.abs(kernel)), self.dtype)
        self.eigenvalues = accept(values, skew, shift, self.floor, self.dtype)
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

    def dropped(self, filter: AbstractFilter) -> Any:
        """Which modes a filter leaves out, because they are below rounding."""
        shifted = np.maximum(self.eigenvalues + self.shift, 0)
        return is_dropped(filter, shifted, self.floor)

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
        floor = jnp.maximum(floor, solver_noise(values))
        floor = jax.lax.stop_gradient(floor)
        return _filtered(
            self.kernel, values, vectors, shift, filter, residual,
            floor=floor, times_kernel=times_kernel,
        )  # fmt: skip


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
        "eigenvalues repeat. Take differences of the first, in float64: "
        "(gradient(x + h * v) - gradient(x - h * v)) / (2 * h)."
    )


def _times(a: Any, b: Any) -> Any:
    """Matrix product at full precision, which accelerators do not take by default."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
