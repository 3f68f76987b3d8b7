"""What the dynamics on a Krylov space share: its growth, and answers with errors."""

import math
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

from .. import _checks
from .._linalg import NOISE, accept, flatten_kernel, rounding, solver_noise
from .._matrix_free.flat import check
from .._matrix_free.host import HostProducts, asymmetry, of_array, of_operator
from .._matrix_free.krylov import KrylovSpace, krylov_space, most_vectors
from .._progress import reporter
from . import arguments
from .approximation import Approximation
from .krylov_end import KrylovEnd, krylov_end
from .problem import flat_train_kernel, shift, targets
from .residual_bound import Errors, Pace, Spectrum, errors, filtered
from .state import State

# Columns of coefficients held at once, of all the (times * outputs) asked for.
_AT_ONCE = 256
# Random vectors from which the mean diagonal of an operator is estimated.
_PROBES = 8
# An error by rounding that is warned of, as a part of what is to be learnt.
_DIGITS = 0.01


class KrylovProblem(eqx.Module):
    """A Krylov space of a kernel and of what is to be learnt, in float64 on the host.

    Attributes:
        space: of the kernel without the shift.
        spectrum: what is known of the kernel.
        start: what training starts from.
        c: of the loss.
        scale: the root mean square of what is to be learnt.
        tolerance: the root-mean-square error that was asked for, relative to it.
        latest: up to when.
        end: the end of training, where it was solved for in too little memory.
        structure: of a vector that the kernel multiplies, `(n,)` or `(n, *out)`.
        dtype: of the kernel and the arrays.
        eps: of the precision of its products.
        rounded: of the coarser precision of these and its entries.
    """

    space: KrylovSpace
    spectrum: Spectrum
    start: State
    c: float
    scale: float
    tolerance: float
    latest: float
    end: KrylovEnd | None
    structure: tuple[int, ...] = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)
    eps: float = eqx.field(static=True)
    rounded: float = eqx.field(static=True)

    def __init__(
        self,
        k_train_train: Any,
        y_train: Any,
        f0_train: Any,
        *,
        pace: Any,
        latest: Any,
        c: Any,
        ridge: Any,
        ridge_relative: Any,
        tolerance: Any,
        max_bytes: Any,
        progress: Any,
    ):
        """Check the arguments and grow the space.

        `pace` gives, for the `c` of the loss, how training goes.
        """
        if _checks.is_traced(k_train_train, y_train, f0_train, c, ridge):
            raise ValueError(
                "A Krylov space is grown on the host, so that it cannot be traced. "
                "Type `GradientFlow` or `GradientDescent` under `jit`, `vmap`, `grad`."
            )
        y = targets(y_train)
        self.start = jax.tree.map(np.asarray, arguments.start(f0_train, y.shape))
        self.c = arguments.number(_checks.positive("c", c))
        self.tolerance = float(_checks.positive("tolerance", tolerance))
        max_bytes = float(_checks.positive("max_bytes", max_bytes))
        kernel = _Kernel(k_train_train, y.shape)
        added = kernel.shift(self.c, ridge, ridge_relative)
        self.structure, self.eps = kernel.structure, kernel.products.eps
        self.rounded = max(self.eps, float(jnp.finfo(kernel.dtype).eps))
        self.dtype = jax.dtypes.canonicalize_dtype(
            np.result_type(kernel.dtype, y.dtype, *jax.tree.leaves(self.start))
        )
        self.latest = float(latest)

        residual = _wide(self.start.f_train) - _wide(y)
        residual = residual + added * _wide(self.start.coefficients)
        residual = residual.reshape(math.prod(self.structure), -1)
        norm = float(np.linalg.norm(residual))
        self.scale = norm / math.sqrt(residual.size)
        pace = pace(self.c)
        goal = max(self.tolerance * norm, float(np.finfo(float).tiny))

        def shortfall(space: KrylovSpace, marks: np.ndarray | None = None) -> float:
            spectrum = kernel.spectrum(space.values, space.noise, added)
            marks = _marks(self.latest, pace, spectrum) if marks is None else marks
            found = errors(space, spectrum, pace, marks)
            # What the rounding of products leaves of an answer no basis can mend.
            on_train = found.train / np.maximum(found.train_noise, goal)
            on_test = found.test / np.maximum(found.test_noise, goal)
            return float(max(on_train.max(), on_test.max()))

        width = max(kernel.products.width, residual.shape[1])
        most = most_vectors(len(residual), width, max_bytes)
        if most < min(len(residual), 2 * width):
            raise ValueError(
                f"`max_bytes` is {max_bytes:.3g}, but must leave room for at least "
                f"{2 * width} vectors of {len(residual)} numbers, and as many again to "
                f"work with: type {100 * width * len(residual):.2g}."
            )
        space = krylov_space(
            kernel.products,
            residual,
            most=most,
            shortfall=shortfall,
            report=reporter(progress, "Krylov space", "vectors"),
        )
        self.spectrum = kernel.spectrum(space.values, space.noise, added)
        self.space = space._replace(values=np.maximum(space.values, 0))
        self.end = None
        if (
            math.isinf(self.latest)
            and added > self.spectrum.floor
            and not _diverges(pace, self.spectrum)
            and shortfall(space, np.array([math.inf])) > 1
        ):
            self.end = krylov_end(
                kernel.products,
                self.space,
                self.spectrum,
                residual,
                pace=pace,
                goal=goal,
                report=reporter(progress, "Conjugate gradients", "products"),
            )

    def train(self, pace: Pace, times: Any) -> Approximation:
        """Outputs on the training inputs at each time."""
        space = self.space
        f0 = _wide(self.start.f_train)

        def moved(ways: np.ndarray) -> np.ndarray:
            inside = space.rotation @ (space.values[:, None] * ways)
            return space.vectors.T @ inside + space.beyond.T @ (space.coupling @ ways)

        found = self._errors(pace, times)
        parts = found.train, found.train_noise
        end = lambda end: end.moved
        return self._answer(times, f0, moved, end, pace, parts, self.dtype)

    def test(
        self, pace: Pace, times: Any, k_test_train: Any, f0_test: Any
    ) -> Approximation:
        """Outputs on test inputs at each time."""
        shape = self.start.f_train.shape
        products, dtype = _test_products(k_test_train, shape, self.structure)
        m = products.shape[0] * shape[0] // math.prod(self.structure)
        f0 = arguments.outputs("f0_test", f0_test, (m, *shape[1:]))
        dtype = jax.dtypes.canonicalize_dtype(
            np.result_type(self.dtype, dtype, f0.dtype)
        )
        moved = lambda ways: products.product(self._vectors(ways))
        found = self._errors(pace, times)
        # The rounding of this product is that of as many numbers as the kernel's own.
        more = found.test_noise * products.eps / self.eps
        parts = found.test, np.maximum(found.test_noise, more)
        end = lambda end: products.product(end.coefficients)
        return self._answer(times, _wide(f0), moved, end, pace, parts, dtype)

    def state(self, pace: Pace, time: Any) -> State:
        """Where training stands at one time, to carry on from."""
        if time.ndim:
            raise ValueError(
                "A state is that of one moment, but there is a list of shape "
                f"{time.shape}. Ask for one at a time."
            )
        outputs = self.train(pace, time).value
        if self.end is not None and np.isinf(time):
            way = self.end.coefficients
        else:
            way = self._vectors(filtered(self.space, self.spectrum, pace, time))
        way = _wide(self.start.coefficients) - way.reshape(outputs.shape)
        still = jnp.zeros_like(outputs)
        return State(outputs, arguments.in_range(way, self.dtype), still)

    def _vectors(self, ways: np.ndarray) -> np.ndarray:
        return self.space.vectors.T @ (self.space.rotation @ ways)

    def _errors(self, pace: Pace, times: Any) -> Errors:
        times = np.atleast_1d(times)
        # A part below zero changes products as their own rounding does. It is not to
        # be mended, and not to be stopped at either: most of it may not be there.
        noise = self.spectrum.noise + self.spectrum.negative
        spectrum = self.spectrum._replace(noise=noise)
        solved = None
        if self.end is not None:
            solved = self.end.residual, float(np.linalg.norm(self.end.coefficients))
        return errors(self.space, spectrum, pace, times, solved)

    def _answer(
        self,
        times: Any,
        f0: Any,
        moved: Any,
        end: Any,
        pace: Pace,
        found: Any,
        dtype: Any,
    ) -> Approximation:
        """Outputs that have moved from `f0`, with the norms of two parts of errors."""
        all_times = np.atleast_1d(times)
        left, noise = (part / math.sqrt(self.start.f_train.size) for part in found)
        self._warn(all_times, left, noise)
        out = np.empty((len(all_times), *f0.shape), dtype)
        for one, ways in self._groups(pace, all_times):
            images = moved(ways.reshape(len(ways), -1))
            images = images.reshape(len(images), *ways.shape[1:]).swapaxes(0, 1)
            values = f0[None] - images.reshape(-1, *f0.shape)
            out[one : one + ways.shape[1]] = arguments.in_range(values, dtype)
        if self.end is not None and np.isinf(all_times).any():
            values = f0 - end(self.end).reshape(f0.shape)
            out[np.isinf(all_times)] = arguments.in_range(values, dtype)
        error = jnp.asarray(left + noise, jnp.result_type(float))
        if not times.ndim:
            return Approximation(jnp.asarray(out[0]), error[0])
        return Approximation(jnp.asarray(out), error)

    def _groups(self, pace: Pace, times: Any) -> Iterator[tuple[int, np.ndarray]]:
        """Coefficients of some times after another, `(rank, times, p)`."""
        at_once = max(1, _AT_ONCE // self.space.start.shape[1])
        for one in range(0, len(times), at_once):
            some = times[one : one + at_once]
            ways = [filtered(self.space, self.spectrum, pace, time) for time in some]
            yield one, np.stack(ways, axis=1)

    def _warn(self, times: Any, left: np.ndarray, noise: np.ndarray) -> None:
        """Warn of what the space leaves over, and where rounding leaves nothing."""
        goal, scale = self.tolerance * self.scale, self.scale
        # Growth stops where products are no better than the space that they make.
        short = np.where(left > np.maximum(goal, noise), left, 0.0)
        worst = int(np.argmax(short))
        if short[worst]:
            _checks.warn(
                f"The root-mean-square error at time {times[worst]:.3g} may be "
                f"{left[worst]:.2g}, above the {goal:.2g} that `tolerance` asks for: "
                + self._why(times[worst])
            )
        worst = int(np.argmax(noise))
        if noise[worst] > _DIGITS * scale:
            _checks.warn(
                f"The root-mean-square error at time {times[worst]:.3g} may be "
                f"{noise[worst]:.2g}, of {scale:.2g} to be learnt, because the kernel "
                f"or products with it are rounded to {self.rounded:.1g}. Type a "
                "larger `ridge`, or pass float64 arrays under "
                "`jax.config.update('jax_enable_x64', True)`."
            )

    def _why(self, time: float) -> str:
        """Why an error is large, and what to type."""
        vectors = f"the {len(self.space.values)} vectors"
        if time > self.latest:
            return (
                f"{vectors} were chosen for times up to {self.latest:.3g}. Type a "
                "larger `latest` when creating the object."
            )
        if self.end is not None and math.isinf(time):
            return "conjugate gradients came no further. Type a larger `ridge`."
        return f"{vectors} take all of `max_bytes`. Type a larger one, or a `ridge`."


class _Kernel:
    """A train-train kernel, array or operator, as what a Krylov space needs of it."""

    def __init__(self, kernel: Any, shape: tuple[int, ...]):
        if isinstance(kernel, lx.AbstractLinearOperator):
            check(kernel, symmetric=True)
            self.structure = _structure("k_train_train", kernel.in_structure(), shape)
            self.dtype = np.dtype(kernel.in_structure().dtype)
            self.products = of_operator(kernel)
            self.skew, self.entry, self.diagonal = 0.0, 0.0, None
            self.probed = _mean_diagonal(self.products)
            return
        kernel = arguments.array("k_train_train", kernel)
        self.dtype = np.dtype(kernel.dtype)
        flat, coupled = flat_train_kernel(kernel, shape)
        flat = np.asarray(flat)
        self.structure = shape if coupled else shape[:1]
        self.skew, self.entry = asymmetry(flat)
        self.products = of_array(flat, symmetrised=self.skew > 0)
        self.diagonal = flat.diagonal().astype(np.float64)
        self.probed = float(self.diagonal.mean())

    def shift(self, c: float, ridge: Any, ridge_relative: Any) -> float:
        """What a ridge adds to the eigenvalues."""
        if self.diagonal is None:
            if ridge_relative:
                raise ValueError(
                    "`ridge_relative` needs the diagonal of the kernel, which an "
                    "operator does not show. Type `ridge`, in its own units."
                )
            return shift(np.zeros(1), c, ridge, 0.0)
        return shift(self.diagonal, c, ridge, ridge_relative)

    def spectrum(self, values: np.ndarray, noise: float, added: float) -> Spectrum:
        """From the eigenvalues of a Krylov space.

        Raises:
            ValueError: if the kernel is not positive semi-definite beyond rounding.
        """
        n = math.prod(self.structure)
        negative = rounding(n, self.dtype) * self.entry
        floor = max(negative, float(solver_noise(values)))
        floor = max(floor, NOISE * self.products.eps * float(np.abs(values).max()))
        accept(values, self.skew, added, floor, self.dtype)
        largest = max(float(values[-1]), 0.0)
        return Spectrum(
            largest=largest,
            shift=added,
            floor=floor,
            diagonal=max(self.probed, float(values.sum()) / n),
            noise=noise + self.products.eps * largest,
            negative=negative,
        )


def _structure(name: str, struct: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an operator's vectors, for targets of a shape."""
    got = getattr(struct, "shape", None)
    if got not in (shape, shape[:1]):
        raise ValueError(
            f"`{name}` multiplies vectors of shape {got}, but `y_train` has shape "
            f"{shape} and so needs {shape}, with outputs coupled as in `NTKOperator`, "
            f"or {shape[:1]}, alike for each output."
        )
    return got


def _test_products(
    kernel: Any, shape: tuple[int, ...], structure: tuple[int, ...]
) -> tuple[HostProducts, Any]:
    """The kernel between test and training inputs, and its dtype."""
    if isinstance(kernel, lx.AbstractLinearOperator):
        _structure("k_test_train", kernel.in_structure(), structure)
        rows = kernel.out_structure()
        if getattr(rows, "shape", (0,))[1:] != structure[1:]:
            raise ValueError(
                f"`k_test_train` must give arrays of shape {('m', *structure[1:])} for "
                f"m test inputs, but it gives {rows}. Its rows are test inputs: "
                "`nt.NTKOperator(model, x_test, x_train)`."
            )
        return of_operator(kernel), np.dtype(rows.dtype)
    coupled = len(structure) > 1
    kernel = arguments.test_kernel(kernel, shape, coupled)
    flat = flatten_kernel(kernel, len(shape) - 1) if coupled else kernel
    return of_array(np.asarray(flat)), np.dtype(kernel.dtype)


def _mean_diagonal(products: HostProducts) -> float:
    """An estimate from random signs, which needs no diagonal."""
    n = products.shape[1]
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (n, _PROBES))
    return float(np.sum(signs * products.product(signs)) / signs.size)


def _marks(latest: float, pace: Pace, spectrum: Spectrum) -> np.ndarray:
    """Moments up to the latest, from which `errors` goes back to all before."""
    if math.isinf(latest):
        if _diverges(pace, spectrum):
            return np.ones(1)  # it diverges, so that no space is good enough
        last = 1e3 / (pace.unit * max(spectrum.shift, spectrum.floor))
        return np.array([math.ceil(last), latest])
    marks = latest * np.array([1e-3, 1e-2, 0.1, 1.0])
    return np.ceil(marks) if pace.in_steps else marks


def _diverges(pace: Pace, spectrum: Spectrum) -> bool:
    return pace.in_steps and pace.unit * (spectrum.largest + spectrum.shift) > 2


def _wide(array: Any) -> np.ndarray:
    return np.asarray(array, np.float64)
