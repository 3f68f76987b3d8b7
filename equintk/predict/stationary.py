"""Where training with a ridge ends: the minimum of a convex loss, found by Newton."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .. import _checks
from .._compiled import filter_jit
from .objective import Objective
from .state import State

MOST_ITERATIONS = 200
NOT_CONVEX = (
    "The loss is not convex at these outputs, so where training ends depends on how it "
    "gets there. Ask for a finite time or number of steps."
)
NOT_FOUND = (
    "The end of training was not found: Newton's method did not settle. Ask for a "
    "finite time or number of steps, or raise the `ridge`."
)


def stationary(objective: Objective, start: State) -> Any:
    """The way of the coefficients to the minimum of the penalised loss.

    Args:
        objective: with a ridge above 0, so that there is one minimum.
        start: where training starts.

    Raises:
        ValueError: if the loss is not convex on the way, or no minimum is found. Under
            a transformation both checks are part of the computation.

    Cost: about ten solutions of a linear system of all training outputs.
    """
    way, convex, found = _search(objective, start)
    if _checks.is_traced(way):
        way = eqx.error_if(way, ~convex, NOT_CONVEX)
        way = eqx.error_if(way, ~found, NOT_FOUND)
    elif not convex or not found:
        raise ValueError(NOT_FOUND if convex else NOT_CONVEX)
    return way


@filter_jit
def _search(objective: Objective, start: State) -> tuple[Any, Any, Any]:
    frozen = lambda tree: jax.tree.map(
        lambda a: jax.lax.stop_gradient(a) if eqx.is_array(a) else a, tree
    )
    still, begun = frozen(objective), frozen(start)
    eps = float(jnp.finfo(start.f_train.dtype).eps)

    def going(carried):
        iteration, _, convex, found = carried
        return (iteration < MOST_ITERATIONS) & convex & ~found

    def iterate(carried):
        iteration, way, _, _ = carried
        step, convex = _newton(still, begun, way)
        length = _backtracked(still, begun, way, step)
        near = jnp.max(jnp.abs(step)) <= eps**0.5 * jnp.max(jnp.abs(way + step))
        length = jnp.where(near, 1.0, length).astype(way.dtype)
        return iteration + 1, way + length * step, convex, near & convex

    zero = (0, jnp.zeros_like(start.f_train), jnp.array(True), jnp.array(False))
    _, way, convex, found = jax.lax.while_loop(going, iterate, zero)
    # Each step from here squares the error, that of the derivatives included: the
    # search itself needs none.
    way = frozen(way)
    for _ in range(2):
        way = way + _newton(objective, start, way)[0]
    return way, convex, found & jnp.all(jnp.isfinite(way))


def _newton(objective: Objective, start: State, way: Any) -> tuple[Any, Any]:
    """A Newton step, and whether the loss is convex there."""
    f = objective.outputs(start, way)
    scale = objective.scale(0, f.dtype)
    ridge = jnp.asarray(objective.ridge, f.dtype)
    gradient = objective.gradient(f, scale) + ridge * (start.coefficients + way)
    hessians = objective.curvatures(f, scale)
    values = jnp.linalg.eigvalsh(jax.lax.stop_gradient(hessians))
    noise = 100 * float(jnp.finfo(f.dtype).eps) * jnp.max(jnp.abs(values))
    kernel = _coupled(objective, f)
    n, size, _ = hessians.shape
    matrix = (hessians @ kernel.reshape(n, size, n * size)).reshape(n * size, n * size)
    matrix = matrix + ridge * jnp.eye(n * size, dtype=f.dtype)
    step = -jnp.linalg.solve(matrix, gradient.reshape(-1, 1))
    return step.reshape(way.shape), jnp.min(values) >= -noise


def _coupled(objective: Objective, f: Any) -> Any:
    """The kernel between all training outputs."""
    kernel = jnp.asarray(objective.kernel, f.dtype)
    if objective.out is not None:
        return kernel
    size = f[0].size
    return jnp.kron(kernel, jnp.eye(size, dtype=f.dtype))


def _backtracked(objective: Objective, start: State, way: Any, step: Any) -> Any:
    """The first of 1, 1/2, 1/4, ... times the step that lowers the penalised loss."""
    scale = objective.scale(0, way.dtype)
    ridge = jnp.asarray(objective.ridge, way.dtype)

    def height(way):
        coefficients = start.coefficients + way
        pull = objective.multiply(objective.kernel, coefficients)
        penalty = ridge / 2 * jnp.sum(coefficients * pull)
        return objective.value(objective.outputs(start, way), scale) + penalty

    here = height(way)
    uphill = lambda length: (length > 1e-8) & ~(height(way + length * step) < here)
    return jax.lax.while_loop(
        uphill, lambda length: length / 2, jnp.ones((), way.dtype)
    )
