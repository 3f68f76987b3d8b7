"""What every dynamic of a squared loss shares: a kernel, targets, and their checks."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .. import _checks
from .._decay import AbstractDecay
from .._linalg import Eigenbasis, flatten_kernel

DecayAt = Callable[[Any, Any], AbstractDecay]
"""The decay of a residual at one time, for the loss's `c`. A PyTree of its numbers."""


class Problem(eqx.Module):
    """The eigenbasis of a train-train kernel, the targets, and the loss's `c`.

    Concrete arrays are worked on in float64 by NumPy, traced ones in their own
    precision by JAX.
    """

    basis: Eigenbasis
    y_train: Any
    c: Any
    coupled: bool = eqx.field(static=True)

    def __init__(self, k_train_train: Any, y_train: Any, c: Any, ridge: Any):
        """Check the arguments and decompose the kernel."""
        y_train = array("y_train", y_train)
        if y_train.ndim == 0 or y_train.size == 0:
            raise ValueError(
                "`y_train` must hold targets of shape (n, *out) with a first axis that "
                f"counts examples, but it has shape {y_train.shape}. For a single "
                "example pass `y_train[None]`."
            )
        kernel = array("k_train_train", k_train_train)
        n, *out = y_train.shape
        if kernel.shape not in ((n, n), (n, n, *out, *out)):
            raise ValueError(
                f"`k_train_train` has shape {kernel.shape}, but `y_train` has shape "
                f"{y_train.shape} and so needs {(n, n)} (`ntk`, averaged over outputs)"
                f" or {(n, n, *out, *out)} (`ntk_full`)."
            )
        c = number(_checks.positive("c", c))
        ridge = number(_checks.non_negative("ridge", ridge))
        self.coupled = bool(out) and kernel.ndim > 2
        if self.coupled:
            kernel = flatten_kernel(kernel, len(out))
        if isinstance(c, float) and isinstance(ridge, float):
            shift = ridge / c
        else:
            dtype = kernel.dtype
            shift = jnp.asarray(ridge, dtype) / jnp.asarray(c, dtype)
        self.basis = Eigenbasis(kernel, shift)
        self.y_train = y_train
        self.c = c

    def train(self, decay_at: DecayAt, times: Any, f0_train: Any) -> Any:
        """Outputs on the training inputs at each time."""
        f0_train = self._outputs("f0_train", f0_train, len(self.y_train))
        cast, dtype = self._precision(decay_at, times, f0_train)
        f0, residual = self._residual(cast, f0_train)

        def at(time: Any) -> Any:
            decay = decay_at(time, cast(self.c))
            moved = self.basis.fitted(decay, residual)
            return f0 - moved.reshape(f0.shape)

        return _in_range(_each(at, cast(times)), dtype)

    def test(
        self,
        decay_at: DecayAt,
        times: Any,
        k_test_train: Any,
        f0_train: Any,
        f0_test: Any,
    ) -> Any:
        """Outputs on the test inputs at each time."""
        k_test_train = self._test_kernel(k_test_train)
        n_test = len(k_test_train)
        f0_train = self._outputs("f0_train", f0_train, len(self.y_train))
        f0_test = self._outputs("f0_test", f0_test, n_test)
        arrays = (k_test_train, f0_train, f0_test)
        cast, dtype = self._precision(decay_at, times, *arrays)
        _, residual = self._residual(cast, f0_train)
        f0, kernel = cast(f0_test), cast(k_test_train)
        if self.coupled:
            kernel = flatten_kernel(kernel, f0.ndim - 1)

        def at(time: Any) -> Any:
            decay = decay_at(time, cast(self.c))
            moved = times_matrix(kernel, self.basis.coefficients(decay, residual))
            return f0 - moved.reshape(f0.shape)

        return _in_range(_each(at, cast(times)), dtype)

    def _residual(self, cast: Any, f0_train: Any) -> tuple[Any, Any]:
        """The outputs, and the residual as `(n, p)` or, coupled, `(n*out, 1)`."""
        f0 = cast(f0_train)
        residual = f0 - cast(self.y_train)
        return f0, residual.reshape((-1, 1) if self.coupled else (len(residual), -1))

    def _precision(
        self, decay_at: DecayAt, times: Any, *arrays: Any
    ) -> tuple[Callable[[Any], Any], Any]:
        """How to bring arrays together, and the dtype of the result."""
        dtypes = [a.dtype for a in (self.y_train, *arrays)] + [self.basis.dtype]
        dtype = jax.dtypes.canonicalize_dtype(np.result_type(*dtypes))
        if not _checks.is_traced(self, decay_at, times, arrays):
            return lambda a: np.asarray(a, np.float64), dtype
        wide = np.promote_types(dtype, np.float32)
        return lambda a: jnp.asarray(a, wide), dtype

    def _outputs(self, name: str, f0: Any, n: int) -> Any:
        f0 = array(name, f0)
        needed = (n, *self.y_train.shape[1:])
        if f0.shape != needed:
            raise ValueError(
                f"`{name}` must hold the outputs at initialisation, of shape {needed}, "
                f"but it has shape {f0.shape}. For the mean over infinitely wide "
                f"networks, whose outputs start at zero, type `jnp.zeros({needed})`."
            )
        return f0

    def _test_kernel(self, k_test_train: Any) -> Any:
        kernel = array("k_test_train", k_test_train)
        n, *out = self.y_train.shape
        rest = (n, *out, *out) if self.coupled else (n,)
        if kernel.ndim == 0 or kernel.shape[1:] != rest or kernel.size == 0:
            kind = "`ntk_full`" if self.coupled else "`ntk`, averaged over outputs"
            raise ValueError(
                f"`k_test_train` must be of the same kind as `k_train_train` ({kind}), "
                f"of shape (m, {', '.join(map(str, rest))}) for m test inputs, but it "
                f"has shape {kernel.shape}. Its rows are test inputs, its columns "
                "training inputs: `nt.ntk(model, x_test, x_train)`."
            )
        return kernel


def _in_range(outputs: Any, dtype: Any) -> Any:
    """The outputs in the user's precision."""
    if _checks.is_traced(outputs):
        return jnp.asarray(outputs, dtype)
    with np.errstate(over="ignore"):
        outputs = np.asarray(outputs).astype(dtype)
    if not np.isfinite(outputs).all():
        raise ValueError(
            f"A prediction leaves the range of {dtype}: the targets, the outputs at "
            "the start or the kernel are too large. Scale them, or pass float64 arrays "
            "under `jax.config.update('jax_enable_x64', True)`."
        )
    return jnp.asarray(outputs)


def array(name: str, value: Any) -> Any:
    """A finite floating-point array of NumPy or JAX.

    Raises:
        ValueError: if it is none.
    """
    if not hasattr(value, "dtype"):
        value = (jnp if _checks.is_traced(value) else np).asarray(value)
        # Python numbers have no precision of their own: they take JAX's default.
        if value.dtype == np.float64:
            value = value.astype(jnp.result_type(float))
    kind = value.dtype
    if jnp.issubdtype(kind, jnp.integer) or jnp.issubdtype(kind, jnp.bool_):
        value = value.astype(jnp.result_type(float))
    elif not jnp.issubdtype(kind, jnp.floating):
        raise ValueError(
            f"`{name}` must hold real numbers, but its dtype is {kind}. Of complex "
            "outputs pass real and imaginary parts as two outputs."
        )
    return _checks.finite(name, value)


def number(value: Any) -> Any:
    """A `float`, which never promotes an array, where the value is known."""
    return value if _checks.is_traced(value) else float(value)


def moments(name: str, value: Any, needed: str, holds: Callable[[Any], Any]) -> Any:
    """Times or steps: one number or a list of them, infinity allowed.

    Raises:
        ValueError: if there is none, or one of them is NaN or does not hold.
    """
    if hasattr(value, "dtype"):
        value = (
            value.astype(jnp.result_type(float)) if _checks.is_traced(value) else value
        )
    elif _checks.is_traced(value):
        value = jnp.asarray(value)
    concrete = not _checks.is_traced(value)
    if concrete:
        try:
            value = np.asarray(np.nan if value is None else value, np.float64)
        except (TypeError, ValueError) as error:
            text = f"`{name}` must be {needed}, or a list of such, but it is {value!r}."
            raise ValueError(text) from error
    if value.ndim > 1 or value.size == 0:
        raise ValueError(
            f"`{name}` must be {needed}, or a list of at least one, but it has shape "
            f"{value.shape}. Type `jnp.ravel({name})` if it is a grid."
        )
    right = (value >= 0) & holds(value)  # false for NaN
    if not concrete:
        return eqx.error_if(value, ~jnp.all(right), f"`{name}` must be {needed}.")
    if not right.all():
        raise ValueError(
            f"`{name}` must be {needed}, but it holds {value[~right].flat[0]:g}."
        )
    return value


def times_matrix(a: Any, b: Any) -> Any:
    """Matrix product, of NumPy arrays or at full precision of JAX arrays."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a @ b
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _each(at: Callable[[Any], Any], times: Any) -> Any:
    """The function at one time, or stacked over several."""
    if times.ndim == 0:
        return at(times)
    if isinstance(times, np.ndarray):
        return np.stack([at(time) for time in times])
    return jax.vmap(at)(times)
