"""Losses of one example's output, for the dynamics that take any loss."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def squared(f: Any, y: Any) -> Float[Array, ""]:
    """½ * sum (f - y)^2 over the outputs.

    Args:
        f: the output, of any shape.
        y: the target, of the same shape.
    """
    _alike("squared", f, y)
    return jnp.sum((f - y) ** 2) / 2


def softmax_cross_entropy(f: Any, y: Any) -> Float[Array, ""]:
    """Minus the log probability of a class, in nats.

    Args:
        f: one logit for each class, `(classes,)`.
        y: the class, an integer from 0, or the probabilities of all, `(classes,)`.
    """
    if jnp.ndim(f) != 1 or jnp.shape(y) not in ((), jnp.shape(f)):
        raise ValueError(
            "`softmax_cross_entropy` needs one logit for each class, of shape (classes,"
            "), and an integer or as many probabilities as target, but one output has "
            f"shape {jnp.shape(f)} and one target {jnp.shape(y)}."
        )
    log_probabilities = jax.nn.log_softmax(f)
    if jnp.ndim(y):
        return -jnp.sum(y * log_probabilities)
    if not jnp.issubdtype(jnp.result_type(y), jnp.integer):
        raise ValueError(
            "`softmax_cross_entropy` needs integers as classes, but they are "
            f"{jnp.result_type(y)}. Type `y.astype(int)`."
        )
    # A class out of range makes NaN of the loss and its gradient, never another class.
    known = jnp.where((y >= 0) & (y < len(f)), 1.0, jnp.nan).astype(f.dtype)
    return -known * log_probabilities[jnp.clip(y, 0, len(f) - 1)]


def logistic(f: Any, y: Any) -> Float[Array, ""]:
    """Minus the log probability of yes or no, summed over the outputs, in nats.

    Args:
        f: the logit of yes, of any shape.
        y: 1 for yes and 0 for no, or a probability in between, of the same shape.
    """
    _alike("logistic", f, y)
    return jnp.sum(jax.nn.softplus(f) - y * f)


def huber(f: Any, y: Any, delta: Any = 1.0) -> Float[Array, ""]:
    """½ (f - y)^2 up to a distance of delta, then straight on; summed over outputs.

    Args:
        f: the output, of any shape.
        y: the target, of the same shape.
        delta: where a residual begins to count as an outlier.
    """
    _alike("huber", f, y)
    distance = jnp.abs(f - y)
    near = jnp.minimum(distance, delta)
    return jnp.sum(near * (distance - near / 2))


def _alike(name: str, f: Any, y: Any) -> None:
    """Refuse what would be spread over the outputs, or over the targets."""
    if jnp.shape(f) != jnp.shape(y):
        raise ValueError(
            f"`{name}` needs one target for each output, but one example has outputs "
            f"of shape {jnp.shape(f)} and targets of {jnp.shape(y)}. Reshape one of "
            "them; of classes type `jax.nn.one_hot(y, n_classes)`."
        )
