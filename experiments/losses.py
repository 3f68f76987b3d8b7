"""A loss on a data set: what a network and its kernel both descend."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import equintk as nt
from experiments.datasets import Dataset
from experiments.schema import ConfigError, Loss


@dataclass(frozen=True)
class Objective:
    """A loss of each example, with the targets as it takes them.

    Attributes:
        of_example: `of_example(f, y)`, one number for one output and its target.
        y_train: the targets, `(n_train, ...)`, of floats or of classes.
        y_test: those of the test examples.
        scale: the factor before the sum over so many examples.
        curvature: the largest second derivative of `of_example` by an output.
    """

    of_example: Callable[..., Any]
    y_train: np.ndarray
    y_test: np.ndarray
    scale: Callable[[int], float]
    curvature: float

    @property
    def c(self) -> float:
        """The factor before the sum over all training examples."""
        return self.scale(len(self.y_train))

    @property
    def is_squared(self) -> bool:
        """Whether it is c/2 * sum (f - y)^2, whose dynamics have closed forms."""
        return self.of_example is nt.predict.losses.squared

    def over_time(self, outputs: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The loss at each time, with the factor of the training set.

        Args:
            outputs: `(n_times, n, *out)`.
            y: their targets, `y_train` or `y_test`.
        """
        summed = _summed(self.of_example, outputs, like(y, outputs.dtype))
        return self.c * np.asarray(summed, np.float64)


def build(loss: Loss, dataset: Dataset) -> Objective:
    """The loss that a config names, on the data that it is given.

    Raises:
        ConfigError: for a cross-entropy without the classes that it needs.
    """
    losses = nt.predict.losses
    y_train, y_test = dataset.y_train, dataset.y_test
    if loss is Loss.softmax:
        _require(loss, dataset, "more than two classes", dataset.y_train.shape[1] > 1)
        classes = [np.argmax(y, axis=1) for y in (y_train, y_test)]
        return Objective(
            losses.softmax_cross_entropy, classes[0], classes[1], lambda n: 1 / n, 0.5
        )
    if loss is Loss.logistic:
        _require(loss, dataset, "two classes", dataset.y_train.shape[1] == 1)
        yes = [(y > 0).astype(float) for y in (y_train, y_test)]
        return Objective(losses.logistic, yes[0], yes[1], lambda n: 1 / n, 0.25)
    scale = lambda n: nt.loss_scale(loss.name, y_train[:1].repeat(n, axis=0))
    return Objective(losses.squared, y_train, y_test, scale, curvature=1.0)


def like(y: np.ndarray, dtype: Any) -> np.ndarray:
    """Targets in the precision of the outputs; classes stay integers."""
    return y if y.dtype.kind in "iu" else y.astype(dtype)


# Once for all runs: compiling takes longer than computing.
@partial(nt.jit, static_argnums=0)
def _summed(of_example: Callable[..., Array], outputs: Array, y: Array) -> Array:
    """The sum over examples at each time."""
    over_examples = jax.vmap(of_example)
    return jax.vmap(lambda f: jnp.sum(over_examples(f, y)))(outputs)


def _require(loss: Loss, dataset: Dataset, needed: str, given: bool) -> None:
    if dataset.classes is None:
        raise ConfigError(
            f"loss={loss.name} needs a data set of classes, but `{dataset.name}` is a "
            "regression. Type dataset=digits_3v8 or dataset=digits10, or loss=mean."
        )
    if not given:
        other = Loss.logistic if loss is Loss.softmax else Loss.softmax
        raise ConfigError(
            f"loss={loss.name} needs {needed}, but this data set has "
            f"{len(dataset.classes)}. Type loss={other.name}."
        )
