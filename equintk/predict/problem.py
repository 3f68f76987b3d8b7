"""What every dynamic of a squared loss shares: a kernel, targets, and their checks."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .. import _checks
from .._decay import AbstractFilter
from .._eigenbasis import Eigenbasis
from .._linalg import flatten_kernel
from . import arguments
from .state import State

FiltersAt = Callable[[Any, Any], tuple[AbstractFilter, ...]]
"""What one moment of training, for the loss's `c`, makes of the residual and velocity.

One filter for each; without momentum only the first. A PyTree of its numbers.
"""

# Part of a residual that may be hidden without a word, in norm.
_SEEN = 0.1


class Problem(eqx.Module):
    """The eigenbasis of a train-train kernel, the targets, and the loss's `c`.

    Concrete arrays are worked on in float64 by NumPy, traced ones in their own
    precision by JAX.
    """

    basis: Eigenbasis
    y_train: Any
    c: Any
    shift: Any
    coupled: bool = eqx.field(static=True)

    def __init__(
        self, k_train_train: Any, y_train: Any, c: Any, ridge: Any, ridge_relative: Any
    ):
        """Check the arguments and decompose the kernel."""
        y_train = targets(y_train)
        kernel = arguments.array("k_train_train", k_train_train)
        kernel, self.coupled = flat_train_kernel(kernel, y_train.shape)
        c = arguments.number(_checks.positive("c", c))
        self.shift = shift(kernel.diagonal(), c, ridge, ridge_relative)
        self.basis = Eigenbasis(kernel, self.shift)
        self.y_train = y_train
        self.c = c

    def train(self, filters_at: FiltersAt, times: Any, f0_train: Any) -> Any:
        """Outputs on the training inputs at each time."""
        start = arguments.start(f0_train, self.y_train.shape)
        cast, dtype = self.precision(filters_at, times, *jax.tree.leaves(start))
        sources = self._sources(cast, start)
        f0 = cast(start.f_train)
        self._warn(filters_at, times, sources[0])

        def at(time: Any) -> Any:
            filters = filters_at(time, cast(self.c))
            return f0 - _sum(self.basis.fitted, filters, sources).reshape(f0.shape)

        return arguments.in_range(each(at, cast(times)), dtype)

    def test(
        self,
        filters_at: FiltersAt,
        times: Any,
        k_test_train: Any,
        f0_train: Any,
        f0_test: Any,
    ) -> Any:
        """Outputs on the test inputs at each time."""
        k_test_train = arguments.test_kernel(
            k_test_train, self.y_train.shape, self.coupled
        )
        start = arguments.start(f0_train, self.y_train.shape)
        needed = (len(k_test_train), *self.y_train.shape[1:])
        f0_test = arguments.outputs("f0_test", f0_test, needed)
        arrays = (k_test_train, f0_test, *jax.tree.leaves(start))
        cast, dtype = self.precision(filters_at, times, *arrays)
        sources = self._sources(cast, start)
        f0, kernel = cast(f0_test), cast(self.flat(k_test_train))
        self._warn(filters_at, times, sources[0])

        def at(time: Any) -> Any:
            filters = filters_at(time, cast(self.c))
            way = _sum(self.basis.coefficients, filters, sources)
            return f0 - times_matrix(kernel, way).reshape(f0.shape)

        return arguments.in_range(each(at, cast(times)), dtype)

    def state(
        self, filters_at: FiltersAt, velocity_at: FiltersAt, time: Any, f0_train: Any
    ) -> State:
        """Where training stands at one time, to carry on from."""
        if time.ndim:
            raise ValueError(
                "A state is that of one moment, but there is a list of shape "
                f"{time.shape}. Ask for one at a time."
            )
        start = arguments.start(f0_train, self.y_train.shape)
        moment = (velocity_at, time)
        cast, dtype = self.precision(filters_at, moment, *jax.tree.leaves(start))
        sources = self._sources(cast, start)
        time, c, f0 = cast(time), cast(self.c), cast(start.f_train)
        way, moved = (
            _sum(apply, filters_at(time, c), sources).reshape(f0.shape)
            for apply in (self.basis.coefficients, self.basis.fitted)
        )
        velocity = _sum(self.basis.coefficients, velocity_at(time, c), sources)
        coefficients = cast(start.coefficients) - way
        arrays = (f0 - moved, coefficients, velocity.reshape(f0.shape))
        return State(*(arguments.in_range(array, dtype) for array in arrays))

    def _warn(self, filters_at: FiltersAt, times: Any, residual: Any) -> None:
        """Warn of what a low precision hides, where training would have reached it."""
        basis = self.basis
        if _checks.is_traced(self, filters_at, times, residual):
            return
        moments = np.ravel(times)[np.isfinite(np.ravel(times))]
        if jnp.finfo(basis.dtype).eps <= float(np.finfo(float).eps) or not moments.size:
            return
        lost = basis.dropped(filters_at(moments.max(), self.c)[0])
        part = np.linalg.norm(basis.eigenvectors[:, lost].T @ residual)
        if part > _SEEN * np.linalg.norm(residual):
            _checks.warn(
                f"{int(lost.sum())} of {len(lost)} modes of the kernel, with "
                f"{part**2 / np.linalg.norm(residual) ** 2:.0%} of what is to be "
                f"learnt, are below its rounding in {basis.dtype} and are left "
                "unlearnt at the latest time. That is right for duplicated inputs; "
                "otherwise type a `ridge`, or compute the kernel in float64 under "
                "`jax.config.update('jax_enable_x64', True)`."
            )

    def _sources(self, cast: Any, start: State) -> tuple[Any, Any]:
        """Residual and velocity as `(n, p)` or, coupled, `(n*out, 1)`.

        The penalty is a pull on the coefficients, hence a part of the residual.
        """
        residual = cast(start.f_train) - cast(self.y_train)
        residual = residual + cast(self.shift) * cast(start.coefficients)
        shape = (-1, 1) if self.coupled else (len(residual), -1)
        return residual.reshape(shape), cast(start.velocity).reshape(shape)

    def flat(self, kernel: Any) -> Any:
        """A kernel of the same kind as a matrix."""
        n_out_axes = self.y_train.ndim - 1
        return flatten_kernel(kernel, n_out_axes) if self.coupled else kernel

    def precision(
        self, filters_at: FiltersAt, times: Any, *arrays: Any
    ) -> tuple[Callable[[Any], Any], Any]:
        """How to bring arrays together, and the dtype of the result."""
        dtypes = [a.dtype for a in (self.y_train, *arrays)] + [self.basis.dtype]
        dtype = jax.dtypes.canonicalize_dtype(np.result_type(*dtypes))
        if not _checks.is_traced(self, filters_at, times, arrays):
            return lambda a: np.asarray(a, np.float64), dtype
        wide = np.promote_types(dtype, np.float32)
        return lambda a: jnp.asarray(a, wide), dtype


def targets(y_train: Any) -> Any:
    """The targets, checked."""
    y_train = arguments.array("y_train", y_train)
    if y_train.ndim == 0 or y_train.size == 0:
        raise ValueError(
            "`y_train` must hold targets of shape (n, *out) with a first axis that "
            f"counts examples, but it has shape {y_train.shape}. For a single "
            "example pass `y_train[None]`."
        )
    return y_train


def flat_train_kernel(kernel: Any, shape: tuple[int, ...]) -> tuple[Any, bool]:
    """The kernel as a matrix for targets of a shape, and whether outputs couple.

    Raises:
        ValueError: if it does not fit.
    """
    n, *out = shape
    if kernel.shape not in ((n, n), (n, n, *out, *out)):
        raise ValueError(
            f"`k_train_train` has shape {kernel.shape}, but `y_train` has shape "
            f"{shape} and so needs {(n, n)} (`ntk`, averaged over outputs)"
            f" or {(n, n, *out, *out)} (`ntk_full`)."
        )
    coupled = bool(out) and kernel.ndim > 2
    return (flatten_kernel(kernel, len(out)) if coupled else kernel), coupled


def shift(diagonal: Any, c: Any, ridge: Any, ridge_relative: Any) -> Any:
    """What a ridge adds to the eigenvalues of a flat kernel with a diagonal."""
    ridge = arguments.number(_checks.non_negative("ridge", ridge))
    relative = arguments.number(_checks.non_negative("ridge_relative", ridge_relative))
    if not _checks.is_traced(ridge, relative) and ridge and relative:
        raise ValueError(
            f"`ridge` is {ridge:g} and `ridge_relative` {relative:g}, but only one of "
            "them may be set: type one penalty, in either unit."
        )
    if not _checks.is_traced(diagonal, c, ridge, relative):
        return ridge / c + relative * float(np.mean(np.asarray(diagonal), dtype=float))
    diagonal = jnp.asarray(diagonal)
    c, ridge, relative = (jnp.asarray(a, diagonal.dtype) for a in (c, ridge, relative))
    return ridge / c + relative * jnp.mean(diagonal)


def _sum(apply: Any, filters: Any, sources: Any) -> Any:
    """What the filters make of their sources, together."""
    pairs = zip(filters, sources, strict=False)
    parts = [apply(filter, source) for filter, source in pairs]
    return sum(parts, start=0 * sources[0])


def times_matrix(a: Any, b: Any) -> Any:
    """Matrix product, of NumPy arrays or at full precision of JAX arrays."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a @ b
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def each(at: Callable[[Any], Any], times: Any) -> Any:
    """A function at one time, or stacked over several."""
    if times.ndim == 0:
        return at(times)
    if isinstance(times, np.ndarray):
        return np.stack([at(time) for time in times])
    return jax.vmap(at)(times)
