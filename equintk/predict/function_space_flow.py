"""Gradient flow of any loss, in continuous time, as the training outputs see it."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import _checks
from .._compiled import filter_jit
from .._linalg import rounding
from . import arguments
from .flow import flow_times
from .function_space_descent import test_arguments
from .objective import Objective
from .problem import times_matrix
from .state import State
from .stationary import stationary


class FunctionSpaceFlow(eqx.Module):
    r"""Outputs of a linearised network under gradient flow of any differentiable loss.

    With $L = c \sum_i w_i\, \ell(f_i, y_i) + (\text{ridge}/2) |\theta - \theta_0|^2$,

    $$\dot a = - c\, w\, \nabla \ell(F) - \text{ridge}\, a, \quad
    F_* = F_{*0} + K_{*t} a,$$

    integrated by diffrax in the arrays' own precision. Times are learning rate times
    steps. For the squared loss `GradientFlow` is exact and faster; for steps, however
    small, `FunctionSpaceDescent` is exact.

    Source: Lee et al., arXiv:1902.06720, section 2.2.
    """

    objective: Objective
    rtol: float = eqx.field(static=True)
    atol: float = eqx.field(static=True)
    solver: Any
    max_steps: int = eqx.field(static=True)

    def __init__(
        self,
        k_train_train: Any,
        y_train: Any,
        *,
        loss: Any,
        c: Any = 1.0,
        ridge: Any = 0.0,
        weights: Any = None,
        labelled: Any = None,
        rtol: Any = 1e-6,
        atol: Any = 1e-9,
        solver: Any = None,
        max_steps: Any = 100_000,
    ):
        """Check the arguments.

        Args:
            k_train_train: `(n, n)`, one averaged kernel for each output (`nt.ntk`), or
                `(n, n, *out, *out)`, with outputs coupled (`nt.ntk_full`), which is
                exact. Symmetric and positive semi-definite up to rounding.
            y_train: the targets, of which the first axis counts examples.
            loss: as in `FunctionSpaceDescent`, as `weights` and `labelled`.
            c: multiplies the loss: 1 is the sum over examples, 1/n the mean.
            ridge: the penalty ridge/2 * |theta - theta_0|^2 beside it.
            weights: `(n,)`, at least 0: multiply the losses of the examples.
            labelled: `(n,)` of bool, false where there is no label.
            rtol: relative error of the coefficients in one step of the solver.
            atol: absolute one, in units of coefficients.
            solver: of diffrax; `None` is `Tsit5()`. Of a large time times eigenvalue
                take an implicit one, `diffrax.Kvaerno5()`.
            max_steps: of the solver, before it gives up.

        Raises:
            ImportError: if diffrax is missing, with the line that installs it.
            ValueError: for shapes that do not match, NaN or infinity, numbers out of
                their range, or a kernel that is not positive semi-definite.
        """
        diffrax = _diffrax()
        self.objective = Objective(
            k_train_train,
            y_train,
            loss=loss,
            c=c,
            ridge=ridge,
            weights=weights,
            labelled=labelled,
        )
        self.rtol = float(_checks.positive("rtol", rtol))
        self.atol = float(_checks.positive("atol", atol))
        self.solver = diffrax.Tsit5() if solver is None else solver
        self.max_steps = _checks.positive_integer("max_steps", max_steps)

    def train(self, t: Any, f0_train: Any) -> Float[Array, "..."]:
        """Outputs on the training inputs.

        Args:
            t: a time of at least 0, or several, in any order. `jnp.inf`, the end of
                training, is known when a transformation traces. With a ridge and a
                convex loss it is found by Newton's method; without one the flow is
                followed until it stands still, and refused if it only slows down.
            f0_train: outputs at initialisation, `(n, *out)`, or a `State`.

        Returns:
            `(n, *out)`, or `(n_times, n, *out)` for several times.

        Raises:
            ValueError: for a negative time, a wrong shape, NaN or infinity, an end that
                does not exist, or a solver that needs more than `max_steps`.
        """
        start = self.objective.start(f0_train)
        ways = self._ways(t, start)
        outputs = jax.vmap(lambda way: self.objective.outputs(start, way))(ways)
        return arguments.settled(outputs if np.ndim(t) else outputs[0])

    def test(
        self, t: Any, k_test_train: Any, f0_train: Any, f0_test: Any
    ) -> Float[Array, "..."]:
        """Outputs on test inputs.

        Args:
            t: as in `train`.
            k_test_train: `(m, n)` or `(m, n, *out, *out)`, as `k_train_train`.
            f0_train: outputs at initialisation on the training inputs, `(n, *out)`, or
                a `State`.
            f0_test: outputs on the test inputs at the same time, `(m, *out)`.

        Returns:
            `(m, *out)`, or `(n_times, m, *out)` for several times.

        Raises:
            ValueError: as `train`.
        """
        start = self.objective.start(f0_train)
        kernel, f0_test = test_arguments(self.objective, start, k_test_train, f0_test)
        ways = self._ways(t, start)
        outputs = jax.vmap(lambda a: f0_test + self.objective.multiply(kernel, a))(ways)
        return arguments.settled(outputs if np.ndim(t) else outputs[0])

    def state(self, t: Any, f0_train: Any) -> State:
        """Where training stands at one time, for any dynamics to carry on from.

        Args:
            t: one time of at least 0; `jnp.inf` is the end of training.
            f0_train: outputs at initialisation, `(n, *out)`, or a `State`.

        Raises:
            ValueError: as `train`, and for several times.
        """
        if np.ndim(t):
            raise ValueError(
                "A state is that of one moment, but there is a list of shape "
                f"{np.shape(t)}. Ask for one at a time."
            )
        start = self.objective.start(f0_train)
        way = self._ways(t, start)[0]
        outputs = arguments.settled(self.objective.outputs(start, way))
        return State(outputs, start.coefficients + way, jnp.zeros_like(way))

    def _ways(self, t: Any, start: State) -> Any:
        """How far the coefficients have gone at each time."""
        t = flow_times(t)
        t = t[None] if t.ndim == 0 else t
        dtype = start.f_train.dtype
        if _checks.is_traced(t):
            t = jnp.asarray(t, dtype)
            t = eqx.error_if(
                t, jnp.any(jnp.isinf(t)),
                "`t` is infinite, but must be known as such when this is traced.",
            )  # fmt: skip
            return self._until(t, start)
        ended = np.isinf(t)
        parts = []
        if not ended.all():
            parts.append(self._until(jnp.asarray(t[~ended], dtype), start))
        if ended.any():
            end = self._end(start)[None]
            parts.append(jnp.repeat(end, int(ended.sum()), axis=0))
        order = np.concatenate([np.flatnonzero(~ended), np.flatnonzero(ended)])
        return jnp.concatenate(parts)[np.argsort(order)]

    def _until(self, t: Any, start: State) -> Any:
        ways, reached = _integrate(self, start, t)
        text = (
            f"The solver did not get to the last time in {self.max_steps} steps. Raise "
            "`max_steps`, or type `solver=diffrax.Kvaerno5()`, which takes long steps "
            "where modes of a large eigenvalue have died out."
        )
        if _checks.is_traced(ways):
            return eqx.error_if(ways, ~reached, text)
        if not reached:
            raise ValueError(text)
        return ways

    def _end(self, start: State) -> Any:
        ridge = self.objective.ridge
        if _checks.is_traced(ridge) or ridge > 0:
            return stationary(self.objective, start)
        way, still = _settle(self, start)
        text = (
            "`t` is infinite, but training does not come to an end: outputs go on "
            "moving, ever more slowly. Cross-entropy falls for ever on data that can "
            "be separated. Ask for a finite time, or add a `ridge`. If there is an "
            f"end, more than {self.max_steps} steps of the solver or a smaller `rtol` "
            "may find it."
        )
        if _checks.is_traced(way):
            return eqx.error_if(way, ~still, text)
        if not still:
            raise ValueError(text)
        return way


def _diffrax() -> Any:
    try:
        import diffrax
    except ImportError as error:
        raise ImportError(
            "`FunctionSpaceFlow` needs diffrax, which is not installed. Type "
            "`pip install 'equintk[flow]'`. `FunctionSpaceDescent` does without."
        ) from error
    return diffrax


def _velocity(objective: Objective, start: State, way: Any) -> Any:
    f = objective.outputs(start, way)
    gradient = objective.gradient(f, objective.scale(0, f.dtype))
    ridge = jnp.asarray(objective.ridge, f.dtype)
    return -gradient - ridge * (start.coefficients + way)


@filter_jit
def _integrate(dynamics: FunctionSpaceFlow, start: State, t: Any) -> tuple[Any, Any]:
    """The way at each time, and whether the solver got there."""
    diffrax = _diffrax()
    order = jnp.argsort(t)
    moves = t[order][-1] > 0
    # With nothing to do the solver is given something, and not listened to.
    t1 = jnp.where(moves, t[order][-1], 1)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda s, way, args: _velocity(args[0], args[1], way)),
        dynamics.solver,
        t0=jnp.zeros_like(t1),
        t1=t1,
        dt0=None,
        y0=jnp.zeros_like(start.f_train),
        args=(dynamics.objective, start),
        saveat=diffrax.SaveAt(ts=t[order]),
        stepsize_controller=diffrax.PIDController(dynamics.rtol, dynamics.atol),
        max_steps=dynamics.max_steps,
        throw=False,
    )
    ways = jnp.where(moves, solution.ys, 0)[jnp.argsort(order)]
    return ways, diffrax.is_successful(solution.result)


@filter_jit
def _settle(dynamics: FunctionSpaceFlow, start: State) -> tuple[Any, Any]:
    """The way at which the outputs stand still, and whether they really do."""
    diffrax = _diffrax()
    objective = dynamics.objective
    size = lambda a: jnp.sqrt(jnp.sum(a**2))

    span = _span(objective, start)

    def velocity(way):
        return objective.multiply(span, _velocity(objective, start, way))

    def still(s, way, args, **_):
        return size(velocity(way)) < dynamics.atol + dynamics.rtol * size(way)

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda s, way, args: velocity(way)),
        dynamics.solver,
        t0=0.0,
        t1=jnp.inf,
        dt0=None,
        y0=jnp.zeros_like(start.f_train),
        stepsize_controller=diffrax.PIDController(dynamics.rtol, dynamics.atol),
        event=diffrax.Event(still),
        max_steps=dynamics.max_steps,
        throw=False,
    )
    way = solution.ys[0]
    # What comes to an end slows down at some rate, and has speed / rate left to go.
    # What goes on for ever slows down with its own speed, and always has as much left.
    speed, slowing = jax.jvp(velocity, (way,), (velocity(way),))
    left_times_rate, rate = size(speed) ** 3, -jnp.sum(speed * slowing)
    ended = left_times_rate <= 1e-3 * size(way) * rate
    return way, diffrax.is_event(solution.result) & (ended | (size(speed) == 0))


def _span(objective: Objective, start: State) -> Any:
    """The projection on what the kernel sees: elsewhere coefficients go on for ever."""
    kernel = jnp.asarray(objective.kernel, start.f_train.dtype)
    values, vectors = jnp.linalg.eigh(jax.lax.stop_gradient((kernel + kernel.T) / 2))
    floor = rounding(len(kernel), objective.kernel.dtype) * jnp.max(jnp.abs(kernel))
    seen = vectors * jnp.where(values > floor, 1, 0).astype(kernel.dtype)[None]
    return times_matrix(seen, vectors.T)
