"""Full-batch gradient descent on the squared loss, with the outputs along the way."""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from experiments.trajectory import Trajectory


def train(
    model: PyTree,
    x_train: Float[Array | np.ndarray, " n_train *in_dims"],
    y_train: Float[Array | np.ndarray, " n_train *out"],
    x_test: Float[Array | np.ndarray, " n_test *in_dims"],
    steps: np.ndarray,
    *,
    learning_rate: float,
    c: float = 1.0,
    ridge: float = 0.0,
    trainable: PyTree | Callable[[Any], bool] = eqx.is_inexact_array,
    on_time: Callable[[int, PyTree], object] = lambda step, model: None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Trajectory:
    r"""Train a network on all examples at once and record its outputs.

    $$L = \frac{c}{2} \sum (f(x) - y)^2 + \frac{\text{ridge}}{2} |\theta - \theta_0|^2$$

    Args:
        model: maps one example to one output; it is where training starts, and stays
            as it is.
        x_train: the inputs to train on.
        y_train: their targets, one of the shape of an output per example.
        x_test: inputs whose outputs are recorded as well.
        steps: the steps after which to record, strictly increasing.
        learning_rate: of one step, absolute.
        c: scale of the loss; 1 sums over examples and outputs.
        ridge: strength of the pull towards the start.
        trainable: a filter, as in `equinox.partition`; the rest stays constant.
        on_time: called with the step and the model then, at each of `steps`.
        progress: called with the steps asked of the device and the steps in all. A few
            dozen of them may still be under way.

    Returns:
        The outputs at each of `steps`, in the precision of the model.

    Raises:
        ValueError: if an output and a target differ in shape.
        FloatingPointError: if an output is not finite.

    One compilation serves all models of one architecture and data of one shape: numbers
    are arguments of the compiled step. Parameters are held four times.
    """
    start, frozen, static = _split(model, trainable)
    x_train, y_train, x_test = (jnp.asarray(a) for a in (x_train, y_train, x_test))
    # Plain floats adapt to the precision of the parameters; NumPy's would widen them.
    learning_rate, c, ridge = float(learning_rate), float(c), float(ridge)
    _check_targets(y_train, jax.eval_shape(jax.vmap(model), x_train).shape)
    params, reached = start, 0
    on_train, on_test = [], []
    for step in steps.tolist():
        # On the host: convolutions in a compiled loop are several times slower on CPU.
        for done in range(reached, step):
            params = _descend(
                params, start, frozen, x_train, y_train, learning_rate, c, ridge, static
            )
            progress(done + 1, int(steps[-1]))
        reached = step
        for outputs, x in ((on_train, x_train), (on_test, x_test)):
            outputs.append(np.asarray(_outputs(params, frozen, x, static)))
            _check_finite(outputs[-1], step, learning_rate)
        on_time(step, eqx.combine(params, model))
    return Trajectory(steps, np.stack(on_train), np.stack(on_test))


_Static = tuple[tuple[Any, ...], Any]
"""What a model has beside arrays: hashable, so that one compilation belongs to it."""


def _split(
    model: PyTree, trainable: PyTree | Callable[[Any], bool]
) -> tuple[PyTree, PyTree, _Static]:
    """Parameters, other arrays and the rest, which alone is part of the compilation."""
    params, constant = eqx.partition(model, trainable)
    frozen, rest = eqx.partition(constant, eqx.is_array)
    leaves, treedef = jtu.tree_flatten(rest)
    return params, frozen, (tuple(leaves), treedef)


def _apply(params: PyTree, frozen: PyTree, static: _Static, x: Array) -> Array:
    """Outputs for a batch, `(n, *out)`."""
    leaves, treedef = static
    model = eqx.combine(params, frozen, jtu.tree_unflatten(treedef, leaves))
    return jax.vmap(model)(x)


# Nothing is donated: the caller keeps the models that it is shown.
@partial(jax.jit, static_argnums=8)
def _descend(
    params: PyTree,
    start: PyTree,
    frozen: PyTree,
    x: Array,
    y: Array,
    learning_rate: float,
    c: float,
    ridge: float,
    static: _Static,
) -> PyTree:
    """Parameters after one step."""

    def loss(params):
        error = _apply(params, frozen, static, x) - y
        return c / 2 * jnp.sum(error**2)

    # The penalty's gradient by hand: it joins the update in one pass over parameters.
    gradient = jtu.tree_map(
        lambda g, now, then: g + ridge * (now - then),
        jax.grad(loss)(params),
        params,
        start,
    )
    optimizer = optax.sgd(learning_rate)
    # Without momentum its state is empty.
    updates, _ = optimizer.update(gradient, optimizer.init(params))
    return optax.apply_updates(params, updates)


@partial(jax.jit, static_argnums=3)
def _outputs(params: PyTree, frozen: PyTree, x: Array, static: _Static) -> Array:
    return _apply(params, frozen, static, x)


def _check_targets(y: Array, outputs_shape: tuple[int, ...]) -> None:
    # Otherwise targets of shape (n,) would broadcast against outputs of shape (n, 1).
    if y.shape != outputs_shape:
        raise ValueError(
            f"`y_train` must have the shape of the outputs, {outputs_shape}, but its "
            f"shape is {y.shape}. For one output per example pass `y[:, None]`."
        )


def _check_finite(outputs: np.ndarray, step: int, learning_rate: float) -> None:
    if not np.isfinite(outputs).all():
        raise FloatingPointError(
            f"Training diverged: by step {step} the outputs are no longer finite, with "
            f"a learning rate of {learning_rate:g} per step. Gradient descent is "
            "stable below 2 / (c * largest eigenvalue of the kernel + ridge): type "
            "optimizer.learning_rate_unit=stability_bound optimizer.learning_rate=0.5 "
            "for half of it."
        )
