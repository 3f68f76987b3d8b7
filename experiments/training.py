"""Training a network with optax, with its outputs along the way."""

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

import equintk as nt
from experiments import losses
from experiments.losses import Objective
from experiments.regimes import Regime
from experiments.trajectory import Trajectory


def train(
    model: PyTree,
    regime: Regime,
    x_train: Float[Array | np.ndarray, " n_train *in_dims"],
    x_test: Float[Array | np.ndarray, " n_test *in_dims"],
    steps: np.ndarray,
    *,
    trainable: PyTree | Callable[[Any], bool] = eqx.is_inexact_array,
    on_time: Callable[[int, PyTree], object] = lambda step, model: None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Trajectory:
    """Train a network as a regime says and record its outputs.

    Args:
        model: maps one example to one output; it is where training starts, and stays
            as it is.
        regime: the loss with its targets, and the steps to take on it.
        x_train: the inputs to train on.
        x_test: inputs whose outputs are recorded as well.
        steps: the steps after which to record, strictly increasing.
        trainable: a filter, as in `equinox.partition`; the rest stays constant.
        on_time: called with the step and the model then, at each of `steps`.
        progress: called with the steps asked of the device and the steps in all. A few
            dozen of them may still be under way.

    Returns:
        The outputs at each of `steps`, in the precision of the model.

    Raises:
        ValueError: if an output and a target do not fit.
        FloatingPointError: if an output is not finite.

    One compilation serves all models of one architecture and data of one shape: numbers
    are arguments of the compiled step. Parameters are held four times, five times with
    momentum.
    """
    start, frozen, static = _split(model, trainable)
    x_train, x_test = (jnp.asarray(a) for a in (x_train, x_test))
    objective = regime.objective
    outputs = jax.eval_shape(jax.vmap(model), x_train)
    y_train = jnp.asarray(losses.like(objective.y_train, outputs.dtype))
    _check_targets(objective, y_train, outputs.shape)
    batches = _batches(regime, len(x_train), outputs.dtype)
    # Plain floats adapt to the precision of the parameters; NumPy's would widen them.
    rate, ridge = float(regime.learning_rate), float(regime.ridge)
    momentum = float(regime.momentum) if regime.momentum else None
    optimizer = optax.sgd(rate, momentum)
    params, state, reached = start, optimizer.init(start), 0
    on_train, on_test = [], []
    for step in steps.tolist():
        # On the host: convolutions in a compiled loop are several times slower on CPU.
        for done in range(reached, step):
            params, state = _descend(
                params, state, start, frozen, x_train, y_train,
                *batches[done % len(batches)], rate, momentum, ridge,
                objective.of_example, static,
            )  # fmt: skip
            progress(done + 1, int(steps[-1]))
        reached = step
        for outputs, x in ((on_train, x_train), (on_test, x_test)):
            outputs.append(np.asarray(_outputs(params, frozen, x, static)))
            _check_finite(outputs[-1], step, rate)
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


_Batch = tuple[np.ndarray | None, np.ndarray]
"""Which examples a step takes (`None`: all), and what multiplies the loss of each."""


def _batches(regime: Regime, n_train: int, dtype: Any) -> list[_Batch]:
    """The batches, all of one length, so that they share a compilation."""
    scale = regime.objective.scale
    if not len(regime.batches):
        return [(None, np.full(n_train, scale(n_train), dtype))]
    length = max(map(len, regime.batches))
    padded = []
    for batch in regime.batches:
        missing = length - len(batch)
        factors = np.full(len(batch), scale(len(batch)), dtype)
        # Any example fills a shorter batch, at a factor of zero.
        padded.append((np.pad(batch, (0, missing)), np.pad(factors, (0, missing))))
    return padded


# Nothing is donated: the caller keeps the models that it is shown.
@partial(nt.jit, static_argnums=(11, 12))
def _descend(
    params: PyTree,
    state: PyTree,
    start: PyTree,
    frozen: PyTree,
    x: Array,
    y: Array,
    batch: Array | None,
    factors: Array,
    learning_rate: float,
    momentum: float | None,
    ridge: float,
    of_example: Callable[..., Array],
    static: _Static,
) -> tuple[PyTree, PyTree]:
    """Parameters and the optimizer's state after one step."""
    if batch is not None:
        x, y = x[batch], y[batch]

    def loss(params):
        outputs = _apply(params, frozen, static, x)
        return jnp.sum(factors * jax.vmap(of_example)(outputs, y))

    # The penalty's gradient by hand: it joins the update in one pass over parameters.
    gradient = jtu.tree_map(
        lambda g, now, then: g + ridge * (now - then),
        jax.grad(loss)(params),
        params,
        start,
    )
    updates, state = optax.sgd(learning_rate, momentum).update(gradient, state)
    return optax.apply_updates(params, updates), state


@partial(nt.jit, static_argnums=3)
def _outputs(params: PyTree, frozen: PyTree, x: Array, static: _Static) -> Array:
    return _apply(params, frozen, static, x)


def _check_targets(
    objective: Objective, y: Array, outputs_shape: tuple[int, ...]
) -> None:
    # Otherwise targets of shape (n,) would broadcast against outputs of shape (n, 1).
    n_train = outputs_shape[:1]
    if y.shape[:1] != n_train or objective.is_squared and y.shape != outputs_shape:
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
