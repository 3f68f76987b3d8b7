"""A regime: a loss and how it is descended, for a network and for its kernel alike.

`experiments.training` takes its steps with a network; `predict` takes the same steps
with a kernel, which is exact for the linearised network.
"""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Array

import equintk as nt
from experiments import times
from experiments.losses import Objective
from experiments.schema import (
    Config,
    ConfigError,
    Dynamics,
    MinibatchConfig,
    MomentumConfig,
)
from experiments.trajectory import Trajectory


@dataclass(frozen=True)
class Regime:
    r"""What is descended, $L = c \sum_i \ell(f_i, y_i) + (r/2) |\theta - \theta_0|^2$.

    Attributes:
        objective: the loss and its targets.
        learning_rate: of one step, absolute.
        momentum: of heavy ball, as in `optax.sgd`.
        ridge: r, the pull towards the start.
        batches: the examples of each step, gone through again and again; none: all.
        flow: whether the kernel's prediction is in continuous time.
        stability_bound: the learning rate above which full-batch steps on the kernel
            diverge.
    """

    objective: Objective
    learning_rate: float
    momentum: float = 0.0
    ridge: float = 0.0
    batches: Sequence[np.ndarray] = field(default=(), repr=False)
    flow: bool = False
    stability_bound: float = float("inf")

    def predict(
        self,
        k_train_train: Array,
        k_test_train: Array,
        start: Trajectory,
    ) -> Trajectory:
        """Outputs that a kernel predicts, from the network's own at the start.

        Args:
            k_train_train: averaged over outputs or coupled.
            k_test_train: as `k_train_train`.
            start: whose first outputs to start from, and at whose steps to predict.
        """
        steps, f0_train, f0_test = start.steps, start.train[0], start.test[0]
        when = times.flow_time(steps, self.learning_rate) if self.flow else steps
        with _unstable_on_purpose(self.learning_rate > self.stability_bound):
            dynamics = self._dynamics(k_train_train)
            return Trajectory(
                steps,
                np.asarray(dynamics.train(when, f0_train)),
                np.asarray(dynamics.test(when, k_test_train, f0_train, f0_test)),
            )

    def _dynamics(self, kernel: Array) -> Any:
        """The object of `nt.predict` for this regime."""
        y, c = self.objective.y_train, self.objective.c
        steps = {"learning_rate": self.learning_rate, "momentum": self.momentum}
        if self.objective.is_squared and not len(self.batches):
            if self.flow:
                return nt.predict.GradientFlow(kernel, y, c=c, ridge=self.ridge)
            return nt.predict.GradientDescent(kernel, y, c=c, ridge=self.ridge, **steps)
        given = {"loss": self.objective.of_example, "ridge": self.ridge}
        if self.flow:
            return nt.predict.FunctionSpaceFlow(kernel, y, c=c, **given)
        if len(self.batches):
            c = [self.objective.scale(len(batch)) for batch in self.batches]
            given["batches"] = self.batches
        return nt.predict.FunctionSpaceDescent(kernel, y, c=c, **given, **steps)


def build(config: Config, objective: Objective, largest_eigenvalue: float) -> Regime:
    """The regime that a config asks for.

    Args:
        config: whose optimizer, ridge and dynamics count.
        objective: the loss.
        largest_eigenvalue: of the tangent kernel, which decides what is stable.
    """
    optimizer = config.optimizer
    momentum = optimizer.momentum if isinstance(optimizer, MomentumConfig) else 0.0
    curvature = objective.c * objective.curvature * largest_eigenvalue + config.ridge
    bound = 2 * (1 + momentum) / curvature if curvature > 0 else float("inf")
    return Regime(
        objective,
        times.learning_rate(optimizer, bound),
        momentum,
        config.ridge,
        batches(config, len(objective.y_train)),
        config.dynamics is Dynamics.flow,
        bound,
    )


def batches(config: Config, n_train: int) -> list[np.ndarray]:
    """The examples of each step, drawn by the run's seed; none: all of them.

    Every pass over the data has an order of its own, and its last batch is smaller
    where the examples do not divide.

    Raises:
        ConfigError: if a batch is larger than the training set.
    """
    if not isinstance(config.optimizer, MinibatchConfig):
        return []
    size, steps = config.optimizer.batch_size, config.time_grid.steps
    if size > n_train:
        raise ConfigError(
            f"optimizer.batch_size={size} is more than the {n_train} training examples."
            f" Type optimizer.batch_size={n_train} or less, or optimizer=sgd for all."
        )
    rng = np.random.default_rng([config.seed, 1])
    parts = np.arange(size, n_train, size)
    found: list[np.ndarray] = []
    while len(found) < steps:
        found += np.split(rng.permutation(n_train), parts)
    return found[:steps]


@contextlib.contextmanager
def _unstable_on_purpose(past_bound: bool) -> Iterator[None]:
    """Where the config asks for more than is stable, its tables say so already."""
    with warnings.catch_warnings():
        if past_bound:
            warnings.filterwarnings("ignore", message="`learning_rate` is")
        yield
