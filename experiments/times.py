"""Time in its three units: training steps, learning rate, and flow time."""

import numpy as np

from experiments.schema import (
    ConfigError,
    LearningRateUnit,
    OptimizerConfig,
    TimeGridConfig,
)


def build(config: TimeGridConfig) -> np.ndarray:
    """The training steps at which everything is measured.

    Returns:
        Strictly increasing integers from 0 to `config.steps`, both included, and at
        most `config.n_times` after 0: fewer where two would round to the same step.

    Raises:
        ConfigError: if there is no such time grid.
    """
    if config.name == "log":
        # Downwards, so that a single one is the last and not the first step.
        after_0 = np.geomspace(config.steps, 1, config.n_times)
    elif config.name == "linear":
        after_0 = np.linspace(config.steps, 0, config.n_times, endpoint=False)
    else:
        raise ConfigError(
            f"There is no time grid `{config.name}`. Type time_grid.name= one of log, "
            "linear."
        )
    return np.unique(np.rint([0, *after_0]).astype(int))


def learning_rate(config: OptimizerConfig, stability_bound: float) -> float:
    """The learning rate of one step of gradient descent.

    Args:
        config: an absolute learning rate, or a fraction of `stability_bound`.
        stability_bound: `2 / (c * largest eigenvalue of the kernel + ridge)`, beyond
            which gradient descent on the loss of `experiments.training` diverges.

    Raises:
        ConfigError: if a fraction is wanted of a bound that is no positive number.
    """
    if config.learning_rate_unit is LearningRateUnit.absolute:
        return float(config.learning_rate)
    if not (np.isfinite(stability_bound) and stability_bound > 0):
        raise ConfigError(
            f"The largest stable learning rate of this kernel is {stability_bound:g}, "
            f"so {config.learning_rate:g} times it is no learning rate. Give an "
            "absolute one: optimizer.learning_rate_unit=absolute and its value as "
            "optimizer.learning_rate."
        )
    return float(config.learning_rate * stability_bound)


def flow_time(steps: np.ndarray, learning_rate: float) -> np.ndarray:
    """Flow time, of the loss `c/2 * sum (f - y)^2`, after steps of gradient descent."""
    return learning_rate * np.asarray(steps, dtype=float)
