"""Gradient descent on any loss, in steps, as the training outputs see it."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import _checks
from .._compiled import filter_jit
from .._linalg import flatten_kernel
from . import arguments
from .objective import Objective
from .state import State
from .stationary import stationary

SLACK = 1 + 1e-6  # what power iteration leaves of a learning rate at the bound


class FunctionSpaceDescent(eqx.Module):
    r"""Outputs of a linearised network after steps on any differentiable loss.

    Exactly what gradient descent on the parameters of the linearised network does,
    momentum and minibatches included, on the loss
    $L = c \sum_i w_i\, \ell(f_i, y_i) + (\text{ridge}/2) |\theta - \theta_0|^2$:

    $$g = c\, w\, \nabla \ell(F) + \text{ridge}\, a, \quad
    v \leftarrow \beta v + g, \quad a \leftarrow a - \text{lr}\, v, \quad
    F_* = F_{*0} + K_{*t} a.$$

    Steps are taken in the arrays' own precision. Predictions can be differentiated by
    every array and number, also by those in `loss` if it is an `equinox.Module`.

    An optimizer that rescales each parameter, such as Adam, has no such form: its
    linearised network is trained in its parameters. Weight decay towards zero leaves
    the linearisation at every width; decay towards the initialisation is `ridge`.

    Source: Lee et al., arXiv:1902.06720, section 2.2, in discrete time.
    """

    objective: Objective
    learning_rate: Any
    momentum: Any
    in_batches: bool = eqx.field(static=True)

    def __init__(
        self,
        k_train_train: Any,
        y_train: Any,
        *,
        loss: Any,
        learning_rate: Any,
        momentum: Any = 0.0,
        c: Any = 1.0,
        ridge: Any = 0.0,
        weights: Any = None,
        labelled: Any = None,
        batches: Any = None,
    ):
        """Check the arguments.

        Args:
            k_train_train: `(n, n)`, one averaged kernel for each output (`nt.ntk`), or
                `(n, n, *out, *out)`, with outputs coupled (`nt.ntk_full`), which is
                exact. Symmetric and positive semi-definite up to rounding.
            y_train: the targets, of which the first axis counts examples.
            loss: `loss(f, y)` gives one number for one output and its target, such as
                those of `nt.predict.losses`.
            learning_rate: of gradient descent on the loss. If the loss at the start is
                too curved for it, a warning names the bound there.
            momentum: of heavy ball, in [0, 1), as in `optax.sgd`.
            c: multiplies the loss: 1 is the sum over examples, 1/n the mean. With
                `batches` it may be one number for each, `[1 / len(b) for b in
                batches]` for the mean over a batch.
            ridge: the penalty ridge/2 * |theta - theta_0|^2 beside it, in every step.
            weights: `(n,)`, at least 0: multiply the losses of the examples.
            labelled: `(n,)` of bool; where it is False there is no label, the target
                is not looked at, and the example is only predicted.
            batches: the indices of the examples of each step, as a list of lists of any
                lengths, gone through again and again. `None`: all in every step.

        Raises:
            ValueError: for shapes that do not match, NaN or infinity, numbers out of
                their range, or a kernel that is not positive semi-definite.

        Cost: a step is one product with the kernel; starting one Cholesky factor.
        """
        self.learning_rate = arguments.number(
            _checks.positive("learning_rate", learning_rate)
        )
        self.momentum = arguments.number(_checks.fraction("momentum", momentum))
        self.objective = Objective(
            k_train_train,
            y_train,
            loss=loss,
            c=c,
            ridge=ridge,
            weights=weights,
            labelled=labelled,
            batches=batches,
        )
        self.in_batches = batches is not None

    def train(self, steps: Any, f0_train: Any) -> Float[Array, "..."]:
        """Outputs on the training inputs.

        Args:
            steps: a number of steps, or several, known when a transformation traces.
                `jnp.inf`, the end of training, needs a ridge, no batches and a loss
                that is convex, and is found by Newton's method.
            f0_train: outputs at initialisation, `(n, *out)`, or a `State`.

        Returns:
            `(n, *out)`, or `(n_times, n, *out)` for several.

        Raises:
            ValueError: for a negative or fractional number of steps, a wrong shape,
                NaN or infinity, an end that does not exist, or steps that diverge.
        """
        start = self.objective.start(f0_train)
        ways, _ = self._ways(steps, start)
        outputs = [self.objective.outputs(start, way) for way in ways]
        return _together(steps, outputs)

    def test(
        self, steps: Any, k_test_train: Any, f0_train: Any, f0_test: Any
    ) -> Float[Array, "..."]:
        """Outputs on test inputs.

        Args:
            steps: as in `train`.
            k_test_train: `(m, n)` or `(m, n, *out, *out)`, as `k_train_train`.
            f0_train: outputs at initialisation on the training inputs, `(n, *out)`, or
                a `State`.
            f0_test: outputs on the test inputs at the same time, `(m, *out)`.

        Returns:
            `(m, *out)`, or `(n_times, m, *out)` for several.

        Raises:
            ValueError: as `train`.
        """
        start = self.objective.start(f0_train)
        kernel, f0_test = test_arguments(self.objective, start, k_test_train, f0_test)
        ways, _ = self._ways(steps, start)
        outputs = [f0_test + self.objective.multiply(kernel, way) for way in ways]
        return _together(steps, outputs)

    def state(self, steps: Any, f0_train: Any) -> State:
        """Where training stands, for any dynamics to carry on from.

        Args:
            steps: one number of steps; with `batches` a multiple of their number,
                since whoever carries on begins with the first.
            f0_train: outputs at initialisation, `(n, *out)`, or a `State`.

        Raises:
            ValueError: as `train`, and for several numbers of steps or a part of the
                batches.
        """
        if np.ndim(steps):
            raise ValueError(
                "A state is that of one moment, but there is a list of shape "
                f"{np.shape(steps)}. Ask for one at a time."
            )
        n_batches = len(self.objective.scales)
        if not _checks.is_traced(steps) and np.isfinite(steps) and steps % n_batches:
            raise ValueError(
                f"A state is taken when all {n_batches} `batches` have been gone "
                f"through, but {steps:g} steps are no multiple of that."
            )
        start = self.objective.start(f0_train)
        (way,), (velocity,) = self._ways(steps, start)
        at_rest = not _checks.is_traced(self.momentum) and self.momentum == 0
        return State(
            arguments.settled(self.objective.outputs(start, way)),
            start.coefficients + way,
            jnp.zeros_like(velocity) if at_rest else velocity,
        )

    def _ways(self, steps: Any, start: State) -> tuple[list[Any], list[Any]]:
        """How far the coefficients have gone after the steps, and velocities."""
        if _checks.is_traced(steps):
            raise ValueError(
                "`steps` must be known when this is traced, but it is an argument of a "
                "transformed function. Mark it as static, or close over its values."
            )
        whole = lambda s: s == np.floor(s)
        needed = "a whole number of at least 0"
        steps = np.atleast_1d(arguments.moments("steps", steps, needed, whole))
        traced = _checks.is_traced(self, start)
        if not traced:
            self._warn(start)
        still = jnp.zeros_like(start.f_train)
        moving, taken, found = (still, start.velocity), 0, {}
        for mark in np.unique(steps):
            if np.isinf(mark):
                found[mark] = self._end(start), still
                continue
            # Bounds that are known unroll to a loop with a derivative; others save
            # compiling for each number of steps.
            bounds = taken, int(mark)
            bounds = bounds if traced else tuple(jnp.asarray(b) for b in bounds)
            moving = _advance(self, start, moving, *bounds)
            taken, found[mark] = int(mark), moving
        ways, velocities = zip(*(found[mark] for mark in steps), strict=True)
        return list(ways), list(velocities)

    def _end(self, start: State) -> Any:
        if self.in_batches:
            raise ValueError(
                "`steps` is infinite, but with `batches` training never settles: each "
                "step pulls towards another minimum. Ask for a number of steps."
            )
        require_ridge("steps", self.objective)
        way = stationary(self.objective, start)
        # The minimum is there at any learning rate, but steps may not settle in it.
        there = self.objective.outputs(start, way)
        bound = self._bound(State(there, way, way))
        text = "`steps` is infinite, but at this learning rate training has no end"
        if _checks.is_traced(bound):
            rate = jnp.asarray(self.learning_rate, way.dtype)
            return eqx.error_if(way, rate > SLACK * bound, text + ".")
        if self.learning_rate > SLACK * float(bound):
            raise ValueError(
                f"{text}: only below {float(bound):.6g} does it settle at the minimum."
            )
        return way

    def _bound(self, state: State) -> Any:
        """The largest learning rate that the loss's curvature in some state allows."""
        curvature = _largest_curvature(self.objective, state)
        return 2 * (1 + jnp.asarray(self.momentum, curvature.dtype)) / curvature

    def _warn(self, start: State) -> None:
        """Warn of a learning rate beyond what the loss at the start allows."""
        bound = float(self._bound(start))
        if self.learning_rate > SLACK * bound:
            _checks.warn(
                f"`learning_rate` is {self.learning_rate:.6g}, but at the outputs that "
                f"training starts from only {bound:.6g} is stable: predictions may "
                "diverge. Type a smaller one, such as half of it.",
            )


def test_arguments(
    objective: Objective, start: State, k_test_train: Any, f0_test: Any
) -> tuple[Any, Any]:
    """The flat test-train kernel, and the outputs on the test inputs, checked."""
    coupled = objective.out is not None
    shape = start.f_train.shape
    kernel = arguments.test_kernel(k_test_train, shape, coupled)
    f0_test = arguments.outputs("f0_test", f0_test, (len(kernel), *shape[1:]))
    if coupled:
        kernel = flatten_kernel(kernel, len(shape) - 1)
    return kernel, jnp.asarray(f0_test, start.f_train.dtype)


def require_ridge(name: str, objective: Objective) -> None:
    """Refuse the end of training where there may be none."""
    if not _checks.is_traced(objective.ridge) and objective.ridge == 0:
        raise ValueError(
            f"`{name}` is infinite, but without a ridge this loss may have no end: "
            "cross-entropy falls for ever on data that can be separated, and the "
            "outputs grow without bound. Ask for a finite one, or add a `ridge`. The "
            "squared loss has an end: `GradientFlow`, `GradientDescent`."
        )


@filter_jit
def _advance(
    dynamics: FunctionSpaceDescent, start: State, moving: Any, first: Any, last: Any
) -> Any:
    objective, dtype = dynamics.objective, start.f_train.dtype
    ridge, momentum, rate = (
        jnp.asarray(a, dtype)
        for a in (objective.ridge, dynamics.momentum, dynamics.learning_rate)
    )

    def step(i, moving):
        way, velocity = moving
        f = objective.outputs(start, way)
        gradient = objective.gradient(f, objective.scale(i, dtype))
        gradient = gradient + ridge * (start.coefficients + way)
        velocity = momentum * velocity + gradient
        return way - rate * velocity, velocity

    return jax.lax.fori_loop(first, last, step, moving)


@filter_jit
def _largest_curvature(objective: Objective, start: State) -> Any:
    """A lower bound, by power iteration, of the loss's largest curvature at the start.

    Of the parameters: the largest eigenvalue of R K R, with R the root of the Hessian
    by the outputs, and the ridge. Batches count with their mean.
    """
    f = start.f_train
    scale = jnp.mean(jnp.asarray(objective.scales, f.dtype), axis=0)
    values, vectors = jnp.linalg.eigh(objective.curvatures(f, scale))
    root = vectors * jnp.sqrt(jnp.maximum(values, 0))[:, None, :]
    rooted = lambda way, root: jnp.einsum(
        "iab,ib->ia", root, way.reshape(len(way), -1)
    ).reshape(way.shape)

    def iterate(_, carried):
        direction, _ = carried
        pushed = objective.multiply(objective.kernel, rooted(direction, root))
        pushed = rooted(pushed, root.swapaxes(1, 2))
        size = jnp.sqrt(jnp.sum(pushed**2))
        return pushed / jnp.where(size > 0, size, 1), size

    direction = jax.random.normal(jax.random.key(0), f.shape, f.dtype)
    direction = direction / jnp.sqrt(jnp.sum(direction**2))
    zero = jnp.zeros((), f.dtype)
    _, size = jax.lax.fori_loop(0, 50, iterate, (direction, zero))
    tiny = float(jnp.finfo(f.dtype).tiny)
    return jnp.maximum(size + jnp.asarray(objective.ridge, f.dtype), tiny)


def _together(steps: Any, outputs: list[Any]) -> Any:
    """One output, or several with a time axis in front."""
    result = jnp.stack(outputs) if np.ndim(steps) else outputs[0]
    return arguments.settled(result)
